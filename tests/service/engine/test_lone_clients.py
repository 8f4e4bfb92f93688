"""Whoever sends lone steps may answer at once, close, go deaf or go away: nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from service import errors
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.engine.work.lones import LoneKind, LoneReplies
from service.engine.work.work import Caller, Delivery
from tests.service.engine.fakes import run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes
from tests.service.engine.wires import RAW

NAMES = ("a", "b", "c")


@pytest.fixture(params=[INLINE, WORKER], ids=["inline", "worker"])
async def open_house(request: pytest.FixtureRequest) -> AsyncIterator[Fakes]:
    async with fakes(inline_run_s=request.param) as house:
        for name in NAMES:
            house.open(name)
        yield house


async def test_a_client_that_answers_at_once_loses_no_step(open_house: Fakes) -> None:
    """It sends its next step while the reply to the last one is handed to it."""
    house = open_house
    answered: list[int] = []
    reader = house.served.reader

    def go_on(reply: Reply) -> None:
        assert reply.answers is not None
        assert reply.answers.raw is not None
        answered.append(int(reply.answers.raw[0, 0]))
        if len(answered) < 20:
            step = reader.one_token(len(answered))
            assert step is not None
            assert stream.submit_one(0, len(answered), step, number=len(answered))

    stream = SessionStream(house.engine, house.served, outputs=RAW, sampling=None, send=go_on)
    await stream.attachments.attach(["a"], np.array([0]), open_sessions=False)
    first = reader.one_token(0)
    assert first is not None
    assert stream.submit_one(0, 0, first, number=0)
    async with asyncio.timeout(5):
        while len(answered) < 20:  # noqa: ASYNC110 (the stream tells nobody else)
            await asyncio.sleep(0)
    assert answered == run_alone(list(range(20)))
    assert stream.pending_steps == 0


@pytest.mark.parametrize("rows", [1, 3])
async def test_a_client_that_closes_its_session_at_once_steps_only_once(
    open_house: Fakes, rows: int
) -> None:
    house = open_house
    replies: list[Reply] = []

    def close(reply: Reply) -> None:
        replies.append(reply)
        assert house.engine.close("a") == 1

    stream = SessionStream(house.engine, house.served, outputs=RAW, sampling=None, send=close)
    await stream.attachments.attach(NAMES, np.arange(3), open_sessions=False)
    step = house.served.reader.tokens(np.array([7] * rows))
    if rows > 1 or not stream.submit_one(0, 0, step, number=0):
        stream.submit(np.arange(rows), None, np.zeros(rows, np.int64), step, number=0)
    await house.settle()
    assert [reply.positions.tolist() for reply in replies] == [[1] * rows]
    assert not replies[0].refusals
    assert len(open_house.runners[0].batches) == 1
    assert stream.pending_steps == 0


@dataclass(eq=False)
class Client:
    """Whoever sends lone steps, and writes down what comes of them."""

    deaf: bool = False
    cancelled: bool = False
    sampling: None = None
    replies: list[int] = field(default_factory=list)  # states
    others: list[errors.CellarError | None] = field(default_factory=list)
    tracked: list[Caller] = field(default_factory=list)
    heard: list[Caller] = field(default_factory=list)  # of those

    def put(self, reply: int) -> None:
        if self.deaf:
            raise RuntimeError("nobody listens")
        self.replies.append(reply)

    def put_other(self, caller: Caller, channel: int, number: int, delivery: Delivery) -> None:
        self.heard.append(caller)
        self.others.append(delivery.error)

    def track(self, caller: Caller) -> None:
        self.tracked.append(caller)


def raw_of(rows: LoneReplies) -> list[int]:
    assert rows.answers.raw is not None
    return [int(raw) for raw in rows.answers.raw[:, 0]]


KIND = LoneKind(RAW, raw_of)


def send(house: Fakes, client: Client, name: str, token: int) -> None:
    session = house.engine.find(name)
    lones = session.shard.lones(KIND)
    assert lones is not None
    lones.rows.append((session.slot, token, -1, 0, 0, client))


async def test_a_client_that_cannot_be_answered_keeps_no_answer_from_the_others(
    open_house: Fakes,
) -> None:
    clients = [Client(), Client(deaf=True), Client()]
    for client, name in zip(clients, NAMES, strict=True):
        send(open_house, client, name, 3)
    await open_house.settle()
    for client in (clients[0], clients[2]):
        assert client.replies == run_alone([3])
        assert not client.others, "a second answer to the same step"
    assert [open_house.engine.describe(name).position for name in NAMES] == [1, 1, 1]


async def test_a_client_keeps_no_track_of_steps_that_were_answered(open_house: Fakes) -> None:
    """What is tracked and never heard of again would pile up as long as the stream lives."""
    gone, stays = Client(), Client()
    for token in range(5):
        for name in "ab":
            send(open_house, stays, name, token)
        send(open_house, gone, "c", token)
        gone.cancelled = True
        await open_house.settle()
    assert len(stays.replies) == 10
    assert len(gone.others) == 5
    for client in (gone, stays):
        assert set(client.tracked) == set(client.heard)
