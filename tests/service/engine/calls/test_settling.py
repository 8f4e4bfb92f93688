"""A position that was told stays true: nothing that was taken before moves the session any more."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from service import errors
from service.engine.calls.generate import Piece, generate
from service.engine.streams.frame import Refusal, Reply
from service.engine.streams.stream import SessionStream
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes, fakes_on, leftovers
from tests.service.engine.wires import RAW, ask


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def still() -> AsyncIterator[Fakes]:
    """A house whose device stands still until it is let go, with a session ``a``."""
    async with fakes(inline_run_s=WORKER) as house:
        house.open("a")
        house.runners[0].gate.clear()
        yield house
        house.runners[0].gate.set()
        await house.settle()
        assert not leftovers(house.served)


async def test_a_position_is_told_once_what_runs_has_run(still: Fakes) -> None:
    step, _ = ask(still, "a", [1], None)
    await turns()
    chunk, _ = ask(still, "a", [1] * 9, None)
    for settle in (False, True):
        told = asyncio.create_task(still.engine.describe("a", settle=settle))
        await turns()
        assert not told.done(), "ten steps are on their way"
        if settle:
            still.runners[0].gate.set()
            assert (await told).position == 10
    assert (step.reply[0], chunk.reply[0]) == (1, 10)
    assert (await still.engine.describe("a")).position == 10


async def test_a_session_that_is_closed_tells_where_it_ended(still: Fakes) -> None:
    runs, _ = ask(still, "a", [1], None)
    await turns()
    waits, _ = ask(still, "a", [2], None)
    closing = asyncio.create_task(still.engine.close("a"))
    await turns()
    assert not closing.done()
    still.open("a")  # the id is free at once
    still.runners[0].gate.set()
    assert await closing == 1
    assert runs.reply[0] == 1
    assert isinstance(waits.refusal, errors.SessionClosedError)
    assert (await still.engine.describe("a")).position == 0
    assert await still.engine.close("a") == 0


async def test_a_row_refused_beside_steps_that_run_tells_where_they_lead(still: Fakes) -> None:
    refusals: list[Refusal] = []

    def take(reply: Reply) -> None:
        refusals.extend(reply.refusals)

    stream = SessionStream(still.engine, still.served, outputs=RAW, sampling=None, send=take)
    await stream.attachments.attach(["a"], np.array([0]), open_sessions=False)
    reader, channel = still.served.reader, np.array([0])
    stream.submit(channel, None, None, reader.tokens(np.array([1])))
    stream.submit(channel, np.array([3]), None, reader.tokens(np.array([1, 1, 1])))
    stream.submit(channel, None, None, reader.tokens(np.array([999])))
    stream.submit(channel, None, np.array([7]), reader.tokens(np.array([1])))
    await turns()
    assert stream.pending_steps != 0
    assert [type(each.error) for each in refusals] == [
        errors.BadInputError,
        errors.PositionMismatchError,
    ]
    assert [each.position for each in refusals] == [4, 4]
    still.runners[0].gate.set()
    assert (await still.engine.describe("a")).position == 4


async def read(house: Fakes, pieces: list[Piece], prompt: int) -> errors.CellarError | None:
    steps = house.served.reader.tokens(np.arange(prompt)) if prompt else None
    try:
        generation = generate(
            house.engine, "a", prompt=steps, max_steps=100_000, sampling=Sampling(seed=1)
        )
        async for piece in generation:
            pieces += [piece]
    except errors.CellarError as error:
        return error
    return None


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("prompt", [0, 1, 30])
async def test_a_settled_session_is_moved_by_no_generation(
    inline_run_s: float, prompt: int
) -> None:
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        (device,) = house.runners
        assert isinstance(device, DecodingRunner)
        device.longest_s = 0.0005
        for count in (*range(1, 12), 20, 35, 60, 200):
            house.open("a")
            ask(house, "a", [3], None)
            pieces: list[Piece] = []
            generating = asyncio.create_task(read(house, pieces, prompt))
            await turns(count)
            before = (await house.engine.describe("a")).branch if count % 2 else 0
            told = (await house.engine.describe("a", settle=True, branch=before)).position
            row, _ = ask(house, "a", [5], told)
            error = await asyncio.wait_for(generating, 5)
            assert isinstance(error, errors.CallerGoneError)
            await house.settle()
            drawn = [token for piece in pieces for token in piece.tokens]
            read_steps = [3, *range(prompt if told > 1 else 0), *drawn]
            assert told == len(read_steps), "a prompt is read whole or not at all"
            assert row.reply[:2] == (told + 1, run_alone([*read_steps, 5])[-1])
            assert house.position("a") == told + 1
            if pieces:
                assert told == pieces[-1].position
            await house.engine.close("a")
            assert not leftovers(house.served)


async def test_a_generation_that_waits_for_its_client_is_ended_too() -> None:
    async with fakes_on(DecodingRunner) as house:
        house.open("a")
        ask(house, "a", [3], None)
        unread = generate(
            house.engine, "a", prompt=None, max_steps=100_000, sampling=Sampling(seed=1)
        )
        await anext(unread)
        written = (await anext(unread)).position  # it is being written
        while not house.served.shards[0].feedback._rows["held"].any():  # noqa: ASYNC110
            await asyncio.sleep(0)
        told = (await house.engine.describe("a", settle=True)).position
        with pytest.raises(errors.CallerGoneError):
            await anext(unread)
        assert told == written == house.position("a")
        assert not leftovers(house.served)
