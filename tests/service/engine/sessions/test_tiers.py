"""More sessions than the device has rows for: states go out and come back, and are the same."""

import asyncio
import gc
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import errors
from service.engine.log.keys import CHECKPOINT, key
from service.engine.log.recovery.folding import FOLDING
from service.engine.sessions.host_rows import HostRows
from service.engine.sessions.table.status import SessionTier
from service.engine.sessions.tiers import Tiers
from service.engine.work.columns import Ints, Outputs
from service.engine.work.work import Load, Save
from service.store.records import unpack
from service.store.store import StoreFailedError
from tests.recurrent import Case, char_case, series_case
from tests.service.engine.fakes import DecodingRunner, fake_manifest, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, Reals, fakes_on, reals
from tests.service.engine.wires import Wire, ask
from tests.service.store.fake import FakeStore

RAW, HOST = Outputs(raw=True), SessionTier.HOST
STATE_BYTES = fake_manifest().session_bytes


def few(rows: int, host_rows: int) -> dict[str, Any]:
    """Settings with so many rows of each kind."""
    return {
        "max_sessions": rows,
        "host_memory": host_rows * STATE_BYTES,
        "max_open_sessions": 100,
    }


def told(house: Fakes | Reals, name: str, **labels: str) -> float:
    return house.engine.metrics.registry.get_sample_value(name, labels) or 0.0


async def step(
    house: Fakes | Reals, name: str, *tokens: int, position: int | None = None
) -> NDArray[np.float32]:
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=RAW, position=position)
    assert result.answers.raw is not None
    return result.answers.raw


async def reached(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize(
    "case", [char_case("lstm", layers=2), series_case("gru")], ids=["lstm", "gru"]
)
async def test_sessions_that_come_and_go_equal_each_alone(case: Case, inline_run_s: float) -> None:
    sessions, steps, dice = 60, 12, random.Random(1)
    noise = np.random.default_rng(1)
    is_series = case.manifest.input.width > 0 and not hasattr(case.manifest.input, "vocabulary")
    inputs = noise.integers(0, 4, (sessions, steps))
    values = 100 * np.exp(np.cumsum(noise.normal(0, 0.02, (sessions, steps)), axis=1))

    async def play(house: Reals, number: int, at: int) -> NDArray[np.float32]:
        reader = house.served.reader
        one = slice(at, at + 1)
        read = (
            reader.values(values[number, one].astype(np.float32))
            if is_series
            else reader.tokens(inputs[number, one])
        )
        result = await house.engine.step(f"s{number}", read, outputs=RAW, position=at)
        assert result.answers.raw is not None
        found: NDArray[np.float32] = result.answers.raw[0].copy()
        return found

    alone = {}
    async with reals(case, max_sessions=sessions) as house:
        for number in range(sessions):
            house.engine.open(house.served, f"s{number}")
            alone[number] = [await play(house, number, at) for at in range(steps)]
    memory = sessions * case.manifest.session_bytes
    small: dict[str, Any] = {**few(7, 0), "host_memory": memory}
    async with reals(case, inline_run_s=inline_run_s, **small) as house:
        for number in range(sessions):
            house.engine.open(house.served, f"s{number}")

        async def through(number: int) -> None:
            for at in range(steps):
                assert np.array_equal(await play(house, number, at), alone[number][at])
                await asyncio.sleep(dice.choice([0, 0.001, 0.003]))

        await asyncio.gather(*map(through, dice.sample(range(sessions), sessions)))
        label = f"{case.manifest.name}/1"
        assert told(house, "cellar_evictions_total", model=label) > 10
        assert told(house, "cellar_tier_misses_total", model=label, tier="host") > 10
        assert told(house, "cellar_restore_seconds_count", model=label, tier="host") > 10


async def test_a_frame_of_more_sessions_than_rows_is_answered_and_channels_stay() -> None:
    small = few(4, 40)
    async with fakes_on(DecodingRunner, **small) as house:
        names = [house.open(f"s{n}") for n in range(40)]
        wire = await Wire(house).attach(*names)
        for at in range(4):
            rows = wire.frame({n: ([n], at) for n in range(40)})
            await house.settle()
            wanted = [run_alone([n] * (at + 1))[-1] for n in range(40)]
            assert [row.reply for row in rows] == [(at + 1, state, False) for state in wanted]
        rows = wire.frame({n: ([n], 3) for n in range(40)})  # again, and all are out by now
        await house.settle()
        assert [row.reply for row in rows] == [(4, state, True) for state in wanted]
        tiers = [house.engine.directory.describe(name).tier for name in names]
        assert tiers.count(SessionTier.DEVICE) == 4
        assert tiers.count(SessionTier.HOST) == 36
        assert told(house, "cellar_sessions", model="fake/1", tier="device") == 4
        assert told(house, "cellar_sessions", model="fake/1", tier="host") == 36
        assert told(house, "cellar_state_bytes", model="fake/1", tier="host") == 36 * STATE_BYTES


async def test_full_is_an_error_when_the_last_tier_is_full() -> None:
    small = few(3, 5)
    async with fakes_on(DecodingRunner, **small) as house:
        for n in range(8):
            house.open(f"s{n}")
            await step(house, f"s{n}", n)
        with pytest.raises(errors.SessionLimitError, match="all 8 session slots"):
            house.open("one too many")
        for n in range(8):  # and still all of them go on
            assert (await step(house, f"s{n}", n))[0, 0] == run_alone([n, n])[-1]
        house.engine.directory.close("s3")
        house.open("another")
        assert (await step(house, "another", 9))[0, 0] == run_alone([9])[-1]


async def test_those_that_are_out_expire_close_and_are_reset_as_any() -> None:
    small = few(2, 9)
    async with fakes_on(DecodingRunner, **small) as house:
        for name in "abcdef":
            house.open(name)
            await step(house, name, 1, 2)
        out = [n for n in "abcdef" if house.engine.directory.describe(n).tier is SessionTier.HOST]
        assert len(out) == 4
        assert await house.engine.close(out[0]) == 2
        assert (await house.engine.reset(out[1])).position == 0
        assert (await step(house, out[1], 5))[0, 0] == run_alone([5])[-1]
        shard = house.served.shards[0]
        slots = np.array([house.find(out[2]).slot])
        shard.table.count_idle(slots, idle_timeouts_s=np.array([1e-6], np.float32), now_s=0.0)
        assert house.engine.directory.expire() == 1
        with pytest.raises(errors.SessionExpiredError):
            house.find(out[2])
        assert (await step(house, out[3], 7))[0, 0] == run_alone([1, 2, 7])[-1]
        for name in [*set("abcdef") - {out[0], out[2]}]:
            await house.engine.close(name)
        assert told(house, "cellar_sessions", model="fake/1", tier="host") == 0
        assert (shard.tiers.rows.used, shard.tiers.host.slots.used) == (0, 0)


@pytest.mark.parametrize("host_rows", [0, 4])
async def test_the_store_takes_what_has_no_room_and_gives_it_back(host_rows: int) -> None:
    store, count = FakeStore(), 30
    small = few(3, host_rows)
    async with fakes_on(DecodingRunner, store=store, **small) as house:
        for n in range(count):
            house.open(f"s{n}")
            await step(house, f"s{n}", n, 7)

        def are_in_store() -> bool:
            found = told(house, "cellar_sessions", model="fake/1", tier="store")
            return found >= count - 3 - host_rows - 1

        await reached(are_in_store)
        for n in random.Random(2).sample(range(count), count):
            assert (await step(house, f"s{n}", 9, position=2))[0, 0] == run_alone([n, 7, 9])[-1]
            again = await step(house, f"s{n}", 9, position=2)  # the reply comes out, too
            assert again[0, 0] == run_alone([n, 7, 9])[-1]
        assert told(house, "cellar_tier_misses_total", model="fake/1", tier="store") > 10
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, **small) as house:
        for n in range(count):
            assert (await step(house, f"s{n}", 4, position=3))[0, 0] == run_alone([n, 7, 9, 4])[-1]


async def test_states_that_came_back_are_let_go_at_once() -> None:
    """The collector is seldom run in a server: nothing may wait for it."""
    small: dict[str, Any] = {"max_sessions": 2, "host_memory": 9 * STATE_BYTES}
    async with fakes_on(DecodingRunner, max_open_sessions=100, **small) as house:
        for n in range(6):
            house.open(f"s{n}")
            await step(house, f"s{n}", n)
        gc.collect()
        gc.disable()
        try:
            for n in [*range(6)] * 5:
                await step(house, f"s{n}", n)
            await house.settle()
            assert sum(isinstance(one, Load) for one in gc.get_objects()) <= 1
        finally:
            gc.enable()


async def test_what_is_left_to_the_store_waits_for_nobody_who_comes_back() -> None:
    """He waits for a row, which is free only once others are left to the store."""
    small: dict[str, Any] = {
        "max_sessions": 2, "host_memory": 2 * STATE_BYTES, "max_open_sessions": 100,
    }  # fmt: skip
    async with fakes_on(DecodingRunner, store=FakeStore(), **small) as house:
        upkeep, (shard,) = house.engine._upkeep, house.served.shards
        assert upkeep is not None
        await upkeep.stop()
        for n in range(5):
            house.open(f"s{n}")
            await step(house, f"s{n}", n)
        out = [f"s{n}" for n in range(5) if house.find(f"s{n}").shard.table.row[n] < 0]
        assert len(out) == 3
        assert not shard.tiers.host.slots.free
        row, _ = ask(house, out[0], [7], None)
        slots = np.array([house.find(name).slot for name in out])
        assert await asyncio.wait_for(upkeep.checkpoints.stow(shard, slots), 2) == 2
        await reached(lambda: bool(row.answers))
        assert row.reply == (2, run_alone([int(out[0][1:]), 7])[-1], False)


async def test_a_clean_stop_saves_more_sessions_than_there_are_rows() -> None:
    """Those that have to read again first wait for the rows of others, who leave them till then."""
    store = FakeStore()
    more: dict[str, Any] = {"max_open_sessions": 100, "host_memory": 0}
    async with fakes_on(DecodingRunner, store=store, max_sessions=9, **more) as house:
        for n in range(9):
            house.open(f"s{n}")
            await step(house, f"s{n}", n, 7)
        store = store.crash()  # without a checkpoint of any
    async with fakes_on(DecodingRunner, store=store, max_sessions=2, **more) as house:
        house.engine.draining = True
        assert await asyncio.wait_for(house.engine.settle_store(5), 5)
    async with fakes_on(DecodingRunner, store=store, max_sessions=2, **more) as house:
        for n in range(9):
            assert (await step(house, f"s{n}", 4, position=2))[0, 0] == run_alone([n, 7, 4])[-1]


async def test_a_clean_stop_ends_though_the_store_fails() -> None:
    """Those that wait for rows then would wait for ever."""
    store = FakeStore()
    more: dict[str, Any] = {"max_open_sessions": 100, "host_memory": 0}
    async with fakes_on(DecodingRunner, store=store, max_sessions=9, **more) as house:
        for n in range(9):
            house.open(f"s{n}")
            await step(house, f"s{n}", n, 7)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, max_sessions=2, **more) as house:
        house.engine.draining = True
        store.crash()
        with pytest.raises((StoreFailedError, errors.StoreUnavailableError)):
            await asyncio.wait_for(house.engine.settle_store(5), 5)


async def test_a_busy_session_keeps_its_row() -> None:
    """What is queued behind the read of a state that is to leave keeps the session here."""
    small = few(1, 5)
    async with fakes_on(DecodingRunner, inline_run_s=WORKER, **small) as house:
        for name in "ab":
            house.open(name)
        await step(house, "a", 1)
        calls = [step(house, "b", 2), *(step(house, "a", 3) for _ in range(5)), step(house, "b", 4)]
        found = await asyncio.gather(*calls)
        assert found[-1][0, 0] == run_alone([2, 4])[-1]
        assert house.position("a") == 6


def planted(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "rows are handed on that somebody still has":
        before = Tiers.evicted_by

        def handed_on(self: Tiers, save: Save, indices: Ints) -> None:
            before(self, save, indices)
            for slot in save.slots[indices].tolist():  # they believe that they are where they were
                self._table.warm(slot)
                self._table.row[slot] = slot % self.rows.capacity

        monkeypatch.setattr(Tiers, "evicted_by", handed_on)
    elif fault == "two states are exchanged on their way out":
        was = Tiers.evicted_by

        def exchanged(self: Tiers, save: Save, indices: Ints) -> None:
            save.states = [rows[::-1].copy() for rows in save.states]
            was(self, save, indices)

        monkeypatch.setattr(Tiers, "evicted_by", exchanged)
    else:
        read = HostRows.read
        nothing = lambda self, rows: [np.zeros_like(own) for own in read(self, rows)]  # noqa: E731
        monkeypatch.setattr(HostRows, "read", nothing)


@pytest.mark.parametrize(
    "fault",
    [
        "rows are handed on that somebody still has",
        "two states are exchanged on their way out",
        "nothing is put into the row",
    ],
)
async def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, fault)
    small = few(20, 90)
    wrong = 0
    async with fakes_on(DecodingRunner, inline_run_s=WORKER, **small) as house:
        (device,) = house.runners
        assert isinstance(device, DecodingRunner)
        device.longest_s = 0.001
        for n in range(60):
            house.open(f"s{n}")
        for at in range(3):
            calls = [step(house, f"s{n}", n, position=at) for n in range(60)]
            for n, found in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
                right = run_alone([n] * (at + 1))[-1]
                wrong += isinstance(found, BaseException) or found[0, 0] != right
    assert wrong


async def test_a_state_that_cannot_be_loaded_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fakes_on(DecodingRunner, **few(2, 9)) as house:
        (device,) = house.runners
        for name in "abcd":
            house.open(name)
            await step(house, name, 1, 2)
        (out, _) = [n for n in "abcd" if house.engine.directory.describe(n).tier is HOST]
        monkeypatch.setattr(device, "write", lambda *_: 1 / 0)
        calls = [step(house, out, 3, position=2), step(house, out, 4, position=3)]
        for failed in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(failed, errors.StoreUnavailableError)  # come again
        monkeypatch.undo()
        await reached(lambda: house.engine.directory.describe(out).tier is HOST)
        assert (await step(house, out, 3, position=2))[0, 0] == run_alone([1, 2, 3])[-1]


async def test_a_session_that_is_set_aside_is_reset_and_steps() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await step(house, "a", 1, 2)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        store = store.crash()
    store.write({}, [key(CHECKPOINT, 1)])
    async with fakes_on(DecodingRunner, store=store, **few(1, 3)) as house:
        with pytest.raises(errors.StateLostError):
            await step(house, "a", 3)
        assert (await house.engine.reset("a")).position == 0
        assert (await step(house, "a", 5))[0, 0] == run_alone([5])[-1]


async def test_nothing_is_noted_of_who_waits_for_a_row() -> None:
    """Were the process killed meanwhile, again and again, they would be set aside for that."""
    store, names = FakeStore(), "abcde"
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in names:
            house.open(name)
            await step(house, name, 1, 2)
        store = store.crash()
    small = {**few(1, 0), "inline_run_s": WORKER}
    async with fakes_on(DecodingRunner, store=store, **small) as house:
        house.runners[0].gate.clear()
        calls = [asyncio.create_task(step(house, name, 3)) for name in names]
        await reached(lambda: store.row(FOLDING) is not None)
        await asyncio.sleep(0.05)
        value = store.row(FOLDING)
        assert value is not None
        assert len(unpack(value)[0].columns["session"]) == 1
        house.runners[0].gate.set()
        for found in await asyncio.gather(*calls):
            assert found[0, 0] == run_alone([1, 2, 3])[-1]
