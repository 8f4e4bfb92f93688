"""Generations of real models: company, decode runs and stop strings change nothing in them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import errors
from service.engine.calls.generate import Piece, generate
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.scheduler.feedback.call import FinishReason
from service.engine.served.inputs import CheckedSteps
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.recurrent import Case, char_case, series_case
from tests.service.engine.houses import INLINE, WORKER, Reals, reals

CASES = {"char": char_case("gru", layers=2, hidden=24), "series": series_case()}
WAYS = {
    "plain": Sampling(seed=3),
    "warm": Sampling(temperature=1.7, seed=2**63),
    "top-k": Sampling(top_k=5, seed=1),
    "top-p": Sampling(top_p=0.7, temperature=0.8, seed=7),
    "greedy": Sampling(temperature=0.0),
}


class Stepwise(CpuRunner):
    """A device without graphs that decode."""

    can_decode = False


@dataclass(kw_only=True)
class Result:
    """A generation from start to end."""

    pieces: list[Piece]
    error: errors.CellarError | None = None

    @property
    def steps(self) -> list[float]:
        return [step for piece in self.pieces for step in (*piece.tokens, *piece.values)]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def prompt_of(house: Reals, number: int) -> CheckedSteps:
    """Another one for each number."""
    noise = np.random.default_rng(number)
    if house.served.reader.has_tokens:
        return house.served.reader.tokens(noise.integers(0, 27, 3 + number % 5))
    return house.served.reader.values(
        (100 * np.exp(noise.normal(0, 0.02, 4 + number % 5))).astype(np.float32)
    )


def pieces_of(house: Reals, name: str, number: int, **options: Any) -> AsyncGenerator[Piece]:
    asked = {"prompt": prompt_of(house, number), "max_steps": 20, "sampling": Sampling(), **options}
    return generate(house.engine, name, **asked)


async def run(house: Reals, name: str, number: int, **options: Any) -> Result:
    """Open a session and generate from it."""
    house.engine.open(house.served, name)
    return await read(house, name, number, **options)


async def read(house: Reals, name: str, number: int, **options: Any) -> Result:
    """Generate to the end."""
    result = Result(pieces=[])
    try:
        async for piece in pieces_of(house, name, number, **options):
            result.pieces.append(piece)
    except errors.CellarError as error:
        result.error = error
    return result


def check_pieces(house: Reals, number: int, result: Result) -> None:
    """Positions add up, and texts are those of the tokens."""
    at = len(prompt_of(house, number))
    for piece in result.pieces:
        assert len(piece.tokens) + len(piece.values) > 0
        at += len(piece.tokens) + len(piece.values)
        assert piece.position == at
        assert piece.text == "".join(house.served.reader.symbols[token] for token in piece.tokens)
    assert [piece.finish_reason for piece in result.pieces[:-1]] == [None] * (
        len(result.pieces) - 1
    )


async def keep_stepping(house: Reals, count: int) -> None:
    """Step some sessions all the time, until cancelled."""
    names = [house.engine.open(house.served, f"busy{n}").id for n in range(count)]
    reader = house.served.reader
    step = (
        reader.tokens(np.array([1]))
        if reader.has_tokens
        else reader.values(np.array([100.0], np.float32))
    )

    async def one(name: str) -> None:
        while True:
            await house.engine.step(name, step, outputs=Outputs(raw=True))
            await asyncio.sleep(0)

    await asyncio.gather(*(one(name) for name in names))


def asked_of(number: int) -> dict[str, Any]:
    """All ways to draw, in turn and with seeds of their own, with all lengths from 1 to 50."""
    way = list(WAYS.values())[number % len(WAYS)]
    return {"sampling": replace(way, seed=way.seed ^ number), "max_steps": 1 + number * 7 % 50}


async def play(
    case: Case, numbers: Sequence[int], *, company: int = 0, together: bool = False, **settings: Any
) -> dict[int, tuple[Result, list[NDArray[np.float32]]]]:
    """Generate with each number; results and final states."""
    async with reals(case, **settings) as house:
        stepping = asyncio.create_task(keep_stepping(house, company))
        await asyncio.sleep(0)
        if together:
            found = await asyncio.gather(*(run(house, f"s{n}", n, **asked_of(n)) for n in numbers))
        else:
            found = [await run(house, f"s{n}", n, **asked_of(n)) for n in numbers]
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)
        for number, result in zip(numbers, found, strict=True):
            assert result.error is None
            check_pieces(house, number, result)
            assert len(result.steps) == asked_of(number)["max_steps"]
            assert result.pieces[-1].finish_reason is FinishReason.LENGTH
            position = len(prompt_of(house, number)) + len(result.steps)
            assert house.position(f"s{number}") == position
        return {
            number: (result, house.state(f"s{number}"))
            for number, result in zip(numbers, found, strict=True)
        }


def check_same(
    mine: dict[int, tuple[Result, list[NDArray[np.float32]]]],
    theirs: dict[int, tuple[Result, list[NDArray[np.float32]]]],
) -> None:
    assert mine.keys() == theirs.keys()
    for number, (result, states) in mine.items():
        other, expected = theirs[number]
        assert result.steps == other.steps, f"generation {number}"
        for state, wanted in zip(states, expected, strict=True):
            assert np.array_equal(state, wanted), f"generation {number}"


@pytest.mark.parametrize("name", CASES)
async def test_company_and_decode_runs_change_no_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, numbers = CASES[name], range(50)
    alone = await play(case, numbers)
    lengths = {len(result.steps) for result, _ in alone.values()}
    assert lengths == set(range(1, 51))
    if name == "series":
        longest = [max(result.steps) for result, _ in alone.values()]
        assert max(longest) > 1e36, "some run away, and are kept within what can be read"
    for settings in (
        {"together": True},
        {"company": 6},
        {"company": 6, "together": True, "inline_run_s": WORKER},
        {"together": True, "inline_run_s": INLINE, "shards": 2},
        {"together": True, "max_batch": 8},
    ):
        check_same(await play(case, numbers, **settings), alone)
    monkeypatch.setattr("tests.service.engine.houses.CpuRunner", Stepwise)
    check_same(await play(case, numbers), alone)
    check_same(await play(case, numbers, company=3, together=True), alone)


async def test_a_lone_generation_runs_several_steps_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the test above would compare single steps with single steps."""
    sizes = {}
    for runner in (CpuRunner, Stepwise):
        monkeypatch.setattr("tests.service.engine.houses.CpuRunner", runner)
        async with reals(CASES["char"], inline_run_s=INLINE) as house:
            await run(house, "a", 0, max_steps=48)
            sizes[runner] = house.engine.metrics.batches(house.served.label).size.count
    assert sizes[CpuRunner] <= 5
    assert sizes[Stepwise] >= 49


@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("name", CASES)
async def test_the_last_generated_step_can_be_sent_again(
    name: str, decodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not decodes:
        monkeypatch.setattr("tests.service.engine.houses.CpuRunner", Stepwise)
    wanted = Outputs(raw=True)
    async with reals(CASES[name]) as house:
        for number in range(0, 50, 3):
            result = await run(house, f"s{number}", number, **asked_of(number))
            position = result.pieces[-1].position
            last = np.array(result.steps[-1:])
            reader = house.served.reader
            steps = (
                reader.tokens(last.astype(np.int64))
                if reader.has_tokens
                else reader.values(last.astype(np.float32))
            )
            again = await house.engine.step(
                f"s{number}", steps, outputs=wanted, position=position - 1
            )
            assert (again.replayed, again.position) == (True, position)
            assert again.answers.raw is not None
            recalled = house.runners[0].recall(np.array([house.row(f"s{number}")]))
            assert np.array_equal(again.answers.raw, recalled)
            with pytest.raises(errors.PositionMismatchError):
                await house.engine.step(f"s{number}", steps, outputs=wanted, position=position - 2)


async def test_a_generation_goes_on_where_another_one_ended() -> None:
    async with reals(CASES["char"]) as house:
        whole = await run(house, "whole", 4, max_steps=47, sampling=WAYS["top-p"])
        parts = await run(house, "parts", 4, max_steps=13, sampling=WAYS["top-p"])
        for steps in (1, 17, 16):
            parts.pieces += [
                piece
                async for piece in pieces_of(
                    house, "parts", 4, prompt=None, max_steps=steps, sampling=WAYS["top-p"]
                )
            ]
        assert parts.text == whole.text


@pytest.mark.parametrize("company", [0, 4])
async def test_nothing_is_read_beyond_a_stop_string(company: int) -> None:
    async with reals(CASES["char"]) as house:
        stepping = asyncio.create_task(keep_stepping(house, company))
        await asyncio.sleep(0)
        for number in range(12):
            sampling = Sampling(seed=number)
            free = await run(house, f"free{number}", number, max_steps=60, sampling=sampling)
            for start, size in ((0, 1), (7, 2), (15, 3), (16, 4), (40, 5)):
                stop = free.text[start : start + size]
                end = free.text.index(stop) + size
                name = f"stop{number}-{start}"
                result = await run(
                    house, name, number, max_steps=60, sampling=sampling, stop=["\0", stop]
                )
                check_pieces(house, number, result)
                assert result.text == free.text[:end]
                assert result.pieces[-1].finish_reason is FinishReason.STOP
                position = len(prompt_of(house, number)) + end
                assert house.position(name) == position
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)


async def test_a_stop_string_at_the_very_end_counts_as_one() -> None:
    async with reals(CASES["char"]) as house:
        free = await run(house, "free", 0, max_steps=30)
        met = await run(house, "met", 0, max_steps=30, stop=[free.text[-4:]])
        missed = await run(house, "missed", 0, max_steps=30, stop=[free.text[-4:] + "x"])
    assert met.text == missed.text == free.text
    assert met.pieces[-1].finish_reason is FinishReason.STOP
    assert missed.pieces[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("shards", [1, 2])
async def test_three_hundred_generations_at_once_get_their_own_texts(shards: int) -> None:
    numbers = range(300)
    together = await play(CASES["char"], numbers, together=True, shards=shards)
    assert len({result.text for result, _ in together.values()}) > 200, "a mix-up would show"
    some = list(numbers)[::17]
    alone = await play(CASES["char"], some)
    check_same({number: together[number] for number in some}, alone)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_generation_that_is_given_up_stops_and_leaves_the_session_in_order(
    inline_run_s: float,
) -> None:
    async with reals(CASES["char"], inline_run_s=inline_run_s) as house:
        free = await run(house, "free", 0, max_steps=2000, sampling=Sampling(seed=5))
        for round_ in range(40):  # more than there are rows at first: they are used again
            name = f"s{round_}"
            house.engine.open(house.served, name)
            call = pieces_of(house, name, 0, max_steps=2000, sampling=Sampling(seed=5))
            seen = [await anext(call) for _ in range(1 + round_ % 3)]
            await call.aclose()
            await house.served.drained()
            for _ in range(20):
                await asyncio.sleep(0)
            position = house.position(name)
            assert position == seen[-1].position, "where it was written to"
            await asyncio.sleep(0.002)
            assert house.position(name) == position, "it has stopped"
            # The session goes on from there as if nobody had ever left.
            read = position - len(prompt_of(house, 0))
            more = [
                piece
                async for piece in pieces_of(
                    house, name, 0, prompt=None, max_steps=5, sampling=Sampling(seed=5)
                )
            ]
            assert "".join(piece.text for piece in more) == free.text[read : read + 5]
            house.engine.directory.close(name)
        assert house.served.usage.sessions == 1


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("company", [0, 3])
async def test_a_session_closed_while_it_generates_says_so_and_spares_the_next_tenant(
    inline_run_s: float, company: int
) -> None:
    async with reals(CASES["char"], inline_run_s=inline_run_s) as house:
        free = await run(house, "free", 1, max_steps=60)
        stepping = asyncio.create_task(keep_stepping(house, company))
        await asyncio.sleep(0)
        for turns in (0, 1, 2, 3, 5, 9, 20, 50):
            slot = house.engine.open(house.served, "old").slot
            closing = asyncio.create_task(read(house, "old", 0, max_steps=50_000))
            for _ in range(turns):
                await asyncio.sleep(0)
            house.engine.directory.close("old")
            tenants = [asyncio.create_task(run(house, f"new{n}", 1, max_steps=60)) for n in "ab"]
            result = await asyncio.wait_for(closing, 10)
            assert isinstance(result.error, errors.SessionClosedError)
            check_pieces(house, 0, result)
            tenants.append(asyncio.create_task(run(house, "newc", 1, max_steps=60)))
            for name, tenant in zip("abc", tenants, strict=True):
                assert (await tenant).text == free.text
                position = len(prompt_of(house, 1)) + 60
                assert house.position(f"new{name}") == position
            assert slot in {house.find(f"new{n}").slot for n in "abc"}
            for name in "abc":
                house.engine.directory.close(f"new{name}")
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_session_stepped_or_reset_while_it_generates_is_not_mixed_up(
    inline_run_s: float,
) -> None:
    async with reals(CASES["char"], inline_run_s=inline_run_s) as house:
        free = await run(house, "free", 2, max_steps=30)
        generating = asyncio.create_task(run(house, "a", 0, max_steps=50_000))
        await asyncio.sleep(0.01)
        info = await asyncio.wait_for(house.engine.reset("a"), 5)
        result = await asyncio.wait_for(generating, 5)
        assert isinstance(result.error, errors.StaleBranchError)
        check_pieces(house, 0, result)
        assert info.position == 0
        again = [piece async for piece in pieces_of(house, "a", 2, max_steps=30, position=0)]
        assert "".join(piece.text for piece in again) == free.text
