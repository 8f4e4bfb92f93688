"""One device's share of a model: its sessions' columns, its queue, its runner, its thread.

A turn is a sentence: the policy decides, a run is chosen, it is executed, committed, delivered.
Everything but the execution happens on the event loop, and a short execution does too.

Knows nothing of models or gRPC.
"""

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import structlog

from service.engine.execution.ahead.runner import AheadRunner
from service.engine.execution.executor import Executor
from service.engine.execution.runner import Runner
from service.engine.log.commit_log import CommitLog
from service.engine.log.groups.entries import Steps, drawn_steps
from service.engine.log.seeds import Seed, initial_seed
from service.engine.log.shard_log import ShardLog
from service.engine.scheduler.admission import Admission
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.scheduler.holds import Holds
from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.allocator import SlotAllocator
from service.engine.sessions.initials import Initial, Initials
from service.engine.sessions.moving import Moving
from service.engine.sessions.slots import SlotManager
from service.engine.sessions.table.status import SessionTier
from service.engine.sessions.table.table import SessionTable
from service.engine.sessions.tiers import Tiers, Wanted
from service.engine.shard.history.chronicles import Chronicles
from service.engine.shard.history.memory import HistoryMemory
from service.engine.shard.policy import MOST_DECODE_STEPS, Action, BatchPolicy, Decision
from service.engine.shard.queue_limit import QueueLimit
from service.engine.shard.restoring.folds import load_of
from service.engine.shard.restoring.returns import Return, Returns
from service.engine.shard.restoring.shard_store import ShardStore
from service.engine.shard.run import Run
from service.engine.shard.tick import Tick
from service.engine.shard.worker import Ahead, Worker
from service.engine.work.columns import Floats, Inputs, Ints
from service.engine.work.flow import Flow, Flows
from service.engine.work.memory import BufferMemory
from service.engine.work.replies import UNKNOWN, Delivery, Receiver, SingleReceiver
from service.engine.work.request import Place, Request, SingleStep, SingleSteps
from service.engine.work.work import Barrier, Fork, Kind, Load, Save, Work, hand_over
from service.errors import (
    BadInputError,
    CellarError,
    NotStartedError,
    StaleBranchError,
    unapplied,
    unpredicted,
)
from service.metrics import Metrics
from service.settings import EngineSettings

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Usage(NamedTuple):
    """What is taken of one shard, or of all shards of a model."""

    capacity: int  # sessions that can be open
    sessions: int  # slots that are taken by sessions
    spares: int  # slots that are borrowed
    pending_steps: int  # queued or running


class Shard:
    """Serves the sessions of one model on one device.

    Args:
        name: for metrics and logs.
        runner: the device; its arena has ``rows(settings, resident)`` rows.
        sessions: the most that can be open.
        resident: the most whose state is on the device at once.
        host_rows: of the others, the most whose state is in host memory.
        chunk_steps: the most time steps that one run of this model takes.
        bounds: what drawn values are kept within; ``None`` for a model that draws tokens.
        device_lost: is told on the event loop when no run on the device will succeed any more.
        memory: where replies that may be repeated are counted.
        history: where what sessions keep of what they read is counted.
        log: where what sessions read is kept; ``None`` where it is not.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        *,
        sessions: int,
        resident: int,
        host_rows: int = 0,
        chunk_steps: int,
        bounds: tuple[np.float32, np.float32] | None,
        memory: BufferMemory,
        history: HistoryMemory,
        metrics: Metrics,
        settings: EngineSettings,
        flows: Flows,
        clock: Callable[[], float] = time.monotonic,
        device_lost: Callable[[Exception], None],
        log: CommitLog | None = None,
    ) -> None:
        slots, rows = self.rows(settings, sessions), self.rows(settings, resident)
        chunk_spares = settings.max_batch
        self.table = SessionTable(slots)
        self.table.row[sessions:], self.table.host_row[sessions:] = np.arange(resident, rows), -1
        self.log = None if log is None else ShardLog(log, self.table, name)
        self._executor = Executor(
            runner,
            self.table,
            scratch=rows - 1,
            outside=lambda slots: self.tiers.states(slots),
            memory=memory,
            max_history_bytes=settings.max_history_bytes,
        )
        self.histories = self._executor.histories
        """See `Executor.histories`."""
        self.initials = Initials(self.table, memory)
        """What its sessions were opened with."""
        self._loop = asyncio.get_running_loop()
        self.tiers = Tiers(
            self.table,
            Wanted(
                queue=lambda work: self._scheduler.submit(work),
                hold=lambda slots: self._holds.hold_each(slots),
                let_go=lambda slots, tickets: self._holds.let_go(slots, tickets),
                wake=self.wake,
                call_later=self._later,
                in_store=lambda slots: self.store.are_in(slots),
                seated=lambda slots: self.store.seated(slots),
            ),
            resident=resident,
            host_rows=host_rows,
            metrics=metrics.tiers(name),
        )
        self.slots = SlotManager(
            self.table,
            sessions=sessions,
            spares=settings.spare_slots,
            ephemeral_grace_s=settings.ephemeral_grace_s,
            tiers=self.tiers,
            forget=self._executor.forget,
            wake=self.wake,
        )
        self.feedback = Feedback(
            self.table,
            self.slots.tenancy,
            bounds=bounds,
            most_steps=MOST_DECODE_STEPS,
            wake=self.wake,
            call_later=self._loop.call_later,
            count=metrics.generated_tokens.inc,
            hold=None if self.log is None else self.log.hold,
        )
        self._scheduler = Scheduler(
            self.table,
            self.feedback,
            slots=self.slots,
            chunk_spares=SlotAllocator(slots - 1 - chunk_spares, chunk_spares),
            max_batch=settings.max_batch,
            chunk_steps=chunk_steps,
        )
        self._holds = Holds(self._scheduler, self.slots, give_up=self._give_up, wake=self.wake)
        blank = runner.blank(1)
        self._blank_width = 0 if blank.dtype.kind in "iu" else blank.shape[-1]
        self.chronicles = Chronicles(
            self.table,
            memory=history,
            width=self._blank_width,
            owner=lambda slot: self.slots.owners.item(slot),
            initial=self._initial,
            put=self.put,
            call_soon=self._loop.call_soon,
        )
        """What its sessions have read, of those that keep it."""
        self._blank: list[Floats] = []  # the rows of a state, all 0
        self._admission = Admission(
            self.table,
            self._scheduler,
            metrics,
            again=self._admit,
            full=self.chronicles.full,
            log=self.log,
        )
        self.store = ShardStore(
            self.table,
            self.log,
            self.initials,
            queue=lambda work: self._scheduler.submit(work),
            holds=self._holds,
            bring=self.bring,
            stays=self.tiers.stay_out,
            is_back=self.tiers.is_back,
            gather=self._gather,
            is_idle=self.is_idle,
            wake=self.wake,
            give_up=self._give_up,
            clock=clock,
        )
        """Its side of the store."""
        self._tick = Tick(
            self.table,
            self._scheduler,
            self.feedback,
            self.slots,
            runner,
            self._executor,
            self.tiers,
            metrics,
            log=self.log,
            model=name,
            max_batch=settings.max_batch,
            clock=clock,
            device_lost=device_lost,
            lost=self.store.bring_back if self.store.brings_back else None,
            stay_in_store=self.store.stay,
            chronicles=self.chronicles,
        )
        self.limit = QueueLimit(settings, count=metrics.overloaded_steps.labels(name).inc)
        self._flows = flows
        self._clock = clock
        self._settings = settings
        self._scratch = np.array([slots - 1], np.int64)  # never steps: stands at position 0
        self._runner = runner
        self._policy = BatchPolicy(
            inline_run_s=-math.inf if runner.own_thread else settings.inline_run_s,
            max_batch=settings.max_batch,
            can_decode=runner.can_decode,
            decode_unit=runner.decode_unit if isinstance(runner, AheadRunner) else 1,
        )
        self._returns = Returns(
            self.table,
            queue=self._queue,
            wake=self.wake,
            call_later=self._loop.call_later,
            went_back=self.chronicles.went_back,
            tell_log=self._tell_moved,
            restore=self.store.bring_back if self.store.brings_back else None,
            give_up=self._give_up,
        )
        self._inbox: list[Request | SingleSteps] = []  # what came in since the last tick
        self._singles: SingleSteps | None = None  # the end of the inbox, if more can be added
        self._inbox_steps = 0
        self._woken = False
        self._chosen: Run | None = None  # it is on its way from the inbox or the queue to a place
        self._runs: list[Run] = []  # that the worker has, begun or not
        self._answering: Run | None = None  # it has run, and is not answered
        self._following: Run | None = None  # it is chosen, and runs when that is answered
        self._quiet = asyncio.Event()  # set whenever nothing is queued
        self._worker = Worker(f"shard {name}")

    @staticmethod
    def rows(settings: EngineSettings, sessions: int) -> int:
        """Rows of an arena: of sessions, of spare slots of forks and of chunks, the scratch row."""
        return sessions + settings.spare_slots + settings.max_batch + 1

    # -- asking ---------------------------------------------------------------------------

    @property
    def pending_steps(self) -> int:
        """Steps queued or running."""
        return self._scheduler.pending_steps + self._inbox_steps + self.feedback.ready_rows

    @property
    def usage(self) -> Usage:
        """What is taken."""
        return Usage(
            capacity=self.slots.sessions.capacity,
            sessions=self.slots.sessions.used,
            spares=self.slots.spares.used,
            pending_steps=self.pending_steps,
        )

    def sessions_in(self, tier: SessionTier) -> int:
        """How many sessions have their state there, as `SessionInfo.tier` says."""
        device, store = self.tiers.on_device, self.store.cold
        if tier is SessionTier.DEVICE:
            return device
        return store if tier is SessionTier.STORE else self.slots.sessions.used - device - store

    def check_room(self, steps: int, flow: Flow) -> None:
        """Check that so many steps of a flow may be queued.

        Raises:
            OverloadedError: not now.
            StoreFullError, StoreUnavailableError: the store takes no more.
        """
        if self.log is not None:
            self.log.log.check()
        self.check_queue(steps, flow)

    def check_queue(self, steps: int, flow: Flow) -> None:
        """Check that so much work of a flow may be queued that writes nothing to the store.

        Raises:
            OverloadedError: not now.
        """
        pending = self.pending_steps
        if pending + steps > self.limit.roomy_steps:
            self.limit.check(pending, steps, flow)

    def has_room(self, flow: Flow) -> bool:
        """Whether a step of a flow may be queued."""
        if self.log is not None and not self.log.log.takes_more:
            return False
        pending = self.pending_steps
        return pending < self.limit.roomy_steps or self.limit.has_room(pending, 1, flow)

    def submit(self, request: Request) -> None:
        """Take steps in; whom they are answered to hears of each row once.

        They are looked at in the next tick, together with all else that comes in before it. Call
        `check_room` first.
        """
        self._singles = None  # what is added from here on comes behind this
        self._inbox.append(request)
        self._inbox_steps += request.size
        self.wake()

    def add(self, step: SingleStep) -> None:
        """Take one step in, as `submit` does."""
        self._inbox_steps += 1
        if self._singles is None:
            self._singles = SingleSteps()
            self._inbox.append(self._singles)
        self._singles.rows.append(step)
        if len(self._singles.rows) == 1 or self._runs:  # more of them may be worth a second run
            self.wake()

    def admit_inbox(self) -> None:
        """Queue what came in since the last tick.

        Whoever asks what is queued for a session, or queues something behind it, calls this first.
        """
        if self._inbox:
            waiting = self._inbox_steps + self._scheduler.ready_rows
            # All that is there fits into one batch, mostly: nobody waits for anybody then.
            place = self._scheduler.place if waiting > self._settings.max_batch else None
            for entry in self._take_inbox():
                self._admit(entry, place)
        # Once more after each stray: a row that stood behind it on its session can run now.
        while self.feedback.ready_rows:
            try:
                stray = self.feedback.settle()
            except Exception as fault:
                self._give_up(fault)
                return
            if stray is None:
                break
            self._admit(stray)

    def require_started(self, slot: int, field: str) -> int:
        """Where a session will stand once what is queued has run; it has read something then.

        Raises:
            StateLostError: its state is in doubt.
            NotStartedError: it has read nothing yet, or nothing with its own model; ``field`` is
                what the caller has to give.
        """
        self.admit_inbox()
        if self.table.lost[slot]:
            raise self.table.why_lost(slot)
        position = int(self.table.accepted[slot])
        if position == 0:
            raise NotStartedError(f"{field}: the session has read nothing yet: give it steps first")
        if not self.table.has_started(slot):
            raise unpredicted(field)
        return position

    def on_branch(self, slot: int, claimed: int = 0, *, or_left: bool = False) -> int:
        """The branch of a session, for what is queued now to carry.

        Args:
            slot: the session's.
            claimed: the branch that a caller believes it to be on; 0 is unchecked.
            or_left: it may be the one that the session has gone back from, too: for callers who do
                not rely on a position.

        Raises:
            StaleBranchError: it is on another one.
        """
        branch = self.table.branch.item(slot)
        if claimed and claimed != branch:
            if or_left and claimed == self.table.left.item(slot):
                return branch
            told = int(self.told(np.array([slot]))[0])  # that after what is queued
            position = self.table.stands_at(slot) if told == UNKNOWN else told
            kept = None if self.log is None else self.log.kept(slot, claimed)
            raise StaleBranchError(branch=branch, position=position, kept=kept)
        return branch

    def is_idle(self, slot: int) -> bool:
        """Whether a slot has nothing queued or running."""
        self.admit_inbox()
        return self.table.is_idle(slot)

    def told(self, slots: Ints) -> Ints:
        """Where sessions will stand once what is queued has run, as far as it may be told, (rows,).

        It is `UNKNOWN` where that may yet be lost.
        """
        self.admit_inbox()
        positions = self.table.accepted[slots]
        return positions if self.log is None else self.log.told(slots, positions)

    async def settled(self, slots: Ints) -> None:
        """Wait until what sessions have read, or what became of them, may be told."""
        if self.log is None:
            return
        returning = slots[self.table.returning[slots]]
        if len(returning):  # the log does not know their branches yet
            await self._gather(
                *[Barrier(slots=returning[n : n + 1]) for n in range(len(returning))]
            )
        await self.log.wait(slots)

    def begin_with(self, slot: int, initial: Initial) -> None:
        """Let a session that was opened in a slot now start from this state, and be reset to it."""
        self.initials.keep(slot, initial)
        if self.log is not None:
            self.log.begin_with(slot, initial.states)
        load = self._load_of_initial(slot)
        assert load is not None, "it is kept"
        load.branches = self.table.branch[[slot]]
        try:
            self._queue(load)
        except Exception as fault:
            self._give_up(fault)
            self.table.lost[slot] = True
        self.wake()

    def _load_of_initial(self, slot: int) -> Load | None:
        """What puts there what a session was opened with; of a branch that never is, as yet."""
        states = self.initials.of(slot)
        if states is None:
            return None
        load = load_of([(slot, initial_seed(states, branch=0))])
        load.branches = np.zeros(1, np.uint64)
        return load

    def end(self, slot: int) -> None:
        """End the session of a slot; its queued steps are refused, then the slot is free."""
        self.admit_inbox()
        self.initials.forget(slot)
        self.chronicles.forget(slot)
        if self.log is not None:
            self.log.close(slot)
            self.store.forget(slot)
        for work in self._scheduler.waiting_for_spares(slot):
            work.failure = self.table.why_closed(
                int(self.table.branch[slot]), "the session was closed before the steps ran"
            )
        self.slots.end(slot)
        self.wake()

    def expired_sessions(
        self, now_s: float, *, at_most: int, owner: int | None = None
    ) -> list[Any]:
        """Sessions, of one owner or of all, that have been idle for longer than their timeout."""
        self.admit_inbox()
        return self.slots.expired(now_s, at_most=at_most, owner=owner)

    async def borrow(self, copies: int, flow: Flow) -> Fork:
        """Spare slots in the initial state, which the caller must return."""
        at = np.zeros(1, np.int64)
        fork = Fork(slots=self._scratch, expected=at, row_cost=copies, flow=flow)
        if self.slots.spares.free < copies or self._scheduler.forks_wait:
            try:
                await self.perform(fork)  # in its turn
            except BaseException:  # it may have run for all that
                self.slots.return_spares(fork)
                raise
        else:
            self.slots.lend_spares(fork)
            self.table.fork(int(self._scratch[0]), fork.spares)
        return fork

    async def perform(self, *works: Work) -> list[Delivery]:
        """Run work, however much is queued: recalls, forks, barriers, steps of spare slots.

        Raises:
            CellarError: a row failed.
        """
        deliveries = await self._gather(*works)
        for delivery in deliveries:
            error = delivery.error
            if isinstance(error, BadInputError):  # one of several: say which
                raise BadInputError(error.field, error.message, row=int(delivery.rows[0]))
            if error is not None:
                raise error
        if self.log is not None:  # who asks may tell it
            await self.log.wait(np.concatenate([work.slots for work in works]))
        return deliveries

    async def outcomes(self, *works: Work) -> list[Delivery]:
        """Run work as `perform` does; what failed is among the deliveries."""
        return await self._gather(*works)

    async def halt(
        self, slot: int, look: Callable[[], T], *, branch: int
    ) -> tuple[T, Callable[[], None]]:
        """Let a session stand still behind what is queued for it.

        Args:
            slot: the session's.
            look: is called once it stands there.
            branch: the one that it must be on then.

        Returns:
            What ``look`` has returned, and what lets the session go on.

        Raises:
            CellarError: it goes on; ``look`` has raised it, or the session is not there.
        """
        found: list[T] = []
        refused: list[CellarError] = []
        goes_on: list[Callable[[], None]] = []

        def acts() -> None:
            try:
                if self.table.lost[slot]:
                    raise self.table.why_lost(slot)
                found.append(look())
            except CellarError as error:
                refused.append(error)
            except Exception as fault:
                _log.exception("session could not be looked at")
                refused.append(unapplied(fault))

        barrier = Barrier(
            slots=np.array([slot], np.int64), branches=np.array([branch], np.uint64), acts=acts
        )
        try:
            deliveries = await self._gather(
                barrier, queued=lambda: goes_on.append(self._holds.hold(barrier.slots))
            )
            error = deliveries[0].error or next(iter(refused), None)
            if error is not None:
                raise error
        except BaseException:
            for release in goes_on:
                release()
            raise
        return found[0], goes_on[0]

    async def _gather(
        self, *works: Work, queued: Callable[[], None] = lambda: None
    ) -> list[Delivery]:
        """What became of some work; ``queued`` is called right behind it."""
        done: asyncio.Future[None] = self._loop.create_future()
        collected = _Collected(self.wake, sum(len(work.slots) for work in works), done)
        self.admit_inbox()
        for work in works:
            work.reply_to = collected
        for work in works:
            if isinstance(work, Request):
                self._admit(work)
                continue
            try:
                self._queue(work)
                if isinstance(work, Barrier) and work.reset:
                    work.then = self._load_of_initial(int(work.slots[0]))
                    if work.then is not None:
                        self._queue(work.then)
            except Exception as fault:
                self._give_up(fault)
                positions = self.table.stands(work.slots)
                rows = work.rows_at(np.arange(len(work.slots)))
                failed = Delivery(rows=rows, positions=positions, error=unapplied(fault))
                hand_over(work, failed, fail=True)
        queued()
        self.wake()
        try:
            await done
        except asyncio.CancelledError:
            collected.cancel()
            for work in works:
                if isinstance(work, Fork) and not collected.missing:
                    # It has run, and nobody is left to return its copies.
                    self.slots.return_spares(work)
            raise
        return collected.deliveries

    def bring(self, slots: Ints, party: Hashable = None) -> None:
        """Bring sessions back whose states are out: whatever is asked of them waits behind that.

        Where they wait for rows, those of each party do by themselves.
        """
        if not self.table.cold_count:
            return
        out = slots[self.table.cold[slots]]
        if len(out):
            try:
                self.tiers.bring(out, party)
            except Exception as fault:
                self._give_up(fault)
                return  # they are out, and what is asked of them is refused
            self.store.thaw(out)

    def _queue(self, work: Work) -> None:
        """Queue work that is no request."""
        if self.table.cold_count:
            slots = work.slots
            if isinstance(work, Save):  # it reads states in host memory, too
                slots = slots[(self.table.host_row[slots] < 0) & ~self.table.lost[slots]]
            if not isinstance(work, Barrier) or work.reset or work.acts is not None:
                self.bring(slots, work.party)
        self._scheduler.submit(work)

    def _later(self, after_s: float, act: Callable[[], None]) -> object:
        """Call what may queue work after so many seconds."""

        def acts() -> None:
            try:
                act()
            except Exception as fault:
                self._give_up(fault)

        return self._loop.call_later(after_s, acts)

    # -- going back ---------------------------------------------------------------------------

    def put(self, work: Work) -> None:
        """Queue work that is no request, whose receiver hears what becomes of it."""
        self.admit_inbox()
        try:
            self._queue(work)
        except Exception as fault:
            self._give_up(fault)
        self.wake()

    def go_back(self, own: Return, *, branch: int, stands: int, under_way: int) -> bool:
        """Let a session stand where it had read less, see `Returns.begin`."""
        self.admit_inbox()
        self.bring(np.array([own.slot], np.int64))
        return self._returns.begin(own, branch=branch, stands=stands, under_way=under_way)

    async def rewind(
        self, slot: int, position: int, flow: Flow, *, branch: int = 0, generated: bool = False
    ) -> int:
        """Put a session back to a position, behind what is queued for it.

        Args:
            slot: the session's.
            position: where it is to stand.
            flow: whose steps it is that it reads again for that.
            branch: the branch that it must be on then; 0 is unchecked.
            generated: only within its last generation, see `Chronicles.back_to`.

        Returns:
            Its new branch.

        Raises:
            BadInputError: it has not been there yet.
            HistoryMissingError: what it read before is not kept.
            StaleBranchError: it is on another branch.
            StateLostError: its state is in doubt.
            OverloadedError, QuotaExceededError: too much is to be read again for now.
        """
        found: list[int | CellarError] = []

        def acts() -> None:
            try:
                if self.table.lost[slot] and not self.table.restoring[slot]:
                    raise self.table.why_lost(slot)
                seed, tail = self.chronicles.back_to(slot, position, generated=generated)
                self.check_room(len(tail.inputs), flow)
                flow.charge(len(tail.inputs), pending=0)
                own = Return(slot=slot, seed=seed, tail=tail)
                self._returns.go(own)
                found.append(own.branch)
            except CellarError as error:
                found.append(error)
            except Exception as fault:
                _log.exception("session could not go back")
                found.append(unapplied(fault))

        slots = np.array([slot], np.int64)
        barrier = Barrier(slots=slots, acts=acts)
        if branch:
            barrier.branches = np.array([branch], np.uint64)
        await self.perform(barrier)
        (outcome,) = found
        if isinstance(outcome, CellarError):
            raise outcome
        if self.table.branch[slot] == outcome:
            await self.outcomes(Barrier(slots=slots))  # behind what puts it there
        return outcome

    # -- moving to another server -------------------------------------------------------------

    def check_stays(self, slot: int) -> None:
        """Check that a session does not move to another server.

        Raises:
            SessionMovingError: it does.
        """
        moving = self.table.moves.get(slot)
        if moving is not None:
            raise moving.error()

    def freeze(self, slot: int, moving: Moving) -> None:
        """Let a session step no more: it moves to another server, and is not idle for long."""
        self.table.move_away(slot, moving)
        longest_s = max(self._settings.max_idle_timeout_s, self.slots.ephemeral.timeout_s(slot))
        self._count_idle(slot, longest_s)

    def unfreeze(self, slot: int) -> None:
        """Let it step again."""
        self.table.move_away(slot, None)
        self._count_idle(slot, self.slots.ephemeral.timeout_s(slot))

    def _count_idle(self, slot: int, timeout_s: float) -> None:
        timeouts_s = np.array([timeout_s], np.float32)
        self.table.count_idle(np.array([slot]), idle_timeouts_s=timeouts_s, now_s=self._clock())

    def branch_off(self, slot: int, seed: Seed, noted: Callable[[], None] | None = None) -> None:
        """Let a session go on on a new branch where it stands, which is durable then as a whole.

        Args:
            slot: the session's; nothing is queued for it that moves it.
            seed: its state.
            noted: see `Return`.
        """
        self.admit_inbox()
        if not seed.position:
            seed = self._initial(slot)
        nothing: Inputs = np.zeros(0, np.int64)
        if self._blank_width:
            nothing = np.zeros((0, self._blank_width), np.float32)
        tail = drawn_steps(seed.position, nothing, np.zeros((0, 2), np.int64))
        self.bring(np.array([slot], np.int64))
        self._returns.go(Return(slot=slot, seed=seed, tail=tail, noted=noted))

    def _tell_moved(self, slot: int, seed: Seed, tail: Steps) -> None:
        if self.log is not None:
            self.log.moved(slot, *self.chronicles.not_there(slot, seed, tail))

    def _initial(self, slot: int) -> Seed:
        """What a session begins with; of most, nobody reads at position 0 what is in their rows."""
        states = self.initials.of(slot)
        return initial_seed(self._blank if states is None else states, branch=0)

    # -- life -------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Wait until nothing is queued or running."""
        while self.pending_steps or self.store.bringing is not None or self._returns.waiting:
            if self.store.bringing is not None:
                await asyncio.wait((self.store.bringing,))
                continue
            if not self.pending_steps:
                await asyncio.sleep(0)  # what is tried again is queued by then
                continue
            self._quiet.clear()
            await self._quiet.wait()

    def stop(self) -> None:
        """End the worker thread; call `drained` first."""
        self._worker.stop()

    def warm_up(self) -> None:
        """Run each size class on the scratch row, to learn what it costs."""
        measure = partial(self._executor.measure, self._settings.max_batch)
        seconds = self._do(measure)
        states = self._do(partial(self._runner.read, self.table.row[self._scratch]))
        self._blank = [np.zeros_like(own[0]) for own in states]
        for rows, found_s in seconds.items():
            self._policy.observe(Kind.STEPS, rows, found_s)
        self.limit.expect(seconds)

    def examine(self, look: Callable[[Runner, Ints], T]) -> T:
        """Let the device be looked at before it serves, with ``max_batch`` rows to work in."""
        slots = len(self.table) - 1 - self._settings.max_batch  # those of chunks
        return self._do(partial(look, self._runner, self.table.row[slots:-1]))

    def _do(self, work: Callable[[], T]) -> T:
        """Have something done by the thread that the device wants."""
        return self._worker.do(work) if self._runner.own_thread else work()

    # -- turns ----------------------------------------------------------------------------

    def wake(self) -> None:
        """Have a turn soon, if there is anything to do."""
        if not self.pending_steps:
            self._quiet.set()
        elif not self._woken:
            # After the callbacks that are ready now: what they submit shares the batch.
            self._loop.call_soon(self._turn)
            self._woken = True

    def _turn(self) -> None:
        """Do what is next; whatever goes wrong there, every caller is answered."""
        try:
            self._take_turn()
        except Exception as fault:
            self._give_up(fault)

    def _take_turn(self) -> None:
        if self._policy.loop_turns_left > 0:
            self._policy.loop_turns_left -= 1
            self._loop.call_soon(self._turn)
            return
        decision = self._decide()
        if decision.action is Action.WAIT:
            self._loop.call_soon(self._turn)
            return
        self._woken = False
        if decision.action is Action.NOTHING:
            return
        run = self._next(decision)
        if run is None:
            if not self.pending_steps:
                self._quiet.set()
        elif self._begin(run, hand=decision.action is Action.OVERLAP):
            self._run_here(run)

    def _decide(self, *, at_once: bool = False) -> Decision:
        return self._policy.decide(
            single_rows=self._inbox_steps + self._scheduler.ready_rows,
            feedback_rows=self.feedback.ready_rows,
            in_flight=self.feedback.in_flight,
            pending_steps=self.pending_steps,
            runs=len(self._runs),
            now_s=time.monotonic(),
            at_once=at_once or self._scheduler.moving_states > 0,
        )

    def _next(self, decision: Decision) -> Run | None:
        """What to run now."""
        if self._inbox and not (self._scheduler.waiting or self.feedback.ready_rows):
            run = self._straight()
            if run is not None:
                return run
        self.admit_inbox()
        if decision.action is Action.OVERLAP and decision.decode_steps == 1:
            ready = self._scheduler.ready_rows + self.feedback.ready_rows
            if ready < self._policy.worth_a_batch:
                return None  # rows of sessions that are running are not in the next run
        return self._tick.queued(
            decode_steps=decision.decode_steps,
            feedback_rows=decision.feedback_rows,
            room=self._policy.room(
                self.pending_steps, self._flows.active, few=self._flows.some_have_few()
            ),
        )

    def _straight(self) -> Run | None:
        """What came in first, if it need not be queued."""
        first = self._inbox[0]
        if len(self._inbox) > 1 and first.size < self._policy.worth_a_batch:
            return None  # a batch with the others costs less
        if isinstance(first, SingleSteps):
            if first.size > self._settings.max_batch:
                return None
            requests = list(first.requests())
            if first is self._singles:
                self._singles = None
            self._inbox[:1] = requests
            if len(requests) > 1:
                return None
            first = requests[0]
        run = self._tick.straight(first)
        if run is not None:
            self._chosen = run  # before it leaves the inbox: a fault finds it in one of both
            del self._inbox[0]
            self._inbox_steps -= first.size
        return run

    def _runs_here(self, run: Run) -> bool:
        if 2 * self.pending_steps > self.limit.roomy_steps:
            return False  # whoever comes now is soon refused: the loop must be free to say so
        return self._policy.runs_here(run.batch.kind, run.batch.cost_rows, run.batch.times)

    def _run_here(self, run: Run) -> None:
        """Run it on the event loop."""
        self._tick.execute(run)
        self._finish(run, here=True)
        self._deliver()
        self.wake()

    def _begin(self, run: Run, *, hand: bool = False) -> bool:
        """Leave a run to the worker, or say that it runs here."""
        try:
            if not hand and self._runs_here(run):
                return True
            self._runs.append(run)
            self._hand(run)
        except Exception as fault:
            _log.exception("run could not begin")
            if run in self._runs:
                self._runs.remove(run)
            self._tick.failures.withdraw(run, unapplied(fault))
        self._chosen = None
        self.wake()  # it may have another one
        return False

    def _hand(self, run: Run) -> None:
        """Have the worker run it."""
        tick, then = self._tick, partial(self._done, run)
        if tick.can_begin(run):
            begin, finish = partial(tick.begin, run), partial(tick.finish, run)
            is_over = partial(tick.is_over, run)
            ahead = Ahead(begin=begin, is_over=is_over, finish=finish, then=then)
            self._worker.hand_ahead(ahead)
        else:
            self._worker.hand(partial(tick.execute, run), then)

    def _done(self, run: Run) -> None:
        """Commit; hand the worker what is next, if it has nothing; and only then answer."""
        self._runs.remove(run)
        self._finish(run)
        try:
            if not self._runs:
                following = self._next(self._decide(at_once=True))
                if following is not None and self._begin(following):
                    self._following, self._chosen = following, None
        except Exception as fault:
            self._give_up(fault)
        self._deliver()
        following, self._following = self._following, None
        if following is not None:
            self._run_here(following)
        self.wake()

    def _finish(self, run: Run, *, here: bool = False) -> None:
        self._answering, self._chosen, batch = run, None, run.batch
        try:
            self._tick.commit(run)
        except Exception as fault:
            self._give_up(fault)
        try:
            self._policy.observe(batch.kind, batch.cost_rows, run.seconds / batch.times, here=here)
            self.limit.observe(batch.steps, self.pending_steps)
        except Exception:  # they learn from the next
            _log.exception("a run's cost could not be noted")

    def _deliver(self) -> None:
        run = self._answering
        assert run is not None, "it has been finished"
        try:
            self._tick.deliver(run)
        except Exception:  # behind the answers
            _log.exception("a run could not be counted")
        self._answering = None

    # -- faults ---------------------------------------------------------------------------

    def _admit(self, entry: Request | SingleSteps, place: Place | None = None) -> None:
        """Queue what came in; a fault is told to its callers, and the others' goes on."""
        try:
            requests = list(entry.requests(place)) if isinstance(entry, SingleSteps) else [entry]
        except Exception as fault:
            _log.exception("request failed")
            self._fail(entry, unapplied(fault))
            return
        for request in requests:
            try:
                if self.table.cold_count:  # those that are lost read nothing
                    out = self.table.cold[request.slots] & ~self.table.lost[request.slots]
                    for party, rows in request.by_party(np.flatnonzero(out)):
                        self.bring(request.slots[rows], party)
                self._admission.admit(request)
            except Exception as fault:
                self._give_up(fault)
                self._admission.fail(request, unapplied(fault))

    def _take_inbox(self) -> list[Request | SingleSteps]:
        entries, self._inbox, self._inbox_steps = self._inbox, [], 0
        self._singles = None
        return entries

    def _give_up(self, fault: Exception) -> None:
        """A fault left the queue in doubt: tell all who are in it, and go on with an empty one."""
        _log.error("turn failed", exc_info=fault)
        self._woken = False
        error = unapplied(fault)
        entries = self._take_inbox()
        running = [*self._runs, self._following] if self._following else self._runs
        chosen, self._chosen = self._chosen, None
        if chosen in running:
            chosen = None
        self.tiers.give_up()
        self._tick.failures.give_up(running, error, answering=self._answering, chosen=chosen)
        for entry in entries:
            self._fail(entry, error)
        self.wake()

    def _fail(self, entry: Request | SingleSteps, error: CellarError) -> None:
        """Refuse what came in and was not queued."""
        if isinstance(entry, Request):
            self._admission.fail(entry, error)
            return
        for _, slot, _, _, _, channel, number, receiver in entry.rows:
            at = self.table.stands(np.array([slot]))
            refused = Delivery(rows=np.zeros(1, np.int64), positions=at, error=error)
            told = partial(_put_other, receiver, channel, number, refused)
            if self.log is None:
                told()
            else:
                self.log.hold_last(told)


def _put_other(receiver: SingleReceiver, channel: int, number: int, delivery: Delivery) -> None:
    try:
        receiver.put_other(channel, number, delivery)
    except Exception:
        _log.exception("reply could not be handed over")


class _Collected(Receiver):
    """Gathers what becomes of some rows, until none is missing."""

    is_inside = True

    def __init__(self, wake: Callable[[], None], rows: int, done: "asyncio.Future[None]") -> None:
        self.wake = wake
        self.deliveries: list[Delivery] = []
        self._rows = rows
        self._done = done

    @property
    def missing(self) -> int:
        """Rows of which nothing is known."""
        # Twice there is what was refused since its delivery had failed.
        return max(0, self._rows - sum([len(one.rows) for one in self.deliveries]))

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self.deliveries.append(delivery)
        if not self.missing and not self._done.done():
            self._done.set_result(None)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        self.deliver(delivery.but([one.rows for one in self.deliveries]))
