"""Replies tell what is on the disk by then."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from service.engine.streams.stream import reply_for_each
from service.engine.work.columns import Answers
from service.engine.work.replies import SingleReplies
from service.rpc.native import frame_encoder
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_streams import Stream, tokens

SOON_S = 0.4  # in which an interval ends, and is written, and told


async def open_session(wire: Wire, name: str) -> None:
    request = pb.OpenSessionRequest(model="letters", session_id=name)
    await wire.sessions.OpenSession(request)


async def step(wire: Wire, name: str, *ids: int, commit: bool = True) -> pb.StepResponse:
    request = pb.StepRequest(session_id=name, inputs=tokens(*ids), commit=commit)
    found: pb.StepResponse = await wire.sessions.Step(request)
    return found


def durable(reply: Any) -> int | None:
    """What a reply says of its session."""
    return reply.durable_position if reply.HasField("durable_position") else None


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
async def test_steps_and_pieces(repository: Path, tmp_path: Path, durability: str) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    async with serving(repository, store=store, durability=durability) as wire:
        await open_session(wire, "a")
        held = durability == "commit"
        assert durable(await step(wire, "a", 1)) == (1 if held else 0)
        after = durable(await step(wire, "a", 1, 2))
        assert after == 3 if held else after in (0, 1)  # what came before may be on the disk
        await asyncio.sleep(SOON_S)
        kept = 0 if durability == "none" else 3
        assert durable(await step(wire, "a", 4, commit=False)) == kept
        reply = await step(wire, "a", 4)
        assert (reply.position, durable(reply)) == (4, 4 if held else kept)
        request = pb.GenerateRequest(session_id="a", max_steps=3)
        pieces = [piece async for piece in wire.sessions.Generate(request)]
        found = [durable(piece) for piece in pieces]
        if held:
            assert found == [piece.position for piece in pieces]
        else:
            assert all(each is not None and kept <= each < 7 for each in found)
        await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id="a"))
        assert durable(await step(wire, "a", 1)) == (1 if held else 0)
    # Whatever it was, it has ended in good order.
    async with serving(repository, store=store, durability=durability) as wire:
        assert durable(await step(wire, "a", 1, commit=False)) == 1


async def test_without_a_store_nothing_is_said(wire: Wire) -> None:
    await open_session(wire, "a")
    assert durable(await step(wire, "a", 1)) is None
    stream = await Stream(wire).begin()
    await stream.attach([0], ["b"])
    await stream.send([0], inputs=tokens(1))
    reply = (await stream.read()).reply
    assert (reply.group, reply.durable_group) == (0, 0)


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
async def test_frames(repository: Path, tmp_path: Path, durability: str, rows: int) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    async with serving(repository, store=store, durability=durability) as wire:
        stream = Stream(wire)
        stream.start.tell_durable = True
        await stream.begin()
        channels = list(range(rows))
        await stream.attach(channels, [f"s{n}" for n in channels])
        for singly in (False, True):
            if singly:  # in a turn of the server, as many do together
                for channel in channels:
                    await stream.send([channel], inputs=tokens(1))
            else:
                await stream.send(channels, inputs=tokens(*([1] * rows)))
            left, group, told = rows, 0, 0
            while left:
                message = await stream.read()
                if message.WhichOneof("message") == "durable":
                    told = message.durable.group
                    continue
                reply = message.reply
                left -= len(reply.channels)
                assert reply.group >= group
                assert reply.durable_group >= told
                group, told = reply.group, reply.durable_group
            if durability == "none":
                assert (group, told) == (0, 0)
            elif durability == "commit":
                assert 0 < group <= told
            else:
                assert 0 < told < group
                while told < group:
                    message = await asyncio.wait_for(stream.read(), 5)
                    assert message.WhichOneof("message") == "durable"
                    assert message.durable.group > told
                    told = message.durable.group
        await asyncio.sleep(SOON_S)
        await stream.call.done_writing()
        assert not isinstance(await stream.call.read(), pb.StreamResponse), "nothing is left"


async def test_only_who_asks_is_told_later(repository: Path, tmp_path: Path) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    async with serving(repository, store=store, durability="interval") as wire:
        stream = await Stream(wire).begin()
        await stream.attach([0], ["a"])
        await stream.send([0], inputs=tokens(1))
        assert (await stream.read()).reply.group
        await asyncio.sleep(SOON_S)
        await stream.call.done_writing()
        assert not isinstance(await stream.call.read(), pb.StreamResponse)


def test_both_ways_to_encode_say_the_same() -> None:
    count = 9
    rows = SingleReplies(
        channels=list(range(count)),
        numbers=list(range(count)),
        positions=np.arange(count) + 1,
        answers=Answers({"argmax": np.arange(count, dtype=np.int32)}),
        groups=(2**40 + 1, 2**40),
    )
    at_once = [pb.StreamResponse.FromString(each) for each in frame_encoder.single_replies(rows)]
    single = [
        pb.StreamResponse.FromString(each)
        for reply in reply_for_each(rows)
        for each in frame_encoder.replies(reply, at_once=1)
    ]
    assert at_once == single
    assert {(each.reply.group, each.reply.durable_group) for each in single} == {rows.groups}
    message = pb.StreamResponse.FromString(frame_encoder.durable(7))
    assert message.durable.group == 7
    assert isinstance(at_once[0].reply.predictions, values_pb2.Predictions)
