"""Forecasts against everything else that goes on."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from service import errors
from service.engine.calls.forecast import ForecastResult, forecast
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.work.columns import Answers, Floats, Ints, Outputs
from service.engine.work.sampling import Draws
from tests.recurrent import series_case
from tests.service.engine.houses import INLINE, WORKER, reals
from tests.service.engine.test_crown import Device, make_device, stop

PATHS = 600  # two of these do not fit into the 1024 spare slots


class HeadsFail(CpuRunner):
    """A device that steps, and cannot draw."""

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        if outputs.sample:
            raise RuntimeError("no memory")
        return super().answer(predictions, outputs, draws, positions)


async def open_session(device: Device, name: str, *values: float) -> None:
    device.engine.open(device.served, name)
    await step(device, name, *values)


async def step(device: Device, name: str, *values: float) -> NDArray[np.float32]:
    steps = device.served.reader.values(np.array(values, np.float32))
    result = await device.engine.step(name, steps, outputs=Outputs(raw=True))
    assert result.answers.raw is not None
    return result.answers.raw


async def run(device: Device, name: str, horizon: int = 5, *, branch: int = 0) -> ForecastResult:
    return await forecast(
        device.engine,
        name,
        horizon=horizon,
        paths=PATHS,
        levels=(0.1, 0.5, 0.9),
        seed=3,
        branch=branch,
    )


async def test_forecasts_that_do_not_fit_together_wait_for_each_other() -> None:
    device = make_device(series_case())
    for name in "abcd":
        await open_session(device, name, 100, 101, 102)
    together = await asyncio.wait_for(asyncio.gather(*(run(device, n) for n in "abcd")), 20)
    assert device.served.usage.spares == 0
    alone = await run(device, "a")
    for result in together:
        assert np.array_equal(result.paths, alone.paths), "same history, same seed"
    await stop(device)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_forecast_behind_a_reset_is_of_no_branch(inline_run_s: float) -> None:
    device = make_device(series_case(), inline_run_s=inline_run_s)
    await open_session(device, "a", 100, 101)
    branch = device.engine.directory.describe("a").branch
    assert (await run(device, "a", branch=branch)).position == 2
    reset = asyncio.create_task(device.engine.reset("a"))
    behind = asyncio.create_task(run(device, "a", branch=branch))
    with pytest.raises(errors.StaleBranchError):
        await behind
    await reset
    with pytest.raises(errors.StaleBranchError):
        await run(device, "a", branch=branch)
    assert device.served.usage.spares == 0
    await stop(device)


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8, 13, 30])
async def test_a_cancelled_forecast_gives_its_spare_slots_back(ticks: int) -> None:
    device = make_device(series_case(), inline_run_s=0.0 if ticks % 2 else 1.0)
    await open_session(device, "a", 100, 101)
    task = asyncio.create_task(run(device, "a", horizon=50))
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await device.served.drained()
    assert device.served.usage.spares == 0
    await stop(device)


async def test_a_session_steps_on_while_it_is_forecast() -> None:
    device = make_device(series_case())
    await open_session(device, "a", 100, 101)
    await open_session(device, "b", 100, 101)
    expected = await run(device, "b", horizon=20)
    running = asyncio.create_task(run(device, "a", horizon=20))
    await asyncio.sleep(0.005)
    for value in (102, 99, 103):
        mine = await step(device, "a", value)
    assert np.array_equal((await running).paths, expected.paths)
    for value in (102, 99, 103):
        theirs = await step(device, "b", value)
    assert np.array_equal(mine, theirs)
    await stop(device)


async def test_paths_that_run_away_stay_finite() -> None:
    device = make_device(series_case())  # untrained: its returns compound without bound
    await open_session(device, "a", 100, 101)
    result = await run(device, "a", horizon=120)
    assert np.isfinite(result.paths).all()
    assert (result.paths > 0).all()
    assert (np.diff(result.quantiles, axis=1) >= 0).all()
    await stop(device)


async def test_a_session_closed_while_its_forecast_waits_is_never_another_one() -> None:
    device = make_device(series_case())
    await open_session(device, "a", 100, 101)
    busy = asyncio.create_task(step(device, "a", *[100.0] * 200))
    waiting = asyncio.create_task(run(device, "a"))
    await asyncio.sleep(0)
    device.engine.directory.close("a")
    for name in "xyz":  # one of them gets the slot
        device.engine.open(device.served, name)
    for task in (busy, waiting):
        with pytest.raises(errors.SessionClosedError):
            await task
    assert device.served.usage.spares == 0
    await stop(device)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_copies_whose_first_draw_fails_are_given_back(
    inline_run_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.service.engine.houses.CpuRunner", HeadsFail)
    async with reals(series_case(), inline_run_s=inline_run_s) as house:
        house.engine.open(house.served, "a")
        steps = house.served.reader.values(np.array([100, 101], np.float32))
        await house.engine.step("a", steps, outputs=Outputs(raw=True))
        for _ in range(3):  # of 600 copies each, out of 1024 slots
            with capture_logs() as logs, pytest.raises(errors.InternalError):
                await forecast(house.engine, "a", horizon=3, paths=PATHS, levels=(0.5,))
            assert [log["event"] for log in logs] == ["answer failed"]
            assert house.served.usage.spares == 0
        assert house.position("a") == 2
