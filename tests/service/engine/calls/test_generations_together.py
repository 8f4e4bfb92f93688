"""Generations that meet on one session, or wait behind somebody's long work."""

import asyncio
import gc

import numpy as np

from service import errors
from service.engine.calls.generate import generate
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Draws, Sampling
from tests.service.engine.conftest import House
from tests.service.engine.fakes import VOCABULARY, advance, run_alone
from tests.service.engine.test_everything_at_once import Paths

RAW = Outputs(raw=True)


async def generated(house: House, session: str, steps: int, seed: int = 0) -> list[int]:
    """The tokens of one generation without a prompt."""
    tokens: list[int] = []
    async for piece in generate(
        house.engine, session, prompt=None, max_steps=steps, sampling=Sampling(seed=seed)
    ):
        tokens += piece.tokens
    return tokens


async def fed(house: House, *sessions: str) -> None:
    """Open sessions that have read token 3."""
    for session in sessions:
        house.engine.open(house.served, session)
        await house.engine.step(session, house.served.reader.tokens(np.array([3])), outputs=RAW)


async def test_a_row_goes_on_that_stands_behind_one_of_its_session_which_cannot(
    house: House,
) -> None:
    """Nothing else is there that would wake the shard for it."""
    await fed(house, "a")
    session = house.engine.directory.find("a")
    shard = session.shard
    calls = [Paths(1), Paths(1)]
    for call, position in zip(calls, (7, 1), strict=True):
        shard.feedback.start(
            call,
            slots=np.array([session.slot]),
            branch=shard.on_branch(session.slot),
            position=position,
            first=np.array([5]),
            draws=Draws.repeated(Sampling(), 1),
            steps=3,
        )
    for call in calls:
        await asyncio.wait_for(call.done.wait(), 5)
    assert isinstance(calls[0].error, errors.PositionMismatchError)
    assert calls[1].error is None
    assert len(calls[1].read[0]) == 3
    assert house.engine.directory.describe("a").position == 4


async def test_of_two_generations_on_one_session_only_one_goes_on(house: House) -> None:
    await fed(house, "a", "b", "c")
    results = await asyncio.gather(
        generated(house, "a", 30),
        generated(house, "a", 30, seed=1),
        generated(house, "b", 30),
        generated(house, "c", 30),
        return_exceptions=True,
    )
    done = [result for result in results[:2] if isinstance(result, list)]
    read = house.engine.directory.describe("a").position - 1
    refused = [result for result in results[:2] if isinstance(result, Exception)]
    assert all(
        isinstance(error, errors.PositionMismatchError | errors.StepConflictError)
        for error in refused
    )
    assert all(isinstance(result, list) and len(result) == 30 for result in results[2:])
    state = run_alone([3])[-1]
    expected = []
    for _ in range(read):
        expected.append(state % VOCABULARY)
        state = advance(state, expected[-1])
    for tokens in done:  # equal draws are the same steps sent again
        assert tokens == expected[: len(tokens)]
    raw = await house.engine.step(
        "a", house.served.reader.tokens(np.array([5])), outputs=RAW, commit=False
    )
    assert raw.answers.raw is not None
    assert raw.answers.raw[0, 0] == advance(state, 5)


async def test_a_generation_behind_long_work_does_not_hold_up_the_others(house: House) -> None:
    await fed(house, "a", "b", "c")
    reader = house.served.reader
    slow = [
        asyncio.ensure_future(
            house.engine.step(name, reader.tokens(np.arange(190) % 60), outputs=RAW, commit=False)
        )
        for name in ("a", "b")
    ]
    stuck = [asyncio.create_task(generated(house, name, 5)) for name in ("a", "b")]
    assert len(await generated(house, "c", 20)) == 20
    assert not any(task.done() for task in stuck)
    await asyncio.gather(*slow)
    assert [len(tokens) for tokens in await asyncio.gather(*stuck)] == [5, 5]


async def test_steps_and_generations_leave_no_cycles_behind(house: House) -> None:
    await fed(house, "a", "b")
    await generated(house, "a", 50)
    gc.collect()
    gc.disable()
    try:
        await generated(house, "a", 50)
        for _ in range(20):
            await house.engine.step("b", house.served.reader.tokens(np.array([4])), outputs=RAW)
        assert gc.collect() < 20  # what asyncio leaves, not what a step does
    finally:
        gc.enable()
