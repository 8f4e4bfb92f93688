"""Who asks for many sessions that are out keeps nobody waiting, and nothing in memory."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.auth.principal import NOBODY, Grant, Principal
from service.engine.sessions.table.status import SessionTier
from service.engine.streams.frame import Reply
from service.engine.work.columns import Floats, Ints
from service.engine.work.work import Kind, Load
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import WORKER, Fakes, fakes_on
from tests.service.engine.quotas.test_engine import called_by
from tests.service.engine.scheduler.test_scheduler import (
    load_of,
    make_scheduler,
    make_table,
    save_of,
    steps_of,
)
from tests.service.engine.sessions.test_tiers import few, reached
from tests.service.engine.wires import Row, Wire

MANY = 200
ALICE, BOB = Principal("alice", Grant()), Principal("bob", Grant())


def room(rows: int, host_rows: int) -> dict[str, Any]:
    return {**few(rows, host_rows), "max_open_sessions": 1000, "max_pending_steps": 10_000}


async def opened(house: Fakes, who: Principal, *names: str) -> None:
    """Sessions of a principal that have read a step."""
    wire = Wire(house, caller=who.name, principal=who)
    with called_by(who):
        for name in names:
            house.open(name)
    await wire.attach(*names)
    rows = wire.frame({n: ([n % 60], 0) for n in range(len(names))})
    await house.settle()
    assert all(row.answers == 1 for row in rows)


@pytest.mark.parametrize(
    ("scanner", "other"),
    [(ALICE, BOB), (NOBODY, NOBODY)],
    ids=["two principals", "two connections"],
)
@pytest.mark.parametrize("single", [True, False], ids=["one step", "a frame"])
async def test_who_scans_keeps_nobody_waiting(
    scanner: Principal, other: Principal, single: bool
) -> None:
    """Alone in one queue, the other one would be answered behind all of the scanner's."""
    async with fakes_on(DecodingRunner, **room(6, 400), max_batch=8) as house:
        many = [f"a{n}" for n in range(MANY)]
        await opened(house, other, "b")
        await opened(house, scanner, *many)
        with called_by(other):
            assert house.engine.directory.describe("b").tier is SessionTier.HOST
        scan = await Wire(house, caller="a", principal=scanner).attach(*many)
        mine = await Wire(house, caller="b", principal=other).attach("b")
        rows = scan.frame({n: ([1], 1) for n in range(MANY)})
        await reached(lambda: any(row.answers for row in rows))
        own: Row = mine.single(0, 7, 1) if single else mine.frame({0: ([7], 1)})[0]
        before = sum(row.answers for row in rows)
        await reached(lambda: own.answers > 0)
        meanwhile = sum(row.answers for row in rows) - before
        await house.settle()
        assert own.reply == (2, run_alone([0, 7])[-1], False)
        for n, row in enumerate(rows):
            assert row.reply == (2, run_alone([n % 60, 1])[-1], False)
        assert before < MANY // 2, "it came in too late to tell"
        assert meanwhile < 40, "others of the scanner's went first"


async def test_who_waits_for_rows_holds_no_states() -> None:
    async with fakes_on(DecodingRunner, inline_run_s=WORKER, **room(4, 400)) as house:
        many = [f"a{n}" for n in range(MANY)]
        await opened(house, NOBODY, *many)
        (device,) = house.runners
        wire = await Wire(house).attach(*many)
        device.gate.clear()
        rows = wire.frame({n: ([1], 1) for n in range(MANY)})
        (shard,) = house.served.shards
        shard.admit_inbox()
        loads = [one for one in shard._scheduler._left if isinstance(one, Load)]
        assert sum(len(load.slots) for load in loads) >= MANY - 4
        assert not any(load.states for load in loads)
        device.gate.set()
        await house.settle()
        assert all(row.answers == 1 for row in rows)


async def test_those_that_come_back_together_are_answered_together() -> None:
    """A run, and a message, for each session would cost five times as much."""
    async with fakes_on(DecodingRunner, **room(64, 400), max_batch=64) as house:
        many = [f"a{n}" for n in range(MANY)]
        await opened(house, NOBODY, *many)
        wire = await Wire(house).attach(*many)
        sizes: list[int] = []
        receive = wire.stream._hand_over

        def heard(reply: Reply) -> None:
            sizes.append(len(reply.channels))
            receive(reply)

        wire.stream._hand_over = heard
        wire.frame({n: ([1], 1) for n in range(MANY)})
        await house.settle()
        assert sum(sizes) == MANY
        assert np.mean(sizes) > 3  # 6 leave their rows at once


class Counting(DecodingRunner):
    """Notes how many rows a run puts, or steps."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.put: list[int] = []

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        self.put.append(len(slots))
        super().write(slots, rows)


async def test_loads_are_cut_so_that_a_run_stays_short() -> None:
    async with fakes_on(Counting, **room(100, 400), max_batch=8) as house:
        (device,) = house.runners
        assert isinstance(device, Counting)
        many = [f"a{n}" for n in range(MANY)]
        await opened(house, NOBODY, *many)
        wire = await Wire(house).attach(*many)
        device.put.clear()
        wire.frame({n: ([1], 1) for n in range(MANY)})
        await house.settle()
        assert sum(device.put) >= 100
        assert max(device.put) <= 8


def test_single_steps_have_a_turn_behind_states_that_move() -> None:
    table = make_table()
    scheduler = make_scheduler(table=table)
    kinds: list[Kind] = []
    scheduler.submit(save_of([0, 1]))
    scheduler.submit(load_of([2, 3]))
    for slot in (4, 5, 6):
        scheduler.submit(steps_of([slot]))
    scheduler.submit(load_of([7]))
    scheduler._max_batch = 1  # so that one of each runs at a time
    while (batch := scheduler.schedule()) is not None:
        kinds.append(batch.kind)
        scheduler.complete(batch)
    moved = [number for number, kind in enumerate(kinds) if kind in (Kind.SAVE, Kind.LOAD)]
    assert kinds.count(Kind.STEPS) == 3
    for number in moved[:2]:  # as long as there are steps
        assert kinds[number + 1] is Kind.STEPS, kinds


async def test_a_caller_of_sessions_that_are_here_waits_for_none_that_come_back() -> None:
    async with fakes_on(DecodingRunner, **room(20, 400), max_batch=8) as house:
        many = [f"a{n}" for n in range(MANY)]
        await opened(house, NOBODY, "b")
        await opened(house, NOBODY, *many)
        scan = await Wire(house, caller="a").attach(*many)
        hot = await Wire(house, caller="b").attach("b")
        hot.single(0, 1)
        await house.settle()  # it is here
        rows = scan.frame({n: ([1], 1) for n in range(MANY)})
        await asyncio.sleep(0)
        own = hot.single(0, 2)
        await reached(lambda: own.answers > 0)
        assert sum(row.answers for row in rows) < MANY // 2
        await house.settle()
        assert own.reply == (3, run_alone([0, 1, 2])[-1], False)
