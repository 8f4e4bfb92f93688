"""Sessions' rows taken out and put in under tickets, with what the table says of them."""

import asyncio
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.sessions.table.status import SessionStatus
from service.engine.stepping import StepResult
from service.engine.work.work import Load, Save
from tests.service.engine.fakes import BucketRunner, DecodingRunner, FakeRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes, fakes_on
from tests.service.engine.wires import RAW

BOTH_WAYS = pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])


async def step(house: Fakes, name: str, *tokens: int, at: int | None = None) -> StepResult:
    steps = house.served.reader.tokens(np.array(tokens))
    return await house.engine.step(name, steps, outputs=RAW, position=at)


def slots_of(house: Fakes, *names: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([house.find(name).slot for name in names])


def load_of(house: Fakes, save: Save, *names: str) -> Load:
    """What was saved, for these sessions; counted as accepted, as whoever queues it has to."""
    slots = slots_of(house, *names)
    house.served.shards[0].table.accepted[slots] = save.positions
    return Load(
        slots=slots,
        states=save.states,
        positions=save.positions,
        last_steps=save.last_steps,
        contents=save.contents,
    )


def raw(result: StepResult) -> int:
    assert result.answers.raw is not None
    return int(result.answers.raw[-1, 0])


@BOTH_WAYS
async def test_what_was_saved_goes_on_where_it_is_loaded(inline_run_s: float) -> None:
    """More rows than a batch has; replies and conflicts of the last request are as they were."""
    read = {f"s{n}": list(range(n % 5 + 1)) for n in range(12)}
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        (shard,), (device,) = house.served.shards, house.runners
        for name, tokens in read.items():
            house.open(name)
            await step(house, name, *tokens)
        save = Save(slots=slots_of(house, *read))
        (*_, last) = await shard.perform(save)
        assert last.answers is not None
        assert not last.answers.columns
        counts = [len(tokens) for tokens in read.values()]
        assert save.positions.tolist() == save.last_steps.tolist() == counts
        ends = [run_alone(tokens)[-1] for tokens in read.values()]
        assert save.states[0][:, 0].tolist() == ends

        others = [f"t{n}" for n in range(12)]
        for name in reversed(others):
            house.open(name)
        used_s = shard.table.last_used_s.copy()
        await shard.perform(load_of(house, save, *others))
        assert np.array_equal(shard.table.last_used_s, used_s)
        assert house.promised_steps() == 0
        assert isinstance(device, DecodingRunner)
        for name, tokens in zip(others, read.values(), strict=True):
            assert house.position(name) == len(tokens)
            again = await step(house, name, *tokens, at=0)
            assert (again.replayed, raw(again)) == (True, run_alone(tokens)[-1])
            with pytest.raises(errors.StepConflictError):
                await step(house, name, *[5] * len(tokens), at=0)
            assert raw(await step(house, name, 7)) == run_alone([*tokens, 7])[-1]
            assert device.tokens[house.row(name)] == [*tokens, 7]


@BOTH_WAYS
async def test_they_run_in_their_turn(inline_run_s: float) -> None:
    """Between the steps before and those behind: what is saved is of one moment."""
    async with fakes(inline_run_s=inline_run_s) as house:
        (shard,), (device,) = house.served.shards, house.runners
        house.open("a")
        house.open("b")
        before = [asyncio.create_task(step(house, "a", token)) for token in (1, 2, 3)]
        await asyncio.sleep(0)
        save = Save(slots=slots_of(house, "a"))
        saved = asyncio.create_task(shard.perform(save))
        await asyncio.sleep(0)
        behind = asyncio.create_task(step(house, "a", 4))
        await asyncio.gather(*before, saved, behind)
        assert save.positions.tolist() == [3]
        assert save.states[0].tolist() == [[run_alone([1, 2, 3])[-1]]]
        assert save.contents.tolist() == [3]

        device.batches.clear()
        loaded = asyncio.create_task(shard.perform(load_of(house, save, "b")))
        await asyncio.sleep(0)
        found = await step(house, "b", 4, at=3)
        await loaded
        assert (raw(found), found.position) == (run_alone([1, 2, 3, 4])[-1], 4)


async def test_rows_that_cannot_be_loaded_are_lost_and_no_others() -> None:
    async with fakes() as house:
        (shard,) = house.served.shards
        for name in "abcdef":
            house.open(name)
            await step(house, name, 1, 2)
        save = Save(slots=slots_of(house, *"abc"))
        await shard.perform(save)
        save.states[0][1] = np.nan
        good = Save(slots=slots_of(house, *"a"))
        await shard.perform(good)
        loads = load_of(house, save, *"abc"), load_of(house, good, "d")
        found = await asyncio.gather(*map(shard.perform, loads), return_exceptions=True)
        assert isinstance(found[0], errors.StateLostError)
        assert not isinstance(found[1], BaseException)
        for name in "abcdef":
            status = house.engine.directory.describe(name).status
            assert status is (SessionStatus.LOST if name == "b" else SessionStatus.OPEN)
            assert house.position(name) == 2
        assert house.promised_steps() == 0
        with pytest.raises(errors.StateLostError):
            await step(house, "b", 3)
        with pytest.raises(errors.StateLostError):  # there is nothing to be saved
            await shard.perform(Save(slots=slots_of(house, "b")))
        assert raw(await step(house, "c", 3)) == run_alone([1, 2, 3])[-1]

        await shard.perform(load_of(house, good, "b"))  # which ends that
        assert raw(await step(house, "b", 3)) == run_alone([1, 2, 3])[-1]


class Torn(FakeRunner):
    """Fails in the midst of reading or writing."""

    def read(self, slots: Any) -> Any:
        if self.fail_next:
            raise RuntimeError("the device caught fire")
        return super().read(slots)

    def write(self, slots: Any, rows: Any) -> None:
        if self.fail_next:
            raise RuntimeError("the device caught fire")
        super().write(slots, rows)


@BOTH_WAYS
async def test_a_device_that_fails_loses_what_was_to_be_loaded(inline_run_s: float) -> None:
    async with fakes_on(Torn, inline_run_s=inline_run_s) as house:
        (shard,), (device,) = house.served.shards, house.runners
        for name in "ab":
            house.open(name)
            await step(house, name, 1)
        save = Save(slots=slots_of(house, *"ab"))
        await shard.perform(save)
        device.fail_next = True
        with pytest.raises(errors.InternalError):
            await shard.perform(Save(slots=slots_of(house, *"ab")))
        assert house.engine.directory.describe("a").status is SessionStatus.OPEN
        with pytest.raises(errors.StateLostError):
            await shard.perform(load_of(house, save, *"ab"))
        device.fail_next = False
        for name in "ab":
            assert house.engine.directory.describe(name).status is SessionStatus.LOST
        assert house.promised_steps() == 0
        await house.engine.reset("a")
        assert raw(await step(house, "a", 9)) == run_alone([9])[-1]


@BOTH_WAYS
async def test_a_session_that_is_closed_is_not_loaded_and_its_slot_is_free(
    inline_run_s: float,
) -> None:
    async with fakes(inline_run_s=inline_run_s) as house:
        (shard,), (device,) = house.served.shards, house.runners
        house.open("a")
        await step(house, "a", 1)
        save = Save(slots=slots_of(house, "a"))
        await shard.perform(save)
        house.open("b")
        slot = house.find("b").slot
        load = load_of(house, save, "b")
        device.state[slot] = -7
        loaded = asyncio.create_task(shard.perform(load))
        saved = asyncio.create_task(shard.perform(Save(slots=np.array([slot]))))
        await asyncio.sleep(0)
        shard.end(slot)
        for task in (loaded, saved):
            with pytest.raises(errors.SessionClosedError):
                await task
        assert device.state[slot] == -7
        assert house.promised_steps() == 0
        assert not shard.slots.leaving
        shard.slots.begin(opened_s=0.0, now_s=0.0, idle_timeout_s=1.0)
        assert house.served.shards[0].table.position[slot] == 0


async def test_a_fault_in_a_turn_loses_what_waits_to_be_loaded_and_nothing_else() -> None:
    """Nor what another piece of the same work has loaded, whether that is answered or not."""
    names = [f"s{n}" for n in range(20)]
    async with fakes() as house:
        (shard,) = house.served.shards
        for name in names:
            house.open(name)
            await step(house, name, 1, 2, 3)
        save = Save(slots=slots_of(house, *names))
        await shard.perform(save)
        for name in names:
            await house.engine.reset(name)
        loaded = asyncio.create_task(shard.perform(load_of(house, save, *names)))
        tick = shard._tick
        behind = tick.queued

        def fault_behind_the_second(**room: Any) -> Any:
            if (shard.table.position[save.slots] == 3).sum() == 16:
                tick.queued = behind  # type: ignore[method-assign]
                raise RuntimeError("a fault of ours")
            return behind(**room)

        tick.queued = fault_behind_the_second  # type: ignore[method-assign]
        with pytest.raises(errors.CellarError):
            await loaded
        await house.settle()
        statuses = [house.engine.directory.describe(name).status for name in names]
        assert statuses == [SessionStatus.OPEN] * 16 + [SessionStatus.LOST] * 4
        assert [house.position(name) for name in names] == [3] * 20
        assert house.promised_steps() == 0
        for name in names[:16]:
            assert raw(await step(house, name, 4)) == run_alone([1, 2, 3, 4])[-1]


class Slow(FakeRunner):
    """Writes when the gate is open."""

    def write(self, slots: Any, rows: Any) -> None:
        self.gate.wait()
        super().write(slots, rows)


async def test_what_is_being_loaded_survives_a_fault_in_a_turn() -> None:
    async with fakes_on(Slow, inline_run_s=WORKER) as house:
        (shard,), (device,) = house.served.shards, house.runners
        house.open("a")
        house.open("b")
        await step(house, "a", 1, 2, 3)
        save = Save(slots=slots_of(house, "a"))
        await shard.perform(save)
        device.gate.clear()
        loaded = asyncio.create_task(shard.perform(load_of(house, save, "b")))
        for _ in range(9):
            await asyncio.sleep(0)
        assert shard._runs
        shard._give_up(RuntimeError("a fault of ours"))
        device.gate.set()
        await loaded
        assert house.engine.directory.describe("b").status is SessionStatus.OPEN
        assert (house.position("b"), house.promised_steps()) == (3, 0)
        assert raw(await step(house, "b", 4, at=3)) == run_alone([1, 2, 3, 4])[-1]


async def test_neither_counts_as_a_step() -> None:
    async with fakes() as house:
        (shard,) = house.served.shards
        house.open("a")
        await step(house, "a", 1)
        steps = house.engine.metrics.steps.labels("fake/1")._value.get()
        save = Save(slots=slots_of(house, "a"))
        await shard.perform(save)
        await shard.perform(load_of(house, save, "a"))
        assert house.engine.metrics.steps.labels("fake/1")._value.get() == steps
        assert shard.pending_steps == 0


def test_a_device_of_buckets_finds_other_numbers_in_other_ones() -> None:
    def run(rows: int, bucket: int = 0) -> int:
        device = BucketRunner(16)
        found = device.step(
            read=np.arange(rows),
            write=np.arange(rows),
            fresh=np.ones(rows, np.bool_),
            inputs=np.full((rows, 1), 5),
            lengths=np.ones(rows, np.int64),
            every_step=False,
            bucket=bucket,
        )
        assert device.ran_in == [bucket or device.bucket(rows)]
        return int(found[0, 0])

    found = {rows: run(rows) for rows in range(1, 9)}
    assert len(set(found.values())) == 4
    assert [found[rows] for rows in (3, 5, 6, 7)] == [found[rows] for rows in (4, 8, 8, 8)]
    assert [run(rows, bucket=8) for rows in (1, 2, 8)] == [found[8]] * 3
    for rows, bucket in ((3, 2), (2, 3)):
        with pytest.raises(ValueError, match="cannot run in a bucket"):
            run(rows, bucket)
