"""Forecasts of models that read other values beside the one they predict."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.manifest import ValuesInput
from service import errors
from service.engine.calls.forecast import ForecastResult, forecast
from service.engine.served.inputs import InputReader
from service.engine.work.columns import Outputs
from service.engine.work.memory import Held, Key
from service.engine.work.sampling import Sampling, path_seeds
from tests.recurrent import series_case
from tests.service.engine.houses import INLINE, WORKER, Reals, leftovers, reals

CASE = series_case(features=True)
RAW = Outputs(raw=True)
PAST = ((100, 0.5, 1), (101, -0.3, 2), (99.5, 0.1, 3))  # Close, Volume, hour


def ahead(steps: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows of Volume and hour, (steps, 2)."""
    volume = np.random.default_rng(seed).normal(size=steps)
    return np.column_stack([volume, (4 + np.arange(steps)) % 24]).astype(np.float32)


async def step(house: Reals, name: str, *rows: Any, outputs: Outputs = RAW, seed: int = 0) -> Any:
    steps = house.served.reader.values(np.array(rows, np.float32).ravel())
    sampling = Sampling(seed=seed) if outputs.sample else None
    return (await house.engine.step(name, steps, outputs=outputs, sampling=sampling)).answers


async def opened(house: Reals, name: str) -> str:
    house.engine.open(house.served, name)
    await step(house, name, *PAST)
    return name


async def run(
    house: Reals, name: str, future: Any, horizon: int = 6, *, paths: int = 5
) -> ForecastResult:
    data = None if future is None else np.array(future, np.float32).ravel()
    return await forecast(
        house.engine, name, horizon=horizon, paths=paths, levels=(0.5,), seed=3, future=data
    )


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_paths_are_those_of_sessions_that_are_fed_by_hand(inline_run_s: float) -> None:
    async with reals(CASE, inline_run_s=inline_run_s, chunk_steps=4, max_batch=8) as house:
        await opened(house, "a")
        future = ahead(5)
        found = await run(house, "a", future)
        assert found.position == 3
        drawn = Outputs(sample=True)
        for path, seed in enumerate(path_seeds(3, 5).tolist()):
            name = f"by hand {path}"
            house.engine.open(house.served, name)
            answers = await step(house, name, *PAST, outputs=drawn, seed=seed)
            for beside, value in zip(future, found.paths[path], strict=False):
                assert answers.sampled_values[0] == value
                answers = await step(house, name, (value, *beside), outputs=drawn, seed=seed)
            assert answers.sampled_values[0] == found.paths[path, -1]


async def test_a_session_stays_as_it_is_and_repeats_its_paths() -> None:
    async with reals(CASE) as house:
        await opened(house, "a")
        await opened(house, "b")
        before = house.state("a")
        found = await run(house, "a", ahead(5))
        assert all(map(np.array_equal, before, house.state("a")))
        again = await run(house, "a", ahead(6))
        assert np.array_equal(again.paths, found.paths), "the last row is not read"
        other = ahead(5)
        other[2, 0] += 2
        changed = (await run(house, "a", other)).paths
        assert np.array_equal(changed[:, :3], found.paths[:, :3]), "it is read at its own step"
        assert (changed[:, 3:] != found.paths[:, 3:]).all()
        mine, theirs = [await step(house, name, (100, 0, 5)) for name in "ab"]
        assert np.array_equal(mine.raw, theirs.raw)
        assert (await run(house, "a", None, 1)).paths.shape == (5, 1)
        assert house.engine.memory.used == 0
        assert leftovers(house.served) == {}


async def test_forecasts_at_once_read_their_own_futures() -> None:
    async with reals(CASE, max_batch=16) as house:
        for name in "abc":
            await opened(house, name)
        futures = {"a": ahead(9, 1), "b": ahead(4, 2), "c": ahead(7, 3)}
        alone = {n: await run(house, n, f, len(f) + 1, paths=7) for n, f in futures.items()}
        together = await asyncio.gather(
            *(run(house, n, f, len(f) + 1, paths=7) for n, f in futures.items())
        )
        for name, result in zip(futures, together, strict=True):
            assert np.array_equal(result.paths, alone[name].paths)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_others_step_in_the_same_batches(inline_run_s: float) -> None:
    async with reals(CASE, inline_run_s=inline_run_s, max_batch=16) as house:
        await opened(house, "a")
        alone = await run(house, "a", ahead(12), 13, paths=9)
        for name in ("alone", "beside"):
            house.engine.open(house.served, name)
        rows = [(100 + n, n / 7, n) for n in range(20)]
        expected = [(await step(house, "alone", row)).raw for row in rows]
        running = asyncio.create_task(run(house, "a", ahead(12), 13, paths=9))
        found = [(await step(house, "beside", row)).raw for row in rows]
        assert all(map(np.array_equal, found, expected))
        assert np.array_equal((await running).paths, alone.paths)


@pytest.mark.parametrize(
    ("future", "horizon", "row", "message"),
    [
        (None, 6, None, "Volume, hour beside Close: a forecast of 6 steps takes 5 rows"),
        (ahead(4), 6, None, "takes 5 rows of them, or one more for the last step, not 4"),
        (ahead(7), 6, None, "not 7"),
        (ahead(5).ravel()[:-1], 6, None, r"9 values are no whole number of rows.*2 \(Volume, hour"),
        ([[0, 1], [np.nan, 1]], 3, 1, "future, row 1: Volume is nan: it must be finite"),
        ([[0, 1], [0, np.inf]], 2, 1, "future, row 1: hour is inf"),
        ([[0, 1]], 0, None, "horizon"),
    ],
)
async def test_a_bad_future_is_refused_by_name(
    future: Any, horizon: int, row: int | None, message: str
) -> None:
    async with reals(CASE) as house:
        await opened(house, "a")
        with pytest.raises(errors.BadInputError, match=message) as caught:
            await run(house, "a", future, horizon)
        assert caught.value.field == ("future" if horizon else "horizon")
        assert caught.value.row == row
        assert house.served.usage.spares == 0
        assert house.position("a") == 3


async def test_a_model_that_reads_one_value_has_no_future() -> None:
    async with reals(series_case()) as house:
        house.engine.open(house.served, "a")
        await step(house, "a", 100)
        with pytest.raises(errors.BadInputError, match="future: the model reads nothing beside Cl"):
            await run(house, "a", [[1.0]], 2)


async def test_a_future_counts_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.calls.forecast._COUNTED", 0)
    async with reals(CASE) as house:
        await opened(house, "a")
        held: list[int] = []
        count = house.engine.memory.count

        def spy(kind: Held, size: int, who: Key | None = None) -> None:
            held.append(size if kind is Held.REQUEST else 0)
            count(kind, size, who)

        monkeypatch.setattr(house.engine.memory, "count", spy)
        await run(house, "a", ahead(5), 6, paths=5)
        both = 2 * 4 * 5 * 6 + 4 * 5 * 2  # all drawn values, twice; the future
        assert held == [both, -both]


@given(
    rows=st.integers(0, 6),
    horizon=st.integers(1, 6),
    number=st.sampled_from([1.0, 0.0, -1.0, np.nan, -np.inf, 1e30]),
    place=st.integers(0, 11),
)
@settings(max_examples=200, deadline=None)
def test_a_reader_takes_what_fits_and_nothing_else(
    rows: int, horizon: int, number: float, place: int
) -> None:
    steps = ValuesInput(features=("y", "a", "b"), positive=("y", "b"))
    manifest = CASE.manifest.model_copy(update={"input": steps})
    reader = InputReader(manifest, largest=1e20)
    data = np.ones(2 * rows, np.float32)
    data[place : place + 1] = number
    wrong = place < len(data) and (not abs(number) < 1e20 or (place % 2 == 1 and number <= 0))
    fits = horizon - 1 <= rows <= horizon
    if wrong or not fits:
        with pytest.raises(errors.BadInputError) as caught:
            reader.future(data, horizon)
        assert caught.value.field == "future"
        assert caught.value.row == (place // 2 if fits else None)
        return
    found = reader.future(data, horizon)
    assert found is not None
    assert np.array_equal(found, data.reshape(-1, 2)[: horizon - 1])
