"""A fault anywhere in a turn: each caller is answered once, nothing is left behind, and it goes on.

The fault is raised in the line of the engine that the dice choose, while a shard has its turn.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

import service.engine
from service import errors
from service.engine.sessions.table.status import SessionStatus
from service.engine.shard import failures
from service.engine.shard.shard import Shard
from service.engine.stepping import StepResult
from service.engine.work.columns import Ints
from service.engine.work.work import Fork
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, PLAYS, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.test_everything_at_once import BOTH, NAMES, Play
from tests.service.engine.wires import RAW, ask
from tests.service.store.fake import FakeStore

ENGINE = Path(service.engine.__file__).parent
TESTS = str(Path(__file__).parents[2])
ROOMS = ("shard", "scheduler", "sessions", "work", "execution", "streams", "log")
DOORS: tuple[Callable[..., Any], ...] = (Shard._turn, Shard._done)
# What contains a fault is not itself at fault: one at a time.
CONTAINING = {
    "_contain", "_fail", "_give_up", "undo", "break_off", "but", "fail", "forget", "give_up",
    "not_handed_over",
    "put_fault", "unapplied", "wake", "withdraw",
}  # fmt: skip
# Their own lines hold no more than what they call.
NOT_COMMITTED = "it was not committed"  # a run that a fault was in the way of

HOLDING = {
    "Flow.answered", "Flow.take", "Flows.add", "SessionStream._answered", "SessionStream._take",
    "Shard._admit", "Shard._begin", "Shard._deliver", "Shard._done", "Shard._finish",
    "Shard._run_here", "Shard._take_inbox", "Shard._turn", "Shard.admit_inbox",
    "SessionStream.put", "SlotAllocator.release", "SlotManager._free", "SlotManager.finished",
    "SlotManager.return_spares", "Tick._deliver", "Tick._deliver_parts", "Tick._feed",
    "Tick.deliver", "Tick.execute", "_FrameRows.deliver", "_Singles.deliver", "hand_over",
}  # fmt: skip


@dataclass
class Injector:
    """Raises in the n-th line that a shard's turns come to.

    Attributes:
        lines: that were come to.
        where: it was raised.
    """

    at: int
    fault: type[Exception]
    lines: int = 0
    where: str = ""
    _depth: int = 0

    def __post_init__(self) -> None:
        self._doors = {door.__code__ for door in DOORS}
        self._files = {str(path) for room in ROOMS for path in (ENGINE / room).rglob("*.py")}

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code in self._doors:
            self._depth += 1
            return self._door
        if self._depth and code.co_filename in self._files and not self._is_containing(frame):
            return self._line
        return None

    def _door(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "return":
            self._depth -= 1
        return self._door

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise self.fault("injected")
        return self._line

    def _is_containing(self, frame: FrameType | None) -> bool:
        if frame is not None and frame.f_code.co_qualname in HOLDING:
            return True
        while frame is not None and frame.f_code not in self._doors:
            code = frame.f_code
            if code.co_name in CONTAINING or code.co_filename.startswith(TESTS):
                return True
            frame = frame.f_back
        return False


@contextmanager
def injected(at: int, fault: type[Exception]) -> Iterator[Injector]:
    injector = Injector(at, fault)
    before = sys.gettrace()
    sys.settrace(injector)
    try:
        yield injector
    finally:
        sys.settrace(before)


def device(slots: int) -> DecodingRunner:
    return DecodingRunner(slots)


async def play(
    seed: int, at: int, inline_run_s: float, *, calls: int, store: FakeStore | None = None
) -> Injector:
    """Clients of all kinds, and a fault: what they are told is right all the same."""
    fault = (MemoryError, RuntimeError)[at % 2]
    with capture_logs() as logs:
        async with fakes_on(device, store=store, inline_run_s=inline_run_s) as house:
            own = Play(house=house, noise=random.Random(seed))
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: own.problems.append(str(context)))
            with injected(at, fault) as found:
                await own.run(closes=True, calls=calls)
            await own.check_end()
            own.problems += await still_serves(house)
            # What a stream that lost a reply had pending goes with its connection, see `Flow`.
            own.problems = [p for p in own.problems if not p.startswith("flows that wait")]
    for log in logs:
        if log["log_level"] == "info":
            continue
        told = log.get("exc_info")
        if found.where and (told is True or isinstance(told, fault) or str(told) == NOT_COMMITTED):
            continue
        own.problems.append(str(log))
    assert not own.problems, "\n".join([found.where, *own.problems[:20]])
    return found


async def still_serves(house: Fakes) -> list[str]:
    """What is wrong with the next step of each session."""
    problems = []
    (runner,) = house.runners
    assert isinstance(runner, DecodingRunner)
    for name in NAMES:
        if name not in house.engine.directory.sessions:
            house.open(name)
        before = house.engine.directory.describe(name)
        if before.status is SessionStatus.LOST:
            await house.engine.reset(name)
        position = house.position(name)
        slot = house.find(name).slot
        read = runner.tokens[slot][:position] if position else []
        token = position % VOCABULARY
        steps = house.served.reader.tokens(np.array([token]))
        try:
            result: StepResult = await asyncio.wait_for(
                house.engine.step(name, steps, outputs=RAW, position=position), 5
            )
        except (errors.CellarError, TimeoutError) as error:
            problems.append(f"{name} steps no more: {error!r}")
            continue
        raw = result.answers.raw
        assert raw is not None
        if int(raw[0, 0]) != run_alone([*read, token])[-1]:
            problems.append(f"{name} has another's state")
    return problems


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_fault_in_any_line_of_a_turn_is_contained(inline_run_s: float) -> None:
    dice = random.Random(7)
    lines = (await play(0, 0, inline_run_s, calls=12)).lines
    assert lines > 1000, "hardly a line was seen"
    places = set()
    for _ in range(8):  # in the first third: how many lines there are is a matter of time
        places.add((await play(0, dice.randint(1, lines // 3), inline_run_s, calls=12)).where)
    assert len(places - {""}) > 2, "hardly a fault was raised"


@pytest.mark.long
@pytest.mark.timeout(900 * PLAYS)
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER, BOTH])
async def test_faults_in_many_lines_are_contained(inline_run_s: float) -> None:
    for seed in range(3 * PLAYS):
        dice = random.Random(seed)
        lines = (await play(seed, 0, inline_run_s, calls=25)).lines
        for _ in range(25):
            await play(seed, dice.randint(1, lines), inline_run_s, calls=25)


@pytest.mark.long
@pytest.mark.timeout(900 * PLAYS)
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_faults_in_many_lines_are_contained_where_there_is_a_log(inline_run_s: float) -> None:
    for seed in range(2 * PLAYS):
        dice = random.Random(seed)
        lines = (await play(seed, 0, inline_run_s, calls=25, store=FakeStore())).lines
        for _ in range(25):
            await play(seed, dice.randint(1, lines), inline_run_s, calls=25, store=FakeStore())


@pytest.mark.parametrize("place", ["stands", "hold", "tell"])
async def test_a_fault_where_a_row_is_refused_is_told_to_it(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fakes_on(device, store=FakeStore(), inline_run_s=WORKER) as house:
        (shard,) = house.served.shards
        for name in "ab":
            house.open(name)
        house.runners[0].gate.clear()
        ask(house, "a", [1], 0)
        await asyncio.sleep(0.01)
        rows = [ask(house, "b", [token], None)[0] for token in range(2)]
        await asyncio.sleep(0.01)
        house.engine.directory.close("b")
        faults = [MemoryError("of ours")]

        def fail_once(*given: Any, **named: Any) -> Any:
            if faults:
                raise faults.pop()
            return real(*given, **named)

        owners = {"stands": shard.table, "hold": shard.log, "tell": failures}
        owner: Any = owners[place]
        real = getattr(owner, place)
        monkeypatch.setattr(owner, place, fail_once)
        house.runners[0].gate.set()
        await house.settle()
        await house.engine.drain()
        await house.settle()
        assert not faults
        assert [row.answers for row in rows] == [1, 1]
        assert not leftovers(house.served)


@pytest.mark.parametrize("place", ["allocate_many", "release"])
async def test_spares_that_nobody_has_behind_a_fault_are_free_again(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault behind their loan, and one before they are given back, as the fork is refused."""
    async with fakes_on(device, inline_run_s=INLINE) as house:
        (shard,) = house.served.shards
        house.open("a")
        ask(house, "a", [1], None)
        await house.settle()
        spares, faults = shard.slots.spares, [MemoryError("of ours")]
        allocate, release = spares.allocate_many, spares.release

        def allocated(count: int) -> Ints:
            found = allocate(count)
            if place == "allocate_many" and faults:
                raise faults.pop()
            return found

        def released(*slots: int) -> None:
            if place == "release" and faults:
                raise faults.pop()
            release(*slots)

        monkeypatch.setattr(spares, "allocate_many", allocated)
        monkeypatch.setattr(spares, "release", released)
        elsewhere = np.array([7 if place == "release" else 1])
        fork = Fork(slots=np.array([house.find("a").slot]), expected=elsewhere, row_cost=3)
        with pytest.raises(errors.CellarError):
            await asyncio.wait_for(shard.perform(fork), 5)
        await house.settle()
        assert not faults
        assert not leftovers(house.served)


async def test_a_loan_that_fails_behind_its_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fakes_on(device, store=FakeStore(), inline_run_s=INLINE) as house:
        (shard,) = house.served.shards
        assert shard.log is not None
        flow = house.engine.flows.current
        others = await shard.borrow(shard.slots.spares.capacity, flow)
        loan = asyncio.create_task(shard.borrow(3, flow))
        await asyncio.sleep(0.01)

        async def fails(_: Ints) -> None:
            raise errors.StoreUnavailableError("for a test")

        monkeypatch.setattr(shard.log, "wait", fails)
        shard.slots.return_spares(others)
        with pytest.raises(errors.StoreUnavailableError):
            await asyncio.wait_for(loan, 5)
        assert not leftovers(house.served)
