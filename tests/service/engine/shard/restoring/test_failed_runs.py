"""A run that fails costs its sessions nothing where there is a log."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import errors
from service.engine.log.recovery.stored import StoredSession
from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.work.columns import Ints
from service.engine.work.sampling import Draws, Sampling
from service.engine.work.work import Work
from service.store.store import StoreError
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.wires import RAW, Row, Wire, ask
from tests.service.store.fake import FakeStore

ReadBack = Callable[[Iterable[int]], Any]


async def read(house: Fakes, name: str, *tokens: int, position: int | None = None) -> float:
    """Let a session read, and return the last prediction."""
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=RAW, position=position)
    assert result.answers.raw is not None
    return float(result.answers.raw[0, -1])


async def fail(house: Fakes, name: str, position: int) -> Row:
    """Let a run of one step fail; its session may not be back yet."""
    house.runners[0].fail_next = True
    row, _ = ask(house, name, [1], position)
    while not row.answers:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return row


async def all_back(house: Fakes) -> None:
    """Wait until nothing is restored any more."""
    await house.settle()
    await house.engine.drain()
    house.engine.draining = False
    await house.settle()


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_run_that_fails_costs_its_sessions_nothing(inline_run_s: float) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        (device,) = house.runners
        for name in "abc":
            house.open(name)
            await read(house, name, 1, 2)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("b").slot]))
        await read(house, "b", 3)
        wire = await Wire(house).attach("a", "b")
        device.fail_next = True
        failed = wire.frame({0: ([5], 2), 1: ([5], 3)})
        behind = wire.frame({0: ([6], 3), 1: ([6], 4)})
        await all_back(house)
        for row in failed + behind:
            assert isinstance(row.refusal, errors.CellarError)
            assert row.refusal.reason in ("STORE_UNAVAILABLE", "POSITION_MISMATCH")
        assert await read(house, "a", 5, position=2) == run_alone([1, 2, 5])[-1]
        assert await read(house, "b", 5, position=3) == run_alone([1, 2, 3, 5])[-1]
        await house.settle()
        assert not leftovers(house.served)


async def test_runs_that_fail_now_and_then_never_lose_a_session_that_has_read_nothing() -> None:
    async with fakes_on(DecodingRunner, store=FakeStore()) as house:
        house.open("a")
        for _ in range(12):
            row = await fail(house, "a", 0)
            await house.settle()
            assert isinstance(row.refusal, errors.StoreUnavailableError)
        assert await read(house, "a", 1) == run_alone([1])[-1]


async def test_a_session_that_is_reset_while_it_is_restored_is_not_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has failed again on its next branch, before what was read of the first one is used."""
    async with fakes_on(DecodingRunner, store=FakeStore()) as house:
        log = house.engine.log
        assert log is not None
        house.open("a")
        await read(house, "a", 1, 2)
        real: ReadBack = log.read_back
        calls = 0

        async def read_back(numbers: Iterable[int]) -> dict[int, StoredSession]:
            nonlocal calls
            calls += 1
            found: dict[int, StoredSession] = await real(numbers)
            if calls == 1:
                await house.engine.reset("a")
                await read(house, "a", 7)
                row = await fail(house, "a", 1)
                assert isinstance(row.refusal, errors.StoreUnavailableError)
            return found

        monkeypatch.setattr(log, "read_back", read_back)
        await fail(house, "a", 2)
        await all_back(house)
        assert calls == 2
        assert await read(house, "a", 9, position=1) == run_alone([7, 9])[-1]


async def test_a_session_that_is_reset_is_tried_as_often_as_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fakes_on(DecodingRunner, store=FakeStore()) as house:
        log = house.engine.log
        assert log is not None
        house.open("a")
        real: ReadBack = log.read_back
        may_read = asyncio.Event()

        async def read_back(numbers: Iterable[int]) -> dict[int, StoredSession]:
            await may_read.wait()
            found: dict[int, StoredSession] = await real(numbers)
            return found

        monkeypatch.setattr(log, "read_back", read_back)
        for _ in range(7):
            row = await fail(house, "a", 0)
            assert isinstance(row.refusal, errors.StoreUnavailableError)
            await house.engine.reset("a")
        await fail(house, "a", 0)
        may_read.set()
        await all_back(house)
        assert await read(house, "a", 3, position=0) == run_alone([3])[-1]


class Unreadable(FakeStore):
    """Its journal cannot be read so many times, though nothing is wrong with the disk."""

    times = 0

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """See `Store.groups`."""
        if self.times:
            self.times -= 1
            raise StoreError("the journal cannot be read now")
        return super().groups(first)


async def test_a_journal_that_cannot_be_read_now_is_read_again() -> None:
    store = Unreadable()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1, 2)
        store.times = 2
        row = await fail(house, "a", 2)
        assert isinstance(row.refusal, errors.StoreUnavailableError)
        while house.find("a").shard.table.lost.any():
            with pytest.raises(errors.StoreUnavailableError):
                ask(house, "a", [3], 2)
            await asyncio.sleep(0.001)
        assert store.times == 0
        assert await read(house, "a", 3, position=2) == run_alone([1, 2, 3])[-1]


async def test_a_journal_that_can_never_be_read_loses_no_more_than_what_is_in_it() -> None:
    store = Unreadable()
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in "ab":
            house.open(name)
            await read(house, name, 1, 2)
        store.times = 1000
        await fail(house, "a", 2)
        await all_back(house)
        row, _ = ask(house, "a", [3], 2)
        assert isinstance(row.refusal, errors.StateLostError)
        assert house.find("a").shard.store.not_restored == 1
        assert await read(house, "b", 3, position=2) == run_alone([1, 2, 3])[-1]
        store.times = 0
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 3, position=2) == run_alone([1, 2, 3])[-1]


async def test_a_session_is_not_lost_when_the_store_fails_with_the_run() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1, 2)
        left = store.crash()
        house.runners[0].fail_next = True
        row, _ = ask(house, "a", [3], 2)
        await asyncio.wait_for(house.engine.failed.wait(), 5)
        await house.settle()
        assert not any(isinstance(refusal, errors.StateLostError) for refusal in row.refusals)
        table, slot = house.find("a").shard.table, house.find("a").slot
        assert isinstance(table.why_lost(slot), errors.StoreUnavailableError)
    async with fakes_on(DecodingRunner, store=left) as house:
        assert await read(house, "a", 3, position=2) == run_alone([1, 2, 3])[-1]


@pytest.mark.parametrize("store", [None, FakeStore])
async def test_a_copy_whose_run_fails_says_nothing_of_its_session(
    store: type[FakeStore] | None,
) -> None:
    own = None if store is None else store()
    async with fakes_on(DecodingRunner, store=own, inline_run_s=WORKER) as house:
        (shard,) = house.served.shards
        house.open("a")
        await read(house, "a", 1, 2)
        call, flow = Paths(), house.engine.flows.current
        fork = await shard.borrow(3, flow)
        shard.table.fork(house.find("a").slot, fork.spares)
        house.runners[0].fail_next = True
        rows = shard.feedback.start(
            call,
            slots=fork.spares,
            position=2,
            first=np.zeros(3, np.int64),
            draws=Draws.repeated(Sampling(), 3),
            steps=5,
        )
        await asyncio.wait_for(call.done.wait(), 5)
        shard.feedback.cancel(call, rows)
        shard.slots.return_spares(fork)
        assert isinstance(call.error, errors.InternalError)
        assert await read(house, "a", 3, position=2) == run_alone([1, 2, 3])[-1]
        await house.settle()
        assert not leftovers(house.served)


class Paths(FeedbackCall):
    """Copies that draw on; nobody looks at what."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        """See `FeedbackCall.put`."""

    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        """See `FeedbackCall.end`."""
        del rows, draws
        self.done.set()


async def test_a_session_that_is_closed_while_its_run_fails_is_closed() -> None:
    async with fakes_on(DecodingRunner, store=FakeStore(), inline_run_s=WORKER) as house:
        (device,) = house.runners
        house.open("a")
        await read(house, "a", 1, 2)
        device.gate.clear()
        row, _ = ask(house, "a", [3], 2)
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(house.engine.close("a"))
        await asyncio.sleep(0)
        device.fail_next = True
        device.gate.set()
        assert await closing == 2
        await house.settle()
        assert isinstance(row.refusal, errors.SessionClosedError)


async def test_a_fold_that_cannot_be_queued_is_tried_again() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1, 2)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        (shard,) = house.served.shards
        restorer = shard.store._restorer
        assert restorer is not None
        queue, faults = restorer._queue, [MemoryError("of ours")]

        def fail_once(work: Work) -> None:
            if faults:
                raise faults.pop()
            queue(work)

        restorer._queue = fail_once
        ask(house, "a", [3], 2)
        await all_back(house)
        assert not faults
        assert not shard.store.is_thawing
        at = (await house.engine.describe("a")).position
        tokens = [1, 2, 3][:at]
        assert await read(house, "a", 4) == run_alone([*tokens, 4])[-1]


async def test_the_journal_is_kept_when_a_reset_overtakes_a_checkpoint() -> None:
    """The checkpoint is not written, and until the reset is durable the tail is needed."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        upkeep, log, (shard,) = house.engine._upkeep, house.engine.log, house.served.shards
        assert upkeep is not None
        assert log is not None
        house.open("a")
        await read(house, "a", 1, 2)
        await upkeep.look_after()  # what was opened is in the table
        slot = house.find("a").slot
        first = int(shard.table.first_group[slot])
        gates = [threading.Event(), threading.Event()]
        store.gate = gates[0]
        row, _ = ask(house, "a", [3], 2)
        saving = asyncio.create_task(upkeep.checkpoints.save(shard, np.array([slot])))
        await house.settle()  # its state was read, and waits for the group

        def overtake() -> None:  # as a turn does that is due before the checkpoint goes on
            store.gate = gates[1]
            shard.table.reset(slot, now_s=0.0)
            assert shard.log is not None
            shard.log.reset(slot)

        log.hold(log.last_group, overtake)
        gates[0].set()
        await saving
        assert row.reply[0] == 3
        assert upkeep.checkpoints.first_needed() <= first
        gates[1].set()
        await upkeep.look_after()
        await upkeep.look_after()
        assert upkeep.checkpoints.first_needed() > first
