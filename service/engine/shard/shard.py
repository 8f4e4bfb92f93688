"""One device's share of a model: its sessions' columns, its queue, its runner, its thread.

A turn is a sentence: the policy decides, a run is chosen, it is executed, committed, delivered.
Everything but the execution happens on the event loop, and a short execution does too.

Knows nothing of models or gRPC.
"""

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.execution.executor import Executor
from service.engine.execution.runner import Runner
from service.engine.log.arithmetics import Arithmetics
from service.engine.log.commit_log import CommitLog
from service.engine.log.folding import Folding
from service.engine.log.recovery import StoredSession
from service.engine.log.shard_log import ShardLog
from service.engine.scheduler.admission import Admission
from service.engine.scheduler.feedback import Feedback
from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.slots import SlotAllocator, SlotManager
from service.engine.sessions.table import SessionTable
from service.engine.shard.policy import MOST_DECODE_STEPS, Action, BatchPolicy, Decision
from service.engine.shard.queue_limit import QueueLimit
from service.engine.shard.restorer import Restorer, Saved
from service.engine.shard.returns import Return, Returns
from service.engine.shard.tick import Run, Tick
from service.engine.shard.worker import Worker
from service.engine.work.columns import Ints
from service.engine.work.flow import Flow, Flows
from service.engine.work.memory import BufferMemory
from service.engine.work.replies import UNKNOWN, Delivery, Receiver, SingleReceiver
from service.engine.work.request import Request, SingleStep, SingleSteps
from service.engine.work.work import Barrier, Fork, Kind, Save, Work, hand_over
from service.errors import (
    BadInputError,
    CellarError,
    NotStartedError,
    SessionClosedError,
    StaleBranchError,
    StoreUnavailableError,
    unapplied,
)
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import StoreError, StoreFailedError

T = TypeVar("T")
_AGAIN_S = 0.05  # a store that could not be read is read again after that
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
        runner: the device; its arena has ``rows(settings, sessions)`` rows.
        sessions: the most that can be open.
        chunk_steps: the most time steps that one run of this model takes.
        bounds: what drawn values are kept within; ``None`` for a model that draws tokens.
        device_lost: is told on the event loop when no run on the device will succeed any more.
        memory: where replies that may be repeated are counted.
        log: where what sessions read is kept; ``None`` where it is not.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        *,
        sessions: int,
        chunk_steps: int,
        bounds: tuple[np.float32, np.float32] | None,
        memory: BufferMemory,
        metrics: Metrics,
        settings: EngineSettings,
        flows: Flows,
        clock: Callable[[], float] = time.monotonic,
        device_lost: Callable[[Exception], None],
        log: CommitLog | None = None,
    ) -> None:
        rows = self.rows(settings, sessions)
        chunk_spares = settings.max_batch
        self.table = SessionTable(rows)
        self.log = None if log is None else ShardLog(log, self.table, name)
        self._executor = Executor(
            runner,
            scratch=rows - 1,
            memory=memory,
            max_history_bytes=settings.max_history_bytes,
        )
        self.histories = self._executor.histories
        """See `Executor.histories`."""
        self.slots = SlotManager(
            self.table,
            sessions=sessions,
            spares=settings.spare_slots,
            forget=self._executor.forget,
            wake=self.wake,
        )
        self._loop = asyncio.get_running_loop()
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
            fork_spares=self.slots.spares,
            chunk_spares=SlotAllocator(rows - 1 - chunk_spares, chunk_spares),
            max_batch=settings.max_batch,
            chunk_steps=chunk_steps,
        )
        self._admission = Admission(
            self.table, self._scheduler, metrics, again=self._admit, log=self.log
        )
        self._tick = Tick(
            self.table,
            self._scheduler,
            self.feedback,
            self.slots,
            runner,
            self._executor,
            metrics,
            log=self.log,
            model=name,
            max_batch=settings.max_batch,
            clock=clock,
            device_lost=device_lost,
            lost=self._bring_back,
        )
        self.limit = QueueLimit(settings, count=metrics.overloaded_steps.labels(name).inc)
        self._flows = flows
        self._clock = clock
        self._settings = settings
        self._scratch = np.array([rows - 1], np.int64)  # never steps: stands at position 0
        self._runner = runner
        self._policy = BatchPolicy(
            inline_run_s=-math.inf if runner.own_thread else settings.inline_run_s,
            max_batch=settings.max_batch,
            can_decode=runner.can_decode,
        )
        self._restorer = (
            None
            if log is None
            else Restorer(
                self.table,
                log.store,
                queue=self._scheduler.submit,
                hold=self._hold,
                again=self._bring_back,
            )
        )
        self._lost: dict[int, int] = {}  # whose sessions are to be restored: slot and branch
        self._returns = Returns(
            self.table,
            queue=self._scheduler.submit,
            wake=self.wake,
            call_soon=self._loop.call_soon,
            restore=self._restores,
            give_up=self._give_up,
        )
        self._bringing: asyncio.Task[None] | None = None
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
        """Rows of the arena: sessions, spare slots of forks and of chunks, the scratch row."""
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

    def check_room(self, steps: int, flow: Flow) -> None:
        """Check that so many steps of a flow may be queued.

        Raises:
            OverloadedError: not now.
            StoreFullError, StoreUnavailableError: the store takes no more.
        """
        if self.log is not None:
            self.log.log.check()
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
            NotStartedError: it has read nothing yet; ``field`` is what the caller has to give.
        """
        self.admit_inbox()
        if self.table.lost[slot]:
            raise self.table.why_lost(slot)
        position = int(self.table.accepted[slot])
        if position == 0:
            raise NotStartedError(f"{field}: the session has read nothing yet: give it steps first")
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
            await self._gather(Barrier(slots=returning))
        await self.log.wait(slots)

    def end(self, slot: int) -> None:
        """End the session of a slot; its queued steps are refused, then the slot is free."""
        self.admit_inbox()
        if self.log is not None:
            self.log.close(slot)
        if self._restorer is not None:
            self._restorer.forget(slot)
        for work in self._scheduler.waiting_for_spares(slot):
            work.failure = SessionClosedError("the session was closed before the steps ran")
        self.slots.end(slot)
        self.wake()

    def expired_sessions(self, now_s: float, *, at_most: int) -> list[str]:
        """Sessions that have been idle for longer than their timeout."""
        self.admit_inbox()
        return self.slots.expired(now_s, at_most=at_most)

    async def borrow(self, copies: int, flow: Flow) -> Fork:
        """Spare slots in the initial state, which the caller must return."""
        at = np.zeros(1, np.int64)
        fork = Fork(slots=self._scratch, expected=at, row_cost=copies, flow=flow)
        if self.slots.spares.free < copies or self._scheduler.forks_wait:
            await self.perform(fork)  # in its turn
        else:
            fork.spares = self.slots.spares.allocate_many(copies)
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

    async def _gather(self, *works: Work) -> list[Delivery]:
        """What became of some work."""
        done: asyncio.Future[None] = self._loop.create_future()
        collected = _Collected(self.wake, sum(len(work.slots) for work in works), done)
        self.admit_inbox()
        for work in works:
            work.reply_to = collected
            if self.table.cold_count:
                self._thaw(work.slots)
        for work in works:
            if isinstance(work, Request):
                self._admit(work)
                continue
            try:
                self._scheduler.submit(work)
            except Exception as fault:
                self._give_up(fault)
                positions = self.table.stands(work.slots)
                rows = work.rows_at(np.arange(len(work.slots)))
                failed = Delivery(rows=rows, positions=positions, error=unapplied(fault))
                hand_over(work, failed, fail=True)
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

    # -- going back ---------------------------------------------------------------------------

    def put(self, work: Work) -> None:
        """Queue work that is no request, whose receiver hears what becomes of it."""
        self.admit_inbox()
        try:
            self._scheduler.submit(work)
        except Exception as fault:
            self._give_up(fault)
        self.wake()

    def go_back(self, own: Return, *, branch: int, stands: int, under_way: int) -> bool:
        """Let a session stand where it had read less, see `Returns.begin`."""
        self.admit_inbox()
        return self._returns.begin(own, branch=branch, stands=stands, under_way=under_way)

    def _restores(self, slots: Ints) -> bool:
        """Have the log restore sessions whose states are in doubt, if there is one that can."""
        if self.log is None or not self.log.log.keeps_steps:
            return False
        self._bring_back(slots)
        return True

    # -- the log ----------------------------------------------------------------------------

    def restore(self, slot: int, session: StoredSession) -> None:
        """Let a session that was opened in a slot stand where the store says."""
        assert self._restorer is not None, "there is a log"
        row, table = session.row, self.table
        position = session.position
        table.restore(slot, position=position, branch=row.branch, idle_s=row.idle_s, left=row.left)
        table.number[slot] = row.number
        table.first_group[slot], table.tail_steps[slot] = session.first_group, session.tail_steps
        if session.is_damaged or session.is_aside:
            table.warm(slot)
            why = "some of what it had read is damaged"
            if session.is_aside:
                why = "to read again what it had read has ended the process, twice"
            self._restorer.set_aside(slot, why)
        else:
            self._restorer.keep(slot, session)

    def expect(self, arithmetics: Arithmetics, folding: Folding) -> None:
        """Say under which arithmetics the journal's steps were run, and where folds are noted."""
        if self._restorer is not None:
            self._restorer.arithmetics, self._restorer.folding = arithmetics, folding

    def _hold(self, slots: Ints) -> Callable[[], None]:
        """Let what is queued for these wait; returns what lets it go on."""
        token = self._scheduler.hold(slots)

        def release() -> None:
            try:
                self._scheduler.release(token)
            except Exception as fault:
                self._give_up(fault)
            self.wake()

        return release

    @property
    def cold(self) -> int:
        """Sessions whose state is in the store alone."""
        return self.table.cold_count

    @property
    def is_thawing(self) -> bool:
        """Whether some of these are on their way."""
        return self._restorer is not None and self._restorer.is_busy

    @property
    def restored(self) -> int:
        """How often a session was brought back."""
        return 0 if self._restorer is None else self._restorer.restored

    @property
    def not_restored(self) -> int:
        """Sessions whose state could not be brought back; they are lost."""
        return 0 if self._restorer is None else len(self._restorer.failed)

    def thaw_some(self, at_most: int) -> None:
        """Bring back some sessions whose state is in the store alone."""
        if self._restorer is not None:
            self._thaw(np.array(self._restorer.some(at_most), np.int64))
            self.wake()

    def _thaw(self, slots: Ints) -> None:
        """Bring these back, if they are not here: whatever is asked of them waits behind that."""
        if self._restorer is None:
            return
        try:
            self._restorer.thaw(slots[self.table.cold[slots]].tolist())
        except Exception as fault:
            self._give_up(fault)

    def _bring_back(self, slots: Ints) -> None:
        """A run has failed: the states that it wrote are in doubt, what they had read is not."""
        if self._restorer is None or self.log is None or not self.log.log.keeps_steps:
            return
        for slot in slots.tolist():
            if self.table.number[slot] and self._restorer.may_try_again(slot):
                self.table.restoring[slot] = True
                self._lost[slot] = self.table.branch.item(slot)
        if self._bringing is None and self._lost:
            self._bringing = self._loop.create_task(self._bring_all_back())

    async def _bring_all_back(self) -> None:
        try:
            while self._lost:
                lost, self._lost = self._lost, {}
                await self._bring_some_back(lost)
        finally:
            self._bringing = None

    async def _bring_some_back(self, lost: dict[int, int]) -> None:
        """Restore lost sessions from the log, each once what was queued behind it is refused.

        Args:
            lost: the slot and the branch of each.
        """
        table, log = self.table, self.log
        assert log is not None
        assert self._restorer is not None
        numbers = {slot: int(table.number[slot]) for slot in lost}
        try:
            found = await log.log.read_back(numbers.values())
            while self._some_are_busy(lost):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        except (StoreFailedError, StoreUnavailableError):
            return  # they are not lost: the server ends, and the next one has them
        except Exception as fault:  # a store that cannot be read now, or a fault of ours
            exc_info = None if isinstance(fault, StoreError) else fault
            _log.error("sessions could not be read back", reason=str(fault), exc_info=exc_info)
            await asyncio.sleep(_AGAIN_S)
            self._read_again(lost, str(fault))
            return
        for slot, branch in lost.items():
            # It may have ended meanwhile or was reset, and has failed again on its next branch.
            if not self._is_lost(slot, branch):
                continue
            session = found.get(numbers[slot])
            if session is not None and session.row.branch != branch:
                self._lost[slot] = branch  # the log does not know yet that it goes back: once more
                continue
            table.restoring[slot] = False
            if session is None or session.is_damaged or session.position < table.position[slot]:
                self._restorer.set_aside(slot, "some of what it had read is not in the store")
                continue
            table.lost[slot] = False
            table.freeze(slot, session.position)
            self._restorer.keep(slot, session)
            self._thaw(np.array([slot]))
        self.wake()

    def _is_lost(self, slot: int, branch: int) -> bool:
        """Whether a session that was lost, and to be restored, is still to be."""
        table = self.table
        is_there = table.number.item(slot) != 0 and table.branch.item(slot) == branch
        return is_there and table.restoring.item(slot)

    def _some_are_busy(self, lost: dict[int, int]) -> bool:
        """Whether some that are still lost are not idle; one that was reset may never be."""
        return any(self._is_lost(*own) and not self.is_idle(own[0]) for own in lost.items())

    def _read_again(self, lost: dict[int, int], reason: str) -> None:
        """The store could not be read: try those again that may be."""
        assert self._restorer is not None
        for slot, branch in lost.items():
            if not self._is_lost(slot, branch):
                continue
            self.table.restoring[slot] = False
            self._bring_back(np.array([slot]))
            if not self.table.restoring[slot]:
                self._restorer.set_aside(slot, reason)

    async def save(self, slots: Ints) -> Saved:
        """Copies of sessions' states, once what these have read is durable.

        Those that are lost, or end meanwhile, are left out.
        """
        assert self.log is not None, "there is a log"
        save = Save(slots=slots, is_checkpoint=True)
        try:
            for delivery in await self._gather(save):
                if delivery.error is not None:
                    save.numbers[delivery.rows] = 0
            if not save.numbers.any():
                return Saved(save)
            await self.log.log.wait(int(self.table.group[slots].max()))
        except BaseException:  # nobody is left to keep them
            self.log.unsave(save)
            raise
        return Saved(save, self.idle_s(slots))

    def unsave(self, saved: Saved) -> None:
        """Copies could not be kept."""
        if self.log is not None:
            self.log.unsave(saved.save)

    def idle_s(self, slots: Ints) -> NDArray[np.float64]:
        """For how long sessions have been idle, (rows,)."""
        idle_s: NDArray[np.float64] = self._clock() - self.table.last_used_s[slots]
        return np.maximum(idle_s, 0.0)

    # -- life -------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Wait until nothing is queued or running."""
        while self.pending_steps or self._bringing is not None:
            if self._bringing is not None:
                await asyncio.wait((self._bringing,))
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
        for rows, found_s in seconds.items():
            self._policy.observe(Kind.STEPS, rows, found_s)
        self.limit.expect(seconds)

    def examine(self, look: Callable[[Runner, Ints], T]) -> T:
        """Let the device be looked at before it serves, with ``max_batch`` slots to work in."""
        spares = len(self.table) - 1 - self._settings.max_batch  # those of chunks
        slots = np.arange(spares, spares + self._settings.max_batch)
        return self._do(partial(look, self._runner, slots))

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
            at_once=at_once,
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
            self._worker.hand(partial(self._tick.execute, run), partial(self._done, run))
        except Exception as fault:
            _log.exception("run could not begin")
            if run in self._runs:
                self._runs.remove(run)
            self._tick.withdraw(run, unapplied(fault))
        self._chosen = None
        self.wake()  # it may have another one
        return False

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

    def _admit(
        self, entry: Request | SingleSteps, place: Callable[[Flow, int], int] | None = None
    ) -> None:
        """Queue what came in; a fault is told to its callers, and the others' goes on."""
        try:
            requests = list(entry.requests(place)) if isinstance(entry, SingleSteps) else [entry]
        except Exception as fault:
            _log.exception("request failed")
            self._fail(entry, unapplied(fault))
            return
        for request in requests:
            try:
                if self.table.cold_count:
                    self._thaw(request.slots)
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
        self._tick.give_up(running, error, answering=self._answering, chosen=chosen)
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
        self.missing = self._rows = rows
        self._done = done

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self.deliveries.append(delivery)
        self.missing = self._rows - sum([len(one.rows) for one in self.deliveries])
        if not self.missing and not self._done.done():
            self._done.set_result(None)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        self.deliver(delivery.but([one.rows for one in self.deliveries]))
