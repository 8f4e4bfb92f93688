"""States that cannot come stay where they were, and nothing runs without them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.table.status import SessionStatus, SessionTier
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.restoring.returns import Return
from service.engine.shard.shard import Shard
from service.engine.work.columns import Floats, Ints
from service.engine.work.work import Load, Work
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on
from tests.service.engine.sessions.test_tiers import few, reached, step
from tests.service.engine.shard.restoring.test_stowed import SlowStore, stowed

pytestmark = pytest.mark.timeout(20)


class Meddled(DecodingRunner):
    """Fails to take states while it is told so, and calls somebody as it does."""

    refuses = False

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.loop = asyncio.get_running_loop()
        self.meanwhile: Any = lambda: None

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        if self.refuses:
            asyncio.run_coroutine_threadsafe(self._call(), self.loop).result()
            raise RuntimeError("it takes no states")
        super().write(slots, rows)

    async def _call(self) -> None:
        self.meanwhile()
        await asyncio.sleep(0.01)  # what that asks is in the queue


def house_on(store: SlowStore | None, host_rows: int, **settings: Any) -> Any:
    more: dict[str, Any] = {} if store is None else {"durability": "none"}
    return fakes_on(
        Meddled, store=store, inline_run_s=WORKER, **few(2, host_rows), **more, **settings
    )


async def one_out(house: Fakes, tier: SessionTier) -> int:
    """Open sessions; one of them is out in the end."""
    for n in range(5):
        house.open(f"s{n}")
        await step(house, f"s{n}", n, 7)
    told = house.engine.directory.describe
    found: list[int] = []

    def is_out() -> bool:
        found[:] = [n for n in range(5) if told(f"s{n}").tier is tier]
        return bool(found)

    await reached(is_out)
    return found[0]


@pytest.mark.parametrize("tier", [SessionTier.HOST, SessionTier.STORE])
@pytest.mark.parametrize("count", [1, 3])
async def test_who_asks_as_a_load_fails_reads_no_state_but_his_own(
    tier: SessionTier, count: int
) -> None:
    """It is asked for again before anybody has heard that it could not come."""
    in_host = tier is SessionTier.HOST
    async with house_on(None if in_host else SlowStore(), 9 if in_host else 0) as house:
        (device,) = house.runners
        assert isinstance(device, Meddled)
        n = await one_out(house, tier)
        calls: list[asyncio.Task[Any]] = []

        def asks(*tokens: int) -> None:
            calls.append(asyncio.create_task(step(house, f"s{n}", *tokens)))

        device.meanwhile = lambda: asks(3)
        device.refuses = True
        asks(*[9] * count)  # it waits behind the load that fails
        await reached(lambda: len(calls) > 1)
        device.refuses = False
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        for own in found[1:]:
            if not isinstance(own, errors.CellarError):
                assert not isinstance(own, BaseException)
                assert own[0, 0] == run_alone([n, 7, 3])[-1]
        assert isinstance(found[0], errors.CellarError)
        info = await house.engine.describe(f"s{n}")
        assert info.status is SessionStatus.OPEN
        read = [n, 7, *([3] if info.position == 3 else [])]
        again = await step(house, f"s{n}", 5, position=len(read))
        assert again[0, 0] == run_alone([*read, 5])[-1]


async def test_a_reset_behind_a_load_that_fails_can_be_asked_again() -> None:
    async with house_on(SlowStore(), 0) as house:
        (device,) = house.runners
        assert isinstance(device, Meddled)
        n = await one_out(house, SessionTier.STORE)
        device.refuses = True
        with pytest.raises(errors.StoreUnavailableError):
            await house.engine.reset(f"s{n}")
        device.refuses = False
        await house.engine.reset(f"s{n}")
        assert (await step(house, f"s{n}", 5, position=0))[0, 0] == run_alone([5])[-1]


@pytest.mark.parametrize("tier", [SessionTier.HOST, SessionTier.STORE])
async def test_a_slot_whose_session_ends_on_its_way_is_not_out(tier: SessionTier) -> None:
    in_host = tier is SessionTier.HOST
    store = None if in_host else SlowStore()
    async with house_on(store, 9 if in_host else 0) as house:
        n = await one_out(house, tier)
        shard, slot = house.served.shards[0], house.find(f"s{n}").slot
        before = shard.table.cold_count
        waits = asyncio.create_task(step(house, f"s{n}", 5))
        await asyncio.sleep(0)
        assert not shard.is_idle(slot)
        await house.engine.close(f"s{n}")
        with pytest.raises(errors.CellarError):
            await waits
        await reached(lambda: shard.table.is_idle(slot))
        assert not shard.table.cold[slot]
        assert shard.table.cold_count == np.count_nonzero(shard.table.cold) <= before


async def test_a_load_that_cannot_be_queued_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no log could bring them back."""
    async with fakes_on(DecodingRunner, store=SlowStore(), durability="none", **few(3, 0)) as house:
        out = await stowed(house)
        submit, failed = Scheduler.submit, list[Work]()

        def fails(self: Scheduler, work: Work) -> None:
            submit(self, work)
            if isinstance(work, Load) and not failed:
                failed.append(work)
                raise MemoryError

        monkeypatch.setattr(Scheduler, "submit", fails)
        with pytest.raises(errors.CellarError):
            await asyncio.wait_for(step(house, f"s{out[0]}", 9, position=2), 5)
        assert failed
        assert house.served.shards[0].store.not_restored == 0
        found = await asyncio.wait_for(step(house, f"s{out[0]}", 9, position=2), 5)
        assert found[0, 0] == run_alone([out[0], 7, 9])[-1]


async def test_who_came_back_is_not_lost_with_the_rest_of_his_load() -> None:
    """A queue that is given up refuses those that are not here yet, and nobody else."""
    store = SlowStore()
    async with fakes_on(DecodingRunner, store=store, **few(3, 0)) as house:
        out = await stowed(house)
        shard = house.served.shards[0]
        slots = np.array([house.find(f"s{n}").slot for n in out])
        wanted = shard.store._restorer
        assert wanted is not None
        is_back, here, lost = wanted._is_back, list[int](), list[bool]()

        def gives_up() -> None:
            assert wanted.is_busy  # others of its load are not here yet
            shard._give_up(RuntimeError("a fault of ours"))
            table = shard.table
            lost.extend((table.lost[here] | table.restoring[here]).tolist())

        def is_back_first(back: Ints) -> None:
            is_back(back)
            if not here:
                here.extend(back.tolist())
                asyncio.get_running_loop().call_soon(gives_up)

        wanted._is_back = is_back_first
        shard.bring(slots)
        shard.wake()
        await reached(lambda: bool(lost))
        assert not any(lost)
        await reached(lambda: shard.store.bringing is None and not wanted.is_busy)
        for n in out:
            found = await asyncio.wait_for(step(house, f"s{n}", 9, position=2), 5)
            assert found[0, 0] == run_alone([n, 7, 9])[-1]


async def test_a_session_that_goes_back_out_of_host_memory_leaves_nothing_there() -> None:
    async with fakes_on(Meddled, inline_run_s=INLINE, **few(2, 9)) as house:
        for n in range(5):
            house.engine.open(house.served, f"s{n}", history_steps=50)
            await step(house, f"s{n}", n, 7)
        told = house.engine.directory.describe
        n = next(n for n in range(5) if told(f"s{n}").tier is SessionTier.HOST)
        session = house.find(f"s{n}")
        shard, slot = session.shard, session.slot
        assert isinstance(shard, Shard)
        seed, tail = shard.chronicles.back_to(slot, 1)
        shard.bring(np.array([slot]))
        shard._returns.go(Return(slot=slot, seed=seed, tail=tail))
        await house.settle()
        await reached(lambda: shard.table.is_idle(slot))
        assert shard.table.host_row[slot] < 0
        assert (await step(house, f"s{n}", 5, position=1))[0, 0] == run_alone([n, 5])[-1]


async def test_who_asks_as_a_way_back_fails_is_not_told_that_all_is_lost() -> None:
    """It is tried again, though there is no log."""
    async with fakes_on(Meddled, inline_run_s=WORKER) as house:
        (device,) = house.runners
        assert isinstance(device, Meddled)
        house.engine.open(house.served, "s", history_steps=50)
        await step(house, "s", 1, 2)
        calls: list[asyncio.Task[Any]] = []

        def asks() -> None:
            if calls:
                device.refuses = False
            else:
                goes_back.cancel()  # else what it waits behind comes first
            calls.append(asyncio.create_task(step(house, "s", 3)))

        device.meanwhile, device.refuses = asks, True
        goes_back = asyncio.create_task(house.engine.rewind("s", 0))
        await reached(lambda: len(calls) > 1)
        with pytest.raises(errors.StoreUnavailableError):
            await asyncio.wait_for(calls[0], 5)
        await asyncio.gather(*calls, return_exceptions=True)
        await house.settle()
        info = await house.engine.describe("s")
        assert (info.position, info.status) == (0, SessionStatus.OPEN)
        assert (await step(house, "s", 5, position=0))[0, 0] == run_alone([5])[-1]


def test_tickets_that_are_refused_wrap_around() -> None:
    table = SessionTable(2)
    slots = np.array([1])
    table.tickets[1] = np.iinfo(np.int32).max
    tickets = np.array([np.iinfo(np.int32).max], np.int32)
    with np.errstate(over="ignore"):
        table.tickets[1] += np.int32(1)
        table.stays_out(slots)
        assert table.are_refused(slots, tickets).all()
        assert not table.are_refused(slots, tickets + np.int32(1)).any()
        assert not table.refused
