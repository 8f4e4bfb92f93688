"""How long a session has been idle is counted in time that it was served."""

import numpy as np
import pytest

from service import errors
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import Clocks, Fakes, fakes_on, leftovers
from tests.service.engine.log.test_restart import read
from tests.service.store.fake import FakeStore

YEAR_S = 365 * 24 * 3600.0


def open_for(house: Fakes, name: str, idle_timeout_s: float) -> None:
    house.engine.open(house.served, name, idle_timeout_s=idle_timeout_s)


async def test_neither_a_clock_that_jumps_nor_a_downtime_expires_anybody() -> None:
    store, clocks = FakeStore(), Clocks()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        open_for(house, "a", 100.0)
        open_for(house, "b", 100.0)
        await read(house, "a", 1)
        clocks.served_s += 60.0
        await read(house, "b", 1)
        for jump_s in (YEAR_S, -2 * YEAR_S):
            clocks.wall_s += jump_s
            assert house.engine.directory.expire() == 0
            last_used_s = house.engine.directory.describe("a").last_used_s
            assert last_used_s == pytest.approx(clocks.wall_s - 60.0)
    # Down for three years; the clock that never goes back begins anew.
    clocks = Clocks(served_s=5.0, wall_s=clocks.wall_s + 3 * YEAR_S)
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        assert house.engine.directory.expire() == 0
        clocks.served_s += 39.0
        assert house.engine.directory.expire() == 0
        clocks.wall_s -= YEAR_S
        clocks.served_s += 2.0  # 60 before, and 41 now
        assert house.engine.directory.expire() == 1
        with pytest.raises(errors.SessionExpiredError):
            house.find("a")
        assert await read(house, "b", 2, position=1) == run_alone([1, 2])[-1:]


async def test_after_a_crash_what_was_not_noted_of_idleness_is_forgiven() -> None:
    store, clocks = FakeStore(), Clocks()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        open_for(house, "a", 100.0)
        await read(house, "a", 1)
        clocks.served_s += 30.0
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        clocks.served_s += 30.0
        store = store.crash()
    clocks = Clocks(served_s=0.0, wall_s=clocks.wall_s + YEAR_S)
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        clocks.served_s += 69.0
        assert house.engine.directory.expire() == 0
        clocks.served_s += 2.0
        assert house.engine.directory.expire() == 1


async def test_a_session_expires_without_being_restored() -> None:
    store, clocks = FakeStore(), Clocks()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        for name, timeout_s in (("a", 100.0), ("b", 500.0)):
            open_for(house, name, timeout_s)
            await read(house, name, 1, 2)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.stop()  # they come back when they are asked for
        (shard,), (device,) = house.served.shards, house.runners
        clocks.served_s += 101.0
        assert house.engine.directory.expire() == 1
        await house.settle()
        assert (shard.store.cold, device.batches) == (1, [])
        open_for(house, "a", 100.0)  # another, from the beginning
        assert await read(house, "a", 7) == run_alone([7])
        assert await read(house, "b", 3, position=2) == run_alone([1, 2, 3])[-1:]
        await house.settle()
        assert not leftovers(house.served)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        assert await read(house, "a", 8, position=1) == run_alone([7, 8])[-1:]
        assert sorted(house.engine.directory.sessions) == ["a", "b"]
