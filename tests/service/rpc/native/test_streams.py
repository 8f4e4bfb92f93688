"""The Stream call: attached channels, columnar frames, and rows that fail alone."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from cellar.v1 import errors_pb2, values_pb2
from cellar.v1 import session_pb2 as pb
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.engine.work.columns import Outputs
from service.engine.work.replies import SingleReplies
from service.errors import BadInputError
from service.rpc import status
from service.rpc.native import frame_encoder
from service.settings import fields
from tests.recurrent import SYMBOLS, char_case, torch_predictions
from tests.service.rpc.conftest import Wire
from tests.service.rpc.native.test_sessions import refused


class Stream:
    """A stream as a client sees it, on raw messages."""

    def __init__(self, wire: Wire, model: str = "letters", **outputs: Any) -> None:
        self.call = wire.sessions.Stream()
        self.frames: list[int] = []  # the number of each reply's frame
        self.start = pb.StreamStart(model=model, outputs=values_pb2.Outputs(**outputs))

    async def begin(self) -> "Stream":
        await self.call.write(pb.StreamRequest(start=self.start))
        assert (await self.read()).WhichOneof("message") == "started"
        return self

    async def read(self) -> pb.StreamResponse:
        response = await self.call.read()
        assert isinstance(response, pb.StreamResponse), "the stream ended"
        return response

    async def attach(
        self, channels: list[int], names: list[str], *, open: bool = True
    ) -> pb.StreamAttached:
        request = pb.StreamAttach(session_ids=names, channels=channels, open=open)
        await self.call.write(pb.StreamRequest(attach=request))
        return (await self.read()).attached

    async def send(self, channels: list[int], **fields: Any) -> None:
        await self.call.write(pb.StreamRequest(frame=pb.StreamFrame(channels=channels, **fields)))

    async def rows(self, count: int) -> tuple[dict[int, dict[str, Any]], dict[int, pb.RowError]]:
        """Gather that many rows, good and bad, whatever replies they come in."""
        good: dict[int, dict[str, Any]] = {}
        bad: dict[int, pb.RowError] = {}
        while len(good) + len(bad) < count:
            reply = (await self.read()).reply
            self.frames.append(reply.frame)
            counts = list(reply.counts) or [1] * len(reply.channels)
            raw = np.array(reply.predictions.raw, np.float32)
            raw = raw.reshape(sum(counts), -1) if len(raw) else raw
            stops = np.cumsum(counts)
            for channel, position, size, stop in zip(
                reply.channels, reply.positions, counts, stops, strict=True
            ):
                good[channel] = {
                    "position": position,
                    "raw": raw[stop - size : stop],
                    "replayed": channel in reply.replayed,
                }
            bad |= {error.channel: error for error in reply.errors}
        return good, bad


def tokens(*ids: int) -> values_pb2.Inputs:
    return values_pb2.Inputs(tokens=values_pb2.Tokens(ids=ids))


async def test_frames_equal_the_network(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    channels = list(range(48))
    attached = await stream.attach(channels, [f"s{n}" for n in channels])
    assert list(attached.channels) == channels
    assert set(attached.positions) == {0}
    noise = np.random.default_rng(0)
    sent = noise.integers(0, len(SYMBOLS), (48, 6))
    for t in range(6):
        await stream.send(channels, inputs=tokens(*sent[:, t]), positions=[t] * 48, number=70 + t)
    last: dict[int, dict[str, Any]] = {}
    for t in range(6):
        last, bad = await stream.rows(48)
        assert not bad
        assert {row["position"] for row in last.values()} == {t + 1}
        assert set(stream.frames) == {70 + t}
        stream.frames.clear()
    for n in channels:
        expected = torch_predictions(char_case(seed=1), sent[n])[0][-1]
        np.testing.assert_allclose(last[n]["raw"][0], expected, rtol=1e-4, atol=1e-5)
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF


async def test_many_steps_per_row_and_text(wire: Wire) -> None:
    stream = await Stream(wire, raw=True, every_step=True).begin()
    await stream.attach([5, 900], ["a", "b"])
    inputs = values_pb2.Inputs(text="onehello world")
    await stream.send([5, 900], steps=[3, 11], inputs=inputs, positions=[0, 0])
    good, bad = await stream.rows(2)
    assert not bad
    for channel, text in ((5, "one"), (900, "hello world")):
        ids = np.array([SYMBOLS.index(symbol) for symbol in text])
        expected = torch_predictions(char_case(seed=1), ids)[0]
        np.testing.assert_allclose(good[channel]["raw"], expected, rtol=1e-4, atol=1e-5)
    await stream.send([5, 900], steps=[3, 11], inputs=inputs, positions=[0, 0])
    again, bad = await stream.rows(2)
    assert not bad
    for channel in (5, 900):
        assert again[channel]["replayed"]
        assert np.array_equal(again[channel]["raw"], good[channel]["raw"])


async def test_a_wide_reply_comes_in_messages_that_fit(wire: Wire) -> None:
    channels = list(range(64))
    stream = await Stream(wire, raw=True, probabilities=True, top_k=27).begin()
    await stream.attach(channels, [f"s{n}" for n in channels])
    await stream.send(channels, inputs=tokens(*[3] * 64), number=5)
    good, bad = await stream.rows(64)
    assert not bad
    assert sorted(good) == channels
    assert len(stream.frames) > 1, "64 rows of 108 numbers are more than a message holds here"
    first = good[0]["raw"]
    assert all(np.array_equal(row["raw"], first) for row in good.values())


async def test_one_bad_row_fails_alone(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    await stream.attach([0, 1, 2, 3, 4], list("abcde"))
    await stream.send([0, 1, 2, 3, 4], inputs=tokens(1, 1, 1, 1, 1))
    await stream.rows(5)
    await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="e"))
    await stream.send(
        [0, 1, 2, 3, 4, 77],
        inputs=tokens(1, 999, 1, 2, 1, 1),
        positions=[1, 1, 9, 0, 1, 0],
    )
    good, bad = await stream.rows(6)
    assert list(good) == [0]
    reasons = {channel: error.reason for channel, error in bad.items()}
    assert reasons == {
        1: "BAD_INPUT",
        2: "POSITION_MISMATCH",
        3: "STEP_CONFLICT",
        4: "SESSION_CLOSED",
        77: "BAD_INPUT",
    }
    assert "token 999" in bad[1].message
    assert bad[2].position == 1
    assert bad[2].code == grpc.StatusCode.ABORTED.value[0]
    await stream.send([1, 2, 3], inputs=tokens(1, 1, 1), positions=[1, 1, 1])
    good, bad = await stream.rows(3)
    assert not bad, "the stream lives, and what was refused changed nothing"


@pytest.mark.usefixtures("several_models")
async def test_attach_refuses_sessions_one_by_one(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    await wire.sessions.OpenSession(pb.OpenSessionRequest(model="prices", session_id="p"))
    await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="l"))
    attached = await stream.attach([0, 1, 2], ["p", "l", "nobody"], open=False)
    reasons = {error.channel: error.reason for error in attached.errors}
    # l is open on letters/2, which this stream carries; p is of another model.
    assert reasons == {0: "BAD_INPUT", 2: "SESSION_UNKNOWN"}
    assert list(attached.channels) == [1]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"channels": [], "inputs": tokens(1)}, "no channel"),
        ({"channels": [0], "inputs": tokens(1, 2)}, "2 steps, the channels want 1"),
        ({"channels": [0, 0], "inputs": tokens(1, 2)}, "twice"),
        ({"channels": [0], "steps": [0], "inputs": tokens()}, "at least one step"),
        ({"channels": [0], "steps": [1, 1], "inputs": tokens(1, 1)}, "2 counts for 1"),
        ({"channels": [0], "positions": [1, 1], "inputs": tokens(1)}, "2 for 1"),
        ({"channels": [0], "steps": [1001], "inputs": tokens(*[1] * 1001)}, "more than 1000"),
        (
            {"channels": [0, 1, 2], "steps": [999, 999, 999], "inputs": tokens(*[1] * 2997)},
            "limit of 2000 per frame",
        ),
        ({"channels": [0]}, "nothing is set"),
    ],
)
async def test_a_frame_that_makes_no_sense_ends_the_stream(
    wire: Wire, fields: dict[str, Any], complaint: str
) -> None:
    stream = await Stream(wire).begin()
    await stream.attach([0, 1, 2], ["a", "b", "c"])
    await stream.call.write(pb.StreamRequest(frame=pb.StreamFrame(**fields)))
    with pytest.raises(grpc.aio.AioRpcError, match=complaint):
        await stream.read()
    info = (await wire.sessions.GetSession(pb.GetSessionRequest(session_id="a"))).session
    assert info.position == 0


async def test_one_session_on_two_channels_of_a_frame_is_refused(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    await stream.attach([0], ["a"])
    await stream.attach([1], ["a"], open=False)
    await stream.send([1], inputs=tokens(1))
    good, _ = await stream.rows(1)
    assert good[1]["position"] == 1, "one at a time, both channels lead to the session"
    await stream.send([0, 1], inputs=tokens(1, 1))
    await refused(stream.call.read(), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
    info = (await wire.sessions.GetSession(pb.GetSessionRequest(session_id="a"))).session
    assert info.position == 1


async def test_a_stream_must_be_started_once(wire: Wire) -> None:
    call = wire.sessions.Stream()
    await call.write(pb.StreamRequest(frame=pb.StreamFrame(channels=[0], inputs=tokens(1))))
    await refused(call.read(), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
    call = wire.sessions.Stream()
    await call.write(pb.StreamRequest(start=pb.StreamStart(model="nope")))
    await refused(call.read(), grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")


async def test_detached_channels_can_be_used_again(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    await stream.attach([3, 4], ["a", "b"])
    detach = pb.StreamDetach(channels=[3, 4, 9], close=True)
    await stream.call.write(pb.StreamRequest(detach=detach))
    assert list((await stream.read()).detached.channels) == [3, 4]
    attached = await stream.attach([3], ["a"])
    assert list(attached.channels) == [3], "closed with its channel, so the id is free again"


async def test_a_client_that_vanishes_leaves_its_sessions_open(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    await stream.attach([0], ["a"])
    await stream.send([0], inputs=tokens(1))
    await stream.rows(1)
    stream.call.cancel()
    await asyncio.sleep(0.05)
    other = await Stream(wire, raw=True).begin()
    attached = await other.attach([0], ["a"], open=False)
    assert list(attached.positions) == [1]


async def test_a_draining_server_answers_what_it_took_and_ends_the_stream(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    await stream.attach([0], ["a"])
    await stream.send([0], steps=[900], inputs=tokens(*[1] * 900))
    letters = wire.server.engine.registry.find("letters", 0)
    async with asyncio.timeout(20):
        while not letters.usage.pending_steps:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0)
    stopping = asyncio.create_task(wire.server.stop())
    good, bad = await stream.rows(1)
    assert good[0]["position"] == 900
    assert not bad
    await refused(stream.call.read(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await stopping


async def test_a_session_that_is_gone_fails_alone_when_its_slot_is_taken(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    await stream.attach([0], ["x"])
    await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="x"))
    await stream.attach([1], ["y"])
    await stream.send([0, 1], inputs=tokens(1, 1))
    good, bad = await stream.rows(2)
    assert list(good) == [1]
    assert {channel: error.reason for channel, error in bad.items()} == {0: "SESSION_CLOSED"}


@pytest.mark.parametrize("open_sessions", [True, False])
async def test_a_session_needs_a_name_to_be_attached(wire: Wire, open_sessions: bool) -> None:
    stream = await Stream(wire).begin()
    if not open_sessions:
        await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a"))
    attached = await stream.attach([0, 1], ["", "a"], open=open_sessions)
    assert {error.channel: error.reason for error in attached.errors} == {0: "BAD_INPUT"}
    assert list(attached.channels) == [1]
    assert wire.server.engine.registry.find("letters", 2).usage.sessions == 1


async def test_rows_refused_together_come_in_one_reply(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    channels = list(range(40))
    await stream.attach(channels, [f"s{n}" for n in channels])
    unread = [token if channel % 2 else 999 for channel, token in enumerate([1] * 40)]
    await stream.send(channels, inputs=tokens(*unread), positions=[7] * 40, number=3)
    reply = (await stream.read()).reply
    assert reply.frame == 3
    reasons = {error.channel: error.reason for error in reply.errors}
    assert reasons == {
        channel: "POSITION_MISMATCH" if channel % 2 else "BAD_INPUT" for channel in channels
    }


@pytest.mark.usefixtures("several_models")
async def test_a_big_attach_and_a_big_detach_let_others_have_their_turn(wire: Wire) -> None:
    engine = wire.server.engine
    served = engine.registry.find("prices", 1)
    stream = SessionStream(engine, served, outputs=Outputs(), sampling=None, send=print)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    taking = asyncio.create_task(take_turns())
    channels = np.arange(8000)
    await stream.attachments.attach([f"nobody{n}" for n in channels], channels, open_sessions=False)
    assert turns >= 8
    with pytest.raises(BadInputError, match="limit of 65536"):
        await stream.attachments.attach(["a"] * 65_537, np.arange(65_537), open_sessions=True)
    taking.cancel()


async def test_steps_sent_before_a_detach_are_applied_and_answered(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    await stream.attach([0], ["a"])
    await stream.send([0], steps=[900], inputs=tokens(*[1] * 900))
    await stream.call.write(pb.StreamRequest(detach=pb.StreamDetach(channels=[0])))
    assert list((await stream.read()).detached.channels) == [0], "it does not wait for the steps"
    good, bad = await stream.rows(1)
    assert (good[0]["position"], bad) == (900, {})
    info = (await wire.sessions.GetSession(pb.GetSessionRequest(session_id="a"))).session
    assert info.position == 900


async def test_steps_that_have_not_run_when_a_detach_closes_are_refused(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    await stream.attach([0], ["a"])
    await stream.send([0], steps=[900], inputs=tokens(*[1] * 900))
    await stream.call.write(pb.StreamRequest(detach=pb.StreamDetach(channels=[0], close=True)))
    assert list((await stream.read()).detached.channels) == [0]
    good, bad = await stream.rows(1)
    assert not good
    assert bad[0].reason == "SESSION_CLOSED"


async def test_a_client_that_does_not_read_is_not_read_from(wire: Wire) -> None:
    object.__setattr__(wire.server.settings, "max_stream_steps", 100)
    stream = await Stream(wire, probabilities=True, raw=True).begin()
    channels = list(range(50))
    await stream.attach(channels, [f"s{n}" for n in channels])
    inputs = tokens(*[1] * 50)
    for sent in range(100_000):  # 1 GB of replies
        frame = pb.StreamFrame(channels=channels, inputs=inputs, positions=[sent] * 50)
        writing = asyncio.ensure_future(stream.call.write(pb.StreamRequest(frame=frame)))
        await asyncio.wait((writing,), timeout=0.5)
        if not writing.done():
            break
    assert not writing.done(), "the client is not held back"
    applied = wire.server.engine.directory.describe("s0").position
    assert applied < 1000, "replies pile up in memory"
    for _ in range(applied):
        good, bad = await stream.rows(50)
        assert len(good) == 50
        assert not bad
    assert (await stream.rows(50))[0][0]["position"] == applied + 1, "and goes on where it was"


async def test_a_reply_that_cannot_be_made_ends_its_own_stream_only(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = frame_encoder.replies

    def fail(reply: Reply, **options: int) -> Iterator[bytes]:
        if reply.frame == 13:
            raise RuntimeError("no such reply")
        yield from make(reply, **options)

    monkeypatch.setattr(frame_encoder, "replies", fail)
    broken = await Stream(wire).begin()
    whole = await Stream(wire).begin()
    await broken.attach([0, 1], ["a", "c"])
    await whole.attach([0], ["b"])
    await broken.send([0, 1], inputs=tokens(1, 1), number=13)
    await whole.send([0], inputs=tokens(1), number=14)
    good, _ = await whole.rows(1)
    assert good[0]["position"] == 1
    await refused(broken.call.read(), grpc.StatusCode.INTERNAL, "INTERNAL")
    attached = await whole.attach([1], ["a"], open=False)
    assert list(attached.positions) == [1]


async def test_a_reply_that_cannot_be_made_ends_a_stream_that_was_read_to_its_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(reply: Reply, **options: int) -> Iterator[bytes]:
        raise RuntimeError("no such reply")

    engine = wire.server.engine
    stream = await Stream(wire).begin()
    await stream.attach([0, 1, 2], ["a", "b", "c"])
    long = engine.registry.find("letters", 0).reader.text("a" * 1000)
    busy = [  # so that all is read before the frames are answered, the single step last
        asyncio.ensure_future(engine.step(name, long, outputs=Outputs(argmax=True)))
        for name in "abababab" + "c" * 12
    ]
    await asyncio.sleep(0)
    monkeypatch.setattr(frame_encoder, "replies", fail)
    await stream.send([0, 1], inputs=tokens(1, 1))
    await stream.send([2], inputs=tokens(1))
    await stream.call.done_writing()
    async with asyncio.timeout(10):
        await refused(stream.call.read(), grpc.StatusCode.INTERNAL, "INTERNAL")
    await asyncio.gather(*busy)


async def test_single_replies_that_cannot_be_made_are_refused_and_streams_live(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, fails = frame_encoder.single_replies, True

    def may_fail(rows: SingleReplies) -> list[bytes]:
        if fails:
            raise RuntimeError(f"no replies to {len(rows.channels)}")
        return make(rows)

    monkeypatch.setattr(frame_encoder, "single_replies", may_fail)
    streams = [await Stream(wire).begin() for _ in range(8)]
    for number, stream in enumerate(streams):
        await stream.attach([0], [f"single {number}"])
        await stream.send([0], inputs=tokens(1))
    for stream in streams:
        _, refused_rows = await stream.rows(1)
        assert refused_rows[0].reason == "INTERNAL"
    fails = False
    for stream in streams:
        await stream.send([0], inputs=tokens(1))
    for stream in streams:
        good, _ = await stream.rows(1)
        assert good[0]["position"] == 2


PART = 2048
"""Bytes that a client takes, for these tests: with them, more than one message is needed soon."""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "STOCK_MESSAGE_BYTES", PART)


async def answers(stream: Stream, kind: str, rows: int) -> list[Any]:
    """The messages that answer so many rows."""
    found: list[Any] = []
    while sum(len(each.channels) + len(getattr(each, "errors", ())) for each in found) < rows:
        response = await stream.read()
        assert response.ByteSize() <= PART
        assert response.WhichOneof("message") == kind
        found.append(getattr(response, kind))
    return found


@pytest.mark.usefixtures("parts")
async def test_the_answer_to_an_attach_is_what_a_stock_client_takes(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    long_ids = [f"{number:05d}" + "x" * 120 for number in range(100)]
    request = pb.StreamAttach(session_ids=long_ids, channels=range(100), open=True)
    await stream.call.write(pb.StreamRequest(attach=request))
    told = await answers(stream, "attached", 100)  # 64 of them are opened
    assert [list(each.channels) for each in told if each.channels] == [list(range(64))]
    refusals = [error for each in told for error in each.errors]
    assert [error.channel for error in refusals] == list(range(64, 100))
    assert {error.reason for error in refusals} == {"SESSION_LIMIT"}
    assert all("64 session slots" in error.message for error in refusals)
    assert len(told) > 2


@pytest.mark.usefixtures("parts")
async def test_an_attach_that_fits_is_answered_by_one_message(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    attached = await stream.attach([0, 1, 2], ["a", "b", "a"])
    assert (list(attached.channels), [error.channel for error in attached.errors]) == ([0, 1], [2])


async def test_the_answer_to_a_detach_is_what_a_stock_client_takes(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "STOCK_MESSAGE_BYTES", 128)
    stream = await Stream(wire).begin()
    await stream.attach(list(range(40)), [f"s{number}" for number in range(40)])
    for channels in ([77], list(range(40))):
        detach = pb.StreamDetach(channels=channels)
        await stream.call.write(pb.StreamRequest(detach=detach))
    assert list((await stream.read()).detached.channels) == [], "even nothing has its answer"
    told: list[int] = []
    while len(told) < 40:
        response = await stream.read()
        assert response.ByteSize() <= 128
        told += response.detached.channels
    assert told == list(range(40))


@pytest.mark.usefixtures("parts")
async def test_the_replies_to_a_frame_are_what_a_stock_client_takes(wire: Wire) -> None:
    stream = await Stream(wire, raw=True, probabilities=True).begin()
    channels = list(range(60))
    await stream.attach(channels, [f"s{number}" for number in channels])
    await stream.send(channels, inputs=tokens(*[1] * 60))
    assert len(await answers(stream, "reply", 60)) > 2
    await stream.send(channels, inputs=tokens(*[1] * 60), positions=[7] * 60)
    refused_rows = await answers(stream, "reply", 60)
    assert len(refused_rows) > 2
    assert {error.reason for each in refused_rows for error in each.errors} == {"POSITION_MISMATCH"}


def test_no_row_error_is_longer_than_it_is_taken_for() -> None:
    worst = pb.RowError(
        channel=2**20,
        code=16,
        reason=max(errors_pb2.ErrorReason.keys(), key=len).removeprefix("ERROR_REASON_"),
        message="x" * status.ROW_BYTES,
        position=2**63,
    )
    reply = pb.StreamResponse(reply=pb.StreamReply(errors=[worst] * 10))
    assert frame_encoder.row_errors_in(reply.ByteSize(), at_most=99) <= 10
