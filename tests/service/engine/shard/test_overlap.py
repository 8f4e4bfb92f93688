"""The worker has its next run before the last one ends, and nothing else changes by it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from service import errors
from service.engine.sessions.table.status import SessionStatus
from tests.service.engine.fakes import FakeRunner, run_alone
from tests.service.engine.houses import SMALL, WORKER, Fakes, fakes_on
from tests.service.engine.shard.deferred import DeferredRunner
from tests.service.engine.wires import Row, Wire, ask

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

    async def send(self, channels: range, *tokens: int) -> list[Row]:
        rows = self.wire.frame({channel: (list(tokens), -1) for channel in channels})
        await self.turn()
        return rows

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def until_begun(self, runs: int) -> None:
        """Wait for so many runs to be under way, on a device that can have them."""
        for _ in range(5000):
            if not isinstance(self.device, DeferredRunner) or len(self.device.held) == runs:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("they were not begun")

    def let_go(self, *, runs: int, one: bool = False, patience_s: float = 10.0) -> None:
        """Let the device run, and wait for so many runs with the event loop standing still."""
        self.device.lets_one_in = one
        self.device.gate.set()
        deadline = time.monotonic() + patience_s
        while len(self.device.batches) < runs and time.monotonic() < deadline:
            time.sleep(0.001)


@pytest.fixture(params=[FakeRunner, DeferredRunner])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    async with fakes_on(request.param, inline_run_s=WORKER) as house:
        for name in NAMES:
            house.open(name)
        house.runners[0].gate.clear()
        for shard in house.served.shards:
            shard._worker._usual_s = 1.0  # it looks for more while a run is under way
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


async def test_unary_steps_are_handed_ahead_once_enough_have_come(scene: Scene) -> None:
    rows = [ask(scene.house, NAMES[number], [1], None)[0] for number in FIRST]
    await scene.turn()
    for number in SECOND:  # each in a turn of its own
        rows.append(ask(scene.house, NAMES[number], [2], None)[0])
        await scene.turn()
    scene.let_go(runs=2)
    assert [len(batch) for batch in scene.device.batches] == [FULL, FULL]
    assert not any(row.answers for row in rows)
    await scene.house.settle()
    assert states(rows) == run_alone([1]) * FULL + run_alone([2]) * FULL


async def test_fewer_unary_steps_wait_for_the_event_loop(scene: Scene) -> None:
    rows = [ask(scene.house, NAMES[number], [1], None)[0] for number in FIRST]
    await scene.turn()
    for number in SECOND[:-1]:
        rows.append(ask(scene.house, NAMES[number], [2], None)[0])
        await scene.turn()
    scene.let_go(runs=2, patience_s=0.1)
    assert len(scene.device.batches) == 1
    await scene.house.settle()
    assert states(rows) == run_alone([1]) * FULL + run_alone([2]) * (FULL - 1)


async def test_the_third_waits_until_the_first_is_committed(scene: Scene) -> None:
    rows = [row for part in (FIRST, SECOND, THIRD) for row in await scene.send(part, 3)]
    scene.let_go(runs=3, patience_s=0.1)
    assert len(scene.device.batches) == 2
    await scene.house.settle()
    assert states(rows) == run_alone([3]) * len(NAMES)


async def test_the_third_is_handed_over_once_the_first_is_committed(scene: Scene) -> None:
    rows = [row for part in (FIRST, SECOND, THIRD) for row in await scene.send(part, 3)]
    scene.let_go(runs=1, one=True)
    for _ in range(5000):
        if rows[0].answers:
            break
        await asyncio.sleep(0.001)
    scene.let_go(runs=3)
    assert len(scene.device.batches) == 3, "the third waited for the event loop"
    await scene.house.settle()
    assert states(rows) == run_alone([3]) * len(NAMES)


async def test_rows_behind_those_that_run_do_not_make_a_batch_of_a_few_others(
    scene: Scene,
) -> None:
    first = await scene.send(FIRST, 1)
    others = await scene.send(SECOND[:1], 1)
    behind = await scene.send(FIRST, 2)
    others += [row for n in SECOND[1:] for row in await scene.send(range(n, n + 1), 1)]
    scene.let_go(runs=2)
    await scene.house.settle()
    assert [len(batch) for batch in scene.device.batches] == [FULL] * 3
    assert states(first + others) == run_alone([1]) * 2 * FULL
    assert states(behind) == run_alone([1, 2])[1:] * FULL


async def test_long_requests_do_not_go_ahead_of_a_step_that_comes_later(scene: Scene) -> None:
    long = list(range(20))
    rows = await scene.send(FIRST, *long)
    late = await scene.send(SECOND[:1], 1)
    scene.let_go(runs=1)
    await scene.house.settle()
    alone = scene.device.batches.index([scene.house.row(NAMES[SECOND[0]])])
    assert alone == 1, "it ran behind the first piece"
    assert states(rows) == run_alone(long)[-1:] * FULL
    assert states(late) == run_alone([1])


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
    await scene.until_begun(2)
    scene.let_go(runs=1)
    await scene.house.settle()
    for row in failed:
        assert isinstance(row.refusal, errors.StateLostError)
    assert states(others) == run_alone([2]) * FULL
    status = {name: scene.house.engine.directory.describe(name).status for name in NAMES}
    assert [status[NAMES[n]] for n in FIRST] == [SessionStatus.LOST] * FULL
    assert [status[NAMES[n]] for n in SECOND] == [SessionStatus.OPEN] * FULL


async def test_two_are_under_way_on_a_device_that_can(scene: Scene) -> None:
    rows = [*await scene.send(FIRST, 1), *await scene.send(SECOND, 2)]
    await scene.until_begun(2)
    scene.let_go(runs=2)
    await scene.house.settle()
    assert states(rows) == run_alone([1]) * FULL + run_alone([2]) * FULL
    await scene.until_begun(0)


async def test_a_device_that_dies_under_both_has_run_neither(scene: Scene) -> None:
    rows = [*await scene.send(FIRST, 1), *await scene.send(SECOND, 2)]
    await scene.until_begun(2)
    scene.device.lost = True
    scene.device.gate.set()
    await scene.house.settle()
    assert [type(row.refusal) for row in rows] == [errors.StateLostError] * 2 * FULL
    assert scene.house.engine.failed.is_set()


async def test_a_session_closed_while_its_step_waits_on_the_worker_keeps_its_slot(
    scene: Scene,
) -> None:
    engine = scene.house.engine
    await scene.send(FIRST, 1)
    rows = await scene.send(SECOND, 2)
    closed = NAMES[SECOND[0]]
    slot = engine.directory.find(closed).slot
    engine.directory.close(closed)
    held = [scene.house.open(f"new{number}") for number in range(8)]  # all that have room
    assert slot not in {engine.directory.find(name).slot for name in held}
    scene.let_go(runs=2)
    await scene.house.settle()
    assert states(rows) == run_alone([2]) * FULL, "it had begun: the step is answered"
    assert engine.directory.find(scene.house.open("later")).slot == slot


async def test_what_the_worker_has_is_applied_although_its_caller_goes(scene: Scene) -> None:
    await scene.send(FIRST, 1)
    asked = [ask(scene.house, NAMES[number], [2], 0) for number in SECOND]
    await scene.turn()
    for _, caller in asked:
        assert caller is not None
        caller.cancel()
    scene.let_go(runs=2)
    await scene.house.settle()
    positions = [scene.house.position(NAMES[number]) for number in SECOND]
    assert positions == [1] * FULL
    again, _ = ask(scene.house, NAMES[SECOND[0]], [2], 0)
    await scene.house.settle()
    assert again.reply == (1, run_alone([2])[0], True), "asked again, it is answered, not repeated"
