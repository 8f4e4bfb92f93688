"""The worker has its next run before the last one ends, and nothing else changes by it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from service import errors
from service.engine.session import SessionStatus
from tests.service.engine.fakes import FakeRunner, run_alone
from tests.service.engine.houses import SMALL, WORKER, Fakes, fakes
from tests.service.engine.wires import Row, Wire

FULL = int(SMALL["max_batch"])
NAMES = [f"s{number}" for number in range(3 * FULL)]
FIRST, SECOND, THIRD = (range(start, start + FULL) for start in range(0, 3 * FULL, FULL))


@dataclass(kw_only=True)
class Scene:
    """A house whose device stands still until it is let go, and a stream of three full batches."""

    house: Fakes
    wire: Wire

    @property
    def device(self) -> FakeRunner:
        return self.house.runners[0]

    async def send(self, channels: range, token: int) -> list[Row]:
        rows = self.wire.frame({channel: ([token], -1) for channel in channels})
        for _ in range(5):
            await asyncio.sleep(0)
        return rows

    def let_go(self, *, runs: int, patience_s: float = 10.0) -> None:
        """Let the device run, and wait for so many runs with the event loop standing still."""
        self.device.gate.set()
        deadline = time.monotonic() + patience_s
        while len(self.device.batches) < runs and time.monotonic() < deadline:
            time.sleep(0.001)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with fakes(inline_run_s=WORKER) as house:
        for name in NAMES:
            house.open(name)
        house.runners[0].gate.clear()
        yield Scene(house=house, wire=await Wire(house).attach(*NAMES))


def states(rows: list[Row]) -> list[int]:
    return [row.reply[1] for row in rows]


async def test_a_full_batch_runs_behind_another_without_the_event_loop(scene: Scene) -> None:
    rows = [*await scene.send(FIRST, 1), *await scene.send(SECOND, 2)]
    scene.let_go(runs=2)
    assert len(scene.device.batches) == 2, "the second waited for the event loop"
    assert not any(row.answers for row in rows)
    await scene.house.settle()
    assert states(rows) == run_alone([1]) * FULL + run_alone([2]) * FULL


async def test_the_third_waits_until_the_first_is_committed(scene: Scene) -> None:
    rows = [row for part in (FIRST, SECOND, THIRD) for row in await scene.send(part, 3)]
    scene.let_go(runs=3, patience_s=0.1)
    assert len(scene.device.batches) == 2
    await scene.house.settle()
    assert states(rows) == run_alone([3]) * len(NAMES)


async def test_a_few_rows_wait_for_more(scene: Scene) -> None:
    rows = [*await scene.send(FIRST, 1), *await scene.send(SECOND[:2], 2)]
    rows += await scene.send(THIRD[:2], 2)
    scene.let_go(runs=1)
    await scene.house.settle()
    assert [len(batch) for batch in scene.device.batches] == [FULL, 4]
    assert states(rows) == run_alone([1]) * FULL + run_alone([2]) * 4


async def test_the_next_steps_of_sessions_that_run_come_after_them(scene: Scene) -> None:
    rows = [await scene.send(FIRST, token) for token in (1, 2, 3)]
    scene.let_go(runs=1)
    await scene.house.settle()
    for number, found in enumerate(rows):
        assert states(found) == run_alone([1, 2, 3])[number : number + 1] * FULL


async def test_a_fault_in_the_first_loses_nothing_of_the_second(scene: Scene) -> None:
    scene.device.fail_next = True
    failed, others = await scene.send(FIRST, 1), await scene.send(SECOND, 2)
    scene.let_go(runs=1)
    await scene.house.settle()
    for row in failed:
        assert isinstance(row.refusal, errors.StateLostError)
    assert states(others) == run_alone([2]) * FULL
    status = {name: scene.house.engine.describe(name).status for name in NAMES}
    assert [status[NAMES[n]] for n in FIRST] == [SessionStatus.LOST] * FULL
    assert [status[NAMES[n]] for n in SECOND] == [SessionStatus.OPEN] * FULL


async def test_a_session_closed_while_its_step_waits_on_the_worker_keeps_its_slot(
    scene: Scene,
) -> None:
    engine = scene.house.engine
    await scene.send(FIRST, 1)
    rows = await scene.send(SECOND, 2)
    closed = NAMES[SECOND[0]]
    slot = engine.find(closed).slot
    engine.close(closed)
    held = [scene.house.open(f"new{number}") for number in range(8)]  # all that have room
    assert slot not in {engine.find(name).slot for name in held}
    scene.let_go(runs=2)
    await scene.house.settle()
    assert states(rows) == run_alone([2]) * FULL, "it had begun: the step is answered"
    assert engine.find(scene.house.open("later")).slot == slot
