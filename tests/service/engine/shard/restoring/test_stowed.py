"""States of stowed sessions come out of the store off the event loop, and whole or not at all."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.log.keys import CHECKPOINT, key
from service.engine.sessions.table.status import SessionTier
from service.store.store import StoreFailedError
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.engine.sessions.test_tiers import few, reached, step
from tests.service.store.fake import FakeStore

pytestmark = pytest.mark.timeout(20)
COUNT, ROWS = 12, 3


class SlowStore(FakeStore):
    """Lets many rows be read at once only while ``reads`` is set, and tells in which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.reads.set()
        self.threads: set[int] = set()
        self.asked: list[int] = []
        self.raises: Exception | None = None

    def rows_at(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.threads.add(threading.get_ident())
        self.asked.append(len(keys))
        self.reads.wait(5)
        if self.raises is not None:
            raise self.raises
        return super().rows_at(keys)


async def stowed(house: Fakes) -> list[int]:
    """Open sessions, of which all but few are in the store alone in the end; returns these."""
    for n in range(COUNT):
        house.open(f"s{n}")
        await step(house, f"s{n}", n, 7)

    def found() -> list[int]:
        told = house.engine.directory.describe
        return [n for n in range(COUNT) if told(f"s{n}").tier is SessionTier.STORE]

    await reached(lambda: len(found()) >= COUNT - ROWS - 1)
    return found()


def house_on(store: FakeStore) -> Any:
    return fakes_on(DecodingRunner, store=store, **few(ROWS, 0))


async def test_they_are_read_in_another_thread_and_the_loop_goes_on() -> None:
    store = SlowStore()
    async with house_on(store) as house:
        out = await stowed(house)
        store.reads.clear()
        waits = [asyncio.create_task(step(house, f"s{out[0]}", 9, position=2))]
        await reached(lambda: bool(store.asked))
        told = house.engine.directory.describe
        are_here = [n for n in range(COUNT) if told(f"s{n}").tier is SessionTier.DEVICE]
        here = next(n for n in are_here if n != out[0])
        found = await asyncio.wait_for(step(house, f"s{here}", 5, position=2), 2)
        assert found[0, 0] == run_alone([here, 7, 5])[-1]  # it waits for no read
        waits += [asyncio.create_task(step(house, f"s{n}", 9, position=2)) for n in out[1:]]
        await asyncio.sleep(0.02)
        assert not any(call.done() for call in waits)
        assert sum(store.asked) <= ROWS  # who has no row is not read
        store.reads.set()
        for n, call in zip(out, waits, strict=True):
            assert (await call)[0, 0] == run_alone([n, 7, 9])[-1]
        assert threading.get_ident() not in store.threads
        again = await step(house, f"s{out[0]}", 9, position=2)
        assert again[0, 0] == run_alone([out[0], 7, 9])[-1]  # the reply came back, too


async def test_one_that_cannot_be_read_is_set_aside_alone() -> None:
    store = SlowStore()
    async with house_on(store) as house:
        out = await stowed(house)
        bad, empty, good = (f"s{n}" for n in out[:3])
        number = house.find(bad).shard.table.number[house.find(bad).slot]
        store.write({key(CHECKPOINT, int(number)): b"nothing of ours"})
        number = house.find(empty).shard.table.number[house.find(empty).slot]
        store.write({}, [key(CHECKPOINT, int(number))])
        calls = [step(house, name, 9, position=2) for name in (bad, empty, good)]
        *lost, found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, errors.StateLostError) for error in lost)
        assert not isinstance(found, BaseException)
        assert found[0, 0] == run_alone([out[2], 7, 9])[-1]
        assert house.served.shards[0].store.not_restored == 2
        assert (await house.engine.reset(bad)).position == 0
        assert (await step(house, bad, 5))[0, 0] == run_alone([5])[-1]


async def test_a_checkpoint_of_another_position_or_branch_is_not_taken() -> None:
    store = SlowStore()
    async with house_on(store) as house:
        one, other = (await stowed(house))[:2]
        sessions = [house.find(f"s{n}") for n in (one, other)]
        numbers = [int(own.shard.table.number[own.slot]) for own in sessions]
        before = store.row(key(CHECKPOINT, numbers[0]))
        assert before is not None
        await step(house, f"s{one}", 9, position=2)

        def is_out() -> bool:
            house.served.shards[0].tiers.leaving.see_to_room()
            return house.engine.directory.describe(f"s{one}").tier is SessionTier.STORE

        for n in range(COUNT):  # it leaves again
            if n not in (one, other):
                await step(house, f"s{n}", 9, position=2)
        await reached(is_out)
        store.write({key(CHECKPOINT, number): before for number in numbers})
        for name, position in ((f"s{one}", 3), (f"s{other}", 2)):
            with pytest.raises(errors.StateLostError):
                await step(house, name, 9, position=position)


async def test_a_read_that_fails_answers_everybody() -> None:
    store = SlowStore()
    async with house_on(store) as house:
        out = await stowed(house)
        store.raises = RuntimeError("a fault of ours")
        calls = [step(house, f"s{n}", 9, position=2) for n in out[:5]]
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert all(isinstance(error, errors.CellarError) for error in found)
        store.raises = None
        shard = house.served.shards[0]
        await reached(lambda: shard.store.bringing is None)
        for n in out[:5]:
            found_now = await asyncio.wait_for(step(house, f"s{n}", 9, position=2), 5)
            assert found_now[0, 0] == run_alone([n, 7, 9])[-1]


async def test_a_disk_that_fails_loses_none() -> None:
    """The server ends, and the next one has them."""
    store = SlowStore()
    async with house_on(store) as house:
        out = await stowed(house)
        store.raises = StoreFailedError("the disk is gone")
        waits = asyncio.create_task(step(house, f"s{out[0]}", 9, position=2))
        table, slot = house.served.shards[0].table, house.find(f"s{out[0]}").slot
        await reached(lambda: bool(table.lost[slot]))
        assert table.restoring[slot]
        assert house.served.shards[0].store.not_restored == 0
        waits.cancel()
    async with house_on(store.crash()) as house:
        found = await step(house, f"s{out[0]}", 9, position=2)
        assert found[0, 0] == run_alone([out[0], 7, 9])[-1]


async def test_one_that_ends_while_it_is_read_leaves_its_slot_to_another() -> None:
    store = SlowStore()
    async with house_on(store) as house:
        out = await stowed(house)
        for n in range(COUNT):
            if n not in out:
                await house.engine.close(f"s{n}")
        store.reads.clear()
        name = f"s{out[0]}"
        slot = house.find(name).slot
        waits = asyncio.create_task(step(house, name, 9, position=2))
        await reached(lambda: bool(store.asked))
        await asyncio.wait_for(house.engine.close(name), 2)  # it waits for no read
        with pytest.raises(errors.SessionClosedError):
            await asyncio.wait_for(waits, 2)
        others = [house.open(f"t{n}") for n in range(2)]
        assert slot in [house.find(other).slot for other in others]
        for n, other in enumerate(others):
            assert (await asyncio.wait_for(step(house, other, n + 1), 2))[0, 0] == run_alone(
                [n + 1]
            )[-1]
        store.reads.set()
        await asyncio.sleep(0.02)
        for n, other in enumerate(others):
            assert (await step(house, other, 4))[0, 0] == run_alone([n + 1, 4])[-1]


async def test_a_queue_that_is_given_up_meanwhile_leaves_them_where_they_are() -> None:
    store = SlowStore()
    async with house_on(store) as house:
        out = await stowed(house)
        store.reads.clear()
        waits = [asyncio.create_task(step(house, f"s{n}", 9, position=2)) for n in out[:2]]
        await reached(lambda: bool(store.asked))
        house.served.shards[0]._give_up(RuntimeError("a fault of ours"))
        for call in waits:
            with pytest.raises(errors.CellarError):
                await asyncio.wait_for(call, 2)
        store.reads.set()
        shard = house.served.shards[0]
        await reached(lambda: shard.store.bringing is None)
        await asyncio.sleep(0.02)  # what was read by then lets go of nothing
        assert not shard._scheduler._released
        for n in out[:2]:
            found = await asyncio.wait_for(step(house, f"s{n}", 9, position=2), 5)
            assert found[0, 0] == run_alone([n, 7, 9])[-1]
        slots = np.array([house.find(f"s{n}").slot for n in range(COUNT)])
        assert shard.table.idle(slots).all()
