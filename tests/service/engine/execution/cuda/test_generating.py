"""Generations on a device: several draws in one replay, or one by one, come to the same bits."""

import asyncio
from typing import Any

import numpy as np
import pytest

from service.engine.calls.forecast import forecast
from service.engine.execution.runtime import CPU, Place
from service.engine.work.columns import Outputs
from tests.service.engine.calls.test_generations import asked_of, run
from tests.service.engine.execution.cuda.bench import assert_near, case_of
from tests.service.engine.execution.cuda.test_crown import Device, make_device
from tests.service.engine.test_crown import stop

NUMBERS = range(12)


async def generated(device: Device, *, together: bool) -> list[list[float]]:
    """What each generation reads."""
    house: Any = device
    calls = [run(house, f"s{n}", n, **asked_of(n)) for n in NUMBERS]
    found = await asyncio.gather(*calls) if together else [await call for call in calls]
    assert not any(result.error for result in found)
    assert [len(result.steps) for result in found] == [asked_of(n)["max_steps"] for n in NUMBERS]
    return [result.steps for result in found]


@pytest.mark.parametrize("kind", ["char", "series"])
async def test_several_draws_at_once_are_those_of_single_steps(kind: str, place: Place) -> None:
    case = case_of(kind)
    devices = [
        make_device(case, place, deterministic=True, several=several) for several in (True, False)
    ]
    many, single = [await generated(device, together=False) for device in devices]
    assert many == single
    batches = [device.engine.metrics.batches(device.served.label).size for device in devices]
    assert 3 * batches[0].count < batches[1].count, "hardly any were drawn at once"
    slots = [devices[0].engine.directory.find(f"s{n}").slot for n in NUMBERS]
    states = [device.runner.arena.copied() for device in devices]
    for mine, theirs in zip(*states, strict=True):
        assert np.array_equal(mine[slots], theirs[slots])
    together = make_device(case, place, deterministic=True, several=True)
    assert await generated(together, together=True) == single
    for device in (*devices, together):
        await stop(device)  # type: ignore[arg-type]


async def test_paths_of_forecasts_are_drawn_at_once(place: Place) -> None:
    case, found = case_of("series"), []
    for several in (True, False):
        device = make_device(case, place, deterministic=True, several=several)
        device.engine.open(device.served, "s0")
        prices = device.served.reader.values(np.array([100, 101, 99], np.float32))
        await device.engine.step("s0", prices, outputs=Outputs())
        found.append(
            await forecast(device.engine, "s0", horizon=13, paths=9, levels=(0.1, 0.5, 0.9), seed=4)
        )
        await stop(device)  # type: ignore[arg-type]
    one, other = found
    assert_near(one.quantiles, other.quantiles, place)
    assert place != CPU or np.array_equal(one.quantiles, other.quantiles)
