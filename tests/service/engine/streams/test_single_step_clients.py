"""Whoever sends single steps may answer at once, close, go deaf or go away: nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import structlog

from service import errors
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
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

    def go_on(reply: Reply) -> None:
        assert reply.answers is not None
        assert reply.answers.raw is not None
        answered.append(int(reply.answers.raw[0, 0]))
        if len(answered) < 20:
            assert stream.submit_one(0, len(answered), len(answered), len(answered))

    stream = SessionStream(house.engine, house.served, outputs=RAW, sampling=None, send=go_on)
    await stream.attachments.attach(["a"], np.array([0]), open_sessions=False)
    assert stream.submit_one(0, 0, 0, 0)
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
        assert house.engine.directory.close("a") == 1

    stream = SessionStream(house.engine, house.served, outputs=RAW, sampling=None, send=close)
    await stream.attachments.attach(NAMES, np.arange(3), open_sessions=False)
    step = house.served.reader.tokens(np.array([7] * rows))
    if rows > 1 or not stream.submit_one(0, 0, 7, 0):
        stream.submit(np.arange(rows), None, np.zeros(rows, np.int64), step, number=0)
    await house.settle()
    assert [reply.positions.tolist() for reply in replies] == [[1] * rows]
    assert not replies[0].refusals
    assert len(open_house.runners[0].batches) == 1
    assert stream.pending_steps == 0


@dataclass(eq=False)
class Client:
    """A stream whose client may go deaf or away, and what it is sent."""

    stream: SessionStream = field(init=False)
    deaf: bool = False
    replies: list[int] = field(default_factory=list)  # states
    refusals: list[errors.CellarError] = field(default_factory=list)

    async def begin(self, house: Fakes) -> "Client":
        self.stream = SessionStream(
            house.engine, house.served, outputs=RAW, sampling=None, send=self._receive
        )
        await self.stream.attachments.attach(NAMES, np.arange(3), open_sessions=False)
        return self

    def send(self, name: str, token: int) -> None:
        assert self.stream.submit_one(NAMES.index(name), None, token, 0)

    def _receive(self, reply: Reply) -> None:
        if self.deaf:
            raise RuntimeError("nobody listens")
        self.refusals += [refusal.error for refusal in reply.refusals]
        if reply.answers is not None:
            assert reply.answers.raw is not None
            self.replies += [int(raw) for raw in reply.answers.raw[:, 0]]


async def test_a_client_that_cannot_be_answered_keeps_no_answer_from_the_others(
    open_house: Fakes,
) -> None:
    clients = [await Client(deaf=deaf).begin(open_house) for deaf in (False, True, False)]
    for client, name in zip(clients, NAMES, strict=True):
        client.send(name, 3)
    with structlog.testing.capture_logs():
        await open_house.settle()
    for client in (clients[0], clients[2]):
        assert client.replies == run_alone([3])
        assert not client.refusals, "a second answer to the same step"
    assert [open_house.position(name) for name in NAMES] == [1, 1, 1]


async def test_steps_of_a_client_that_goes_are_refused_and_those_of_others_are_not(
    open_house: Fakes,
) -> None:
    for token in range(5):
        gone, stays = await Client().begin(open_house), await Client().begin(open_house)
        for name in "ab":
            stays.send(name, token)
        gone.send("c", token)
        gone.stream.end()
        await open_house.settle()
        assert len(stays.replies) == 2
        assert [type(error) for error in gone.refusals] == [errors.CallerGoneError]
        assert gone.stream.pending_steps == stays.stream.pending_steps == 0
    assert open_house.position("c") == 0
