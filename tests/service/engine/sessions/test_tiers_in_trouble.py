"""What goes wrong around sessions that are out: nobody gets another's state, or waits for ever."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.sessions.host_rows import HostRows
from service.engine.sessions.table.status import SessionStatus, SessionTier
from service.engine.shard.restoring.loads import Loads
from service.engine.work.columns import Floats, Ints
from service.engine.work.work import Load, Save
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.engine.log.recovery.test_folding import crashed, settled, started
from tests.service.engine.sessions.test_tiers import few, reached, step
from tests.service.store.fake import FakeStore

pytestmark = pytest.mark.timeout(20)


class Choosy(DecodingRunner):
    """Fails to take states while it is told so."""

    refuses = False

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        if self.refuses:
            raise RuntimeError("it takes no states")
        super().write(slots, rows)


def tier(house: Fakes, name: str) -> SessionTier:
    return house.engine.directory.describe(name).tier


async def test_sessions_that_were_set_aside_are_reset_to_rows_of_their_own() -> None:
    store = await crashed("ab")
    for _ in range(2):
        for name in "ab":
            folding, rows = await started(store)
            folding.begin([rows[name]], lambda: None)
            await settled()
            store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in "ab":
            assert (await house.engine.describe(name)).status is SessionStatus.LOST
            await house.engine.reset(name)
        for at in range(3):
            for name in "ab":
                found = await step(house, name, ord(name) % 7, position=at)
                assert found[0, 0] == run_alone([ord(name) % 7] * (at + 1))[-1]


async def test_a_state_that_is_saved_as_its_session_comes_back_is_its_own() -> None:
    async with fakes_on(DecodingRunner, **few(2, 9)) as house:
        for name in "abcd":
            house.open(name)
            await step(house, name, 1 + ord(name) % 7)
        out = next(name for name in "abcd" if tier(house, name) is SessionTier.HOST)
        gone = next(n for n in "abcd" if tier(house, n) is SessionTier.DEVICE)
        house.engine.directory.close(gone)  # there is a row at once
        session = house.find(out)
        save = Save(slots=np.array([session.slot]))
        saved = asyncio.create_task(session.shard.perform(save))
        await asyncio.sleep(0)
        session.shard.bring(save.slots)
        await saved
        assert save.states[0][0, 0] == run_alone([1 + ord(out) % 7])[-1]


async def test_a_session_whose_state_cannot_be_put_back_reads_nothing_until_it_can() -> None:
    async with fakes_on(Choosy, **few(2, 9)) as house:
        (device,) = house.runners
        assert isinstance(device, Choosy)
        for name in "abcd":
            house.open(name)
            await step(house, name, 1 + ord(name) % 7)
        out = next(name for name in "abcd" if tier(house, name) is SessionTier.HOST)
        device.refuses = True
        for _ in range(3):
            with pytest.raises(errors.CellarError):
                await step(house, out, 5, position=1)
        device.refuses = False
        found = await step(house, out, 5, position=1)
        assert found[0, 0] == run_alone([1 + ord(out) % 7, 5])[-1]


async def test_lost_sessions_keep_no_rows_from_the_others() -> None:
    async with fakes_on(DecodingRunner, **few(2, 9)) as house:
        (device,) = house.runners
        for name in "abcd":
            house.open(name)
            await step(house, name, 1)
        here = [name for name in "abcd" if tier(house, name) is SessionTier.DEVICE]
        for name in here:
            device.fail_next = True
            with pytest.raises(errors.StateLostError):
                await step(house, name, 2)
        for name in set("abcd") - set(here):
            found = await asyncio.wait_for(step(house, name, 3), 5)
            assert found[0, 0] == run_alone([1, 3])[-1]
        for name in here:
            with pytest.raises(errors.StateLostError):
                await step(house, name, 2)
            assert (await house.engine.reset(name)).position == 0
            assert (await step(house, name, 4))[0, 0] == run_alone([4])[-1]


@pytest.mark.parametrize("host_rows", [0, 2])
async def test_a_stop_writes_checkpoints_of_more_sessions_than_have_rows(host_rows: int) -> None:
    store, count = FakeStore(), 160
    small = few(3, host_rows) | {"max_open_sessions": count}
    async with fakes_on(DecodingRunner, store=store, max_sessions=count) as house:
        for n in range(count):
            house.open(f"s{n}")
            await step(house, f"s{n}", n % 60)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, **small) as house:
        await asyncio.wait_for(house.engine.drain(), 5)
        assert await asyncio.wait_for(house.engine.settle_store(5), 8)


async def test_a_fault_on_the_way_back_leaves_everybody_where_he_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fakes_on(DecodingRunner, **few(2, 9)) as house:
        for name in "abcd":
            house.open(name)
            await step(house, name, 1 + ord(name) % 7)
        out = [name for name in "abcd" if tier(house, name) is SessionTier.HOST]
        read = HostRows.read

        def fails(self: HostRows, rows: Ints) -> list[Floats]:
            raise MemoryError

        monkeypatch.setattr(HostRows, "read", fails)
        with pytest.raises(errors.CellarError):
            await asyncio.wait_for(step(house, out[0], 5, position=1), 5)
        monkeypatch.setattr(HostRows, "read", read)
        for name in "abcd":
            found = await asyncio.wait_for(step(house, name, 5, position=1), 5)
            assert found[0, 0] == run_alone([1 + ord(name) % 7, 5])[-1]


async def test_a_fault_on_the_way_out_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fakes_on(DecodingRunner, **few(2, 9)) as house:
        for name in "abcd":
            house.open(name)
            await step(house, name, 1 + ord(name) % 7)
        shard = house.served.shards[0]
        submit = shard._scheduler.submit
        failed: list[Save] = []

        def fails(work: Any) -> None:
            if isinstance(work, Save) and not failed:
                failed.append(work)
                raise MemoryError
            submit(work)

        monkeypatch.setattr(shard._scheduler, "submit", fails)
        for name in "abcd":
            try:
                found = await asyncio.wait_for(step(house, name, 5, position=1), 5)
            except errors.CellarError:
                found = await asyncio.wait_for(step(house, name, 5, position=1), 5)
            assert found[0, 0] == run_alone([1 + ord(name) % 7, 5])[-1]
        assert failed
        await reached(lambda: shard.table.is_idle(0))


async def test_a_run_of_loads_that_is_committed_in_part_loses_no_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fakes_on(DecodingRunner, **few(4, 9)) as house:
        for name in "abcdefgh":
            house.open(name)
            await step(house, name, 1 + ord(name) % 7)
        shard = house.served.shards[0]
        here = [name for name in "abcdefgh" if tier(house, name) is SessionTier.DEVICE]
        out = [name for name in "abcdefgh" if name not in here]
        for name in here:
            await house.engine.close(name)
        settle, done = Loads.settle, list[Load]()

        def fails_behind_the_first(self: Loads, load: Load, indices: Ints, *, lost: bool) -> Ints:
            if done and not lost and len(done) < 2:
                done.append(load)
                raise MemoryError
            if not lost:
                done.append(load)
            return settle(self, load, indices, lost=lost)

        monkeypatch.setattr(Loads, "settle", fails_behind_the_first)
        shard.bring(np.array([house.find(out[0]).slot]))
        shard.bring(np.array([house.find(out[1]).slot]))
        shard.wake()
        await house.settle()
        assert len(done) == 2
        for name in out:
            found = await asyncio.wait_for(step(house, name, 5, position=1), 5)
            assert found[0, 0] == run_alone([1 + ord(name) % 7, 5])[-1]


async def test_states_that_cannot_be_read_are_not_read_in_a_hurry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fakes_on(DecodingRunner, **few(2, 9)) as house:
        for name in "abcd":
            house.open(name)
            await step(house, name, 1 + ord(name) % 7)
        (device,) = house.runners
        out = next(name for name in "abcd" if tier(house, name) is SessionTier.HOST)
        read, tries = device.read, list[Ints]()

        def fails(slots: Ints) -> list[Floats]:
            tries.append(slots)
            raise RuntimeError("it cannot be read")

        monkeypatch.setattr(device, "read", fails)
        waits = asyncio.create_task(step(house, out, 5, position=1))
        await asyncio.sleep(0.1)
        assert 0 < len(tries) <= 110
        monkeypatch.setattr(device, "read", read)
        assert (await asyncio.wait_for(waits, 5))[0, 0] == run_alone([1 + ord(out) % 7, 5])[-1]


async def test_room_is_made_though_those_that_were_to_leave_come_back() -> None:
    async with fakes_on(DecodingRunner, store=FakeStore(), **few(2, 2)) as house:
        for n in range(12):
            house.open(f"s{n}")
            await step(house, f"s{n}", n)
        shard = house.served.shards[0]
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await reached(lambda: any(tier(house, f"s{n}") is SessionTier.HOST for n in range(12)))
        out = [n for n in range(12) if tier(house, f"s{n}") is SessionTier.HOST]
        slots = np.array([house.find(f"s{n}").slot for n in out])
        others = [n for n in range(12) if n not in out]
        calls = [asyncio.create_task(step(house, f"s{n}", n, position=1)) for n in others + out]
        await asyncio.sleep(0)  # they have come in, and are not looked at
        stowed = asyncio.create_task(upkeep.checkpoints.stow(shard, slots))
        shard.tiers.leaving.stow, stow = None, shard.tiers.leaving.stow
        await asyncio.wait_for(stowed, 5)  # it waits for none of them
        shard.tiers.leaving.stow = stow
        for n, call in zip(others + out, calls, strict=True):
            assert (await asyncio.wait_for(call, 5))[0, 0] == run_alone([n, n])[-1]


async def test_what_cannot_come_out_of_the_store_now_is_still_there() -> None:
    """Whoever asks for it is told to come again, though there is no log to read it back from."""
    async with fakes_on(Choosy, store=FakeStore(), durability="none", **few(1, 0)) as house:
        (device,) = house.runners
        assert isinstance(device, Choosy)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        for name in "ab":
            house.open(name)
            await step(house, name, 1, 2)
        await reached(lambda: tier(house, "a") is SessionTier.STORE)
        device.refuses = True
        for _ in range(9):
            with pytest.raises(errors.StoreUnavailableError):
                await step(house, "a", 3, position=2)
            await house.settle()
            info = await house.engine.describe("a")
            assert (info.position, info.status) == (2, SessionStatus.OPEN)
        device.refuses = False
        assert (await step(house, "a", 3, position=2))[0, 0] == run_alone([1, 2, 3])[-1]
        assert (await step(house, "b", 3, position=2))[0, 0] == run_alone([1, 2, 3])[-1]
