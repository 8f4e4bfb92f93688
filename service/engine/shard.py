"""One device's share of a model: its sessions' columns, its queue, its runner, its thread.

A tick is one turn: schedule a batch, run it, commit it, deliver it. Everything but ``run``
happens on the event loop. A batch that is expected to run for less than a thread hop costs runs
on the loop too; a longer one runs on the shard's worker thread, and the next batch is handed to
the worker before the last one's answers are delivered.

Knows nothing of session ids, models' names or gRPC.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import structlog

from service.engine.admission import Admission
from service.engine.batch import (
    Batch,
    Chunk,
    Delivery,
    Fork,
    Ints,
    Kind,
    Part,
    Peek,
    Steps,
    Work,
)
from service.engine.execution import Execution, Outcome
from service.engine.request import Request, Submission
from service.engine.runner import Runner
from service.engine.scheduler import Scheduler
from service.engine.session import Session, SessionTable
from service.engine.slots import SlotAllocator
from service.errors import (
    CancelledError,
    CellarError,
    InternalError,
    OverloadedError,
    PositionMismatchError,
    SessionClosedError,
    StateLostError,
)
from service.metrics import Metrics
from service.settings import EngineSettings

_log = structlog.get_logger(__name__)


class Shard:
    """Serves the sessions of one model on one device.

    Args:
        name: for metrics and logs.
        runner: the device; its arena has ``rows(settings)`` rows.
        chunk_steps: the most time steps that one run of this model takes.
        metrics: where to count.
        settings: limits.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        *,
        chunk_steps: int,
        metrics: Metrics,
        settings: EngineSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        rows = self.rows(settings)
        self.slots = SlotAllocator(0, settings.max_sessions)
        self.spares = SlotAllocator(settings.max_sessions, settings.spare_slots)
        self.table = SessionTable(rows)
        self.scheduler = Scheduler(
            slots=rows,
            spares=self.spares,
            max_batch=settings.max_batch,
            chunk_steps=chunk_steps,
        )
        self._sessions: list[Session | None] = [None] * settings.max_sessions  # by slot
        self._name = name
        self._execution = Execution(runner, scratch=rows - 1)
        self._metrics = metrics
        # Looked up once: a tick may cost no more than the model.
        self._count_steps = metrics.steps.labels(name)
        self._count_pending = metrics.pending_steps.labels(name)
        self._queue_seconds = metrics.step_seconds.labels("queue")
        self._run_seconds = metrics.step_seconds.labels("run")
        self._reply_seconds = metrics.step_seconds.labels("reply")
        self._admission = Admission(
            self.table, self.scheduler, metrics, when_idle=self.when_idle, wake=self._wake
        )
        self._settings = settings
        self._clock = clock
        self._idle_callbacks: dict[int, list[Callable[[], None]]] = {}
        self._seconds: dict[tuple[Kind, int], float] = {}  # run time by kind and size class
        self._woken = False
        self._running = False
        self._quiet = asyncio.Event()  # set after each tick that leaves nothing to do
        self._jobs: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._worker = threading.Thread(target=self._work, name=f"shard {name}", daemon=True)
        self._worker.start()

    @staticmethod
    def rows(settings: EngineSettings) -> int:
        """Rows of the arena: sessions, spare slots, and the scratch row."""
        return settings.max_sessions + settings.spare_slots + 1

    # -- sessions -------------------------------------------------------------------------

    def begin(self, session: Session, *, idle_timeout_s: float) -> None:
        """Start a session in the slot it was given."""
        self._sessions[session.slot] = session
        self.table.open(session.slot, now_s=session.opened_s, idle_timeout_s=idle_timeout_s)

    def reset(self, slot: int) -> None:
        """Put the session of an idle slot back to position 0."""
        assert self.scheduler.is_idle(slot), "reset waits until the slot has settled"
        self._execution.forget(slot)
        self.table.reset(slot, now_s=self._clock())

    def release(self, slot: int) -> None:
        """End the session of a slot; its queued steps are refused, then the slot is free."""
        self._sessions[slot] = None
        self.table.close(slot)
        self.when_idle(slot, lambda: self._free(slot))

    def session_at(self, slot: int, generation: int) -> Session | None:
        """The session of a slot, if the slot has not changed hands since that generation."""
        return self._sessions[slot] if self.slots.generation[slot] == generation else None

    def idle_sessions(self, now_s: float, *, at_most: int) -> list[Session]:
        """Sessions that have been idle for longer than their timeout."""
        found: list[Session] = []
        for slot in self.table.idle(now_s)[:at_most].tolist():
            session = self._sessions[slot]
            if session is not None and self.scheduler.is_idle(slot):
                found.append(session)
        return found

    def _free(self, slot: int) -> None:
        self._execution.forget(slot)
        self.slots.release(slot)

    def _free_spare(self, spare: int) -> None:
        self.spares.release(spare)
        self._wake()  # a fork or a long chunk may wait for it

    # -- asking ---------------------------------------------------------------------------

    def submit(self, request: Request) -> Submission:
        """Queue a request's rows; each is answered through ``request.deliver``, once.

        Raises:
            OverloadedError: the queue is full; nothing was queued.
        """
        steps = int(request.steps.sum())
        if self.scheduler.pending_steps + steps > self._settings.max_pending_steps:
            raise OverloadedError(
                f"{self.scheduler.pending_steps} steps are queued, the limit is "
                f"{self._settings.max_pending_steps}: try again shortly"
            )
        submission = Submission()
        self._admission.admit(request, submission)
        return submission

    async def perform(self, work: Work) -> list[Delivery]:
        """Run work that needs no admission: peeks, forks, and steps of spare slots.

        Raises:
            CellarError: a row failed.
        """
        done = asyncio.Event()
        deliveries: list[Delivery] = []
        missing = len(work.slots)

        def deliver(delivery: Delivery) -> None:
            nonlocal missing
            deliveries.append(delivery)
            missing -= len(delivery.rows)
            if missing == 0:
                done.set()

        work.deliver = deliver
        self.scheduler.submit(work)
        self._wake()
        try:
            await done.wait()
        except asyncio.CancelledError:
            work.cancelled = True
            raise
        for delivery in deliveries:
            if delivery.error is not None:
                raise delivery.error
        return deliveries

    def when_idle(self, slot: int, callback: Callable[[], None]) -> None:
        """Call back once a slot has nothing queued or running; now, if that is so already."""
        if self.scheduler.is_idle(slot):
            callback()
        else:
            self._idle_callbacks.setdefault(slot, []).append(callback)

    def return_spares(self, fork: Fork) -> None:
        """Give back the spare slots of a fork, each once nothing is queued for it."""
        for spare in fork.spares.tolist():
            self.when_idle(spare, partial(self._free_spare, spare))
        fork.spares = fork.spares[:0]

    async def settled(self, slot: int) -> None:
        """Wait until a slot has nothing queued or running."""
        while not self.scheduler.is_idle(slot):
            idle = asyncio.Event()
            self.when_idle(slot, idle.set)
            await idle.wait()

    async def drained(self) -> None:
        """Wait until nothing is queued or running."""
        while self.scheduler.pending_steps or self._running:
            self._quiet.clear()
            await self._quiet.wait()

    def stop(self) -> None:
        """End the worker thread; nothing may be queued."""
        self._jobs.put(None)
        self._worker.join()

    def warm_up(self) -> None:
        """Run each size class once or twice on the scratch row, to learn what it costs."""
        for size, seconds in self._execution.measure(self._settings.max_batch).items():
            self._seconds[Kind.STEPS, size.bit_length()] = seconds

    # -- ticks ----------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self.scheduler.pending_steps:
            self._quiet.set()
        elif not self._woken and not self._running:
            self._woken = True
            # After the callbacks that are ready now: what they submit shares the batch.
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._woken = False
        if self._running:
            return
        batch = self._next_batch()
        if batch is None:
            return
        if not self._is_short(batch):
            self._running = True
            self._jobs.put(batch)
            return
        outcome = self._run(batch)
        self._commit(batch, outcome)
        self._deliver(batch, outcome)
        self._wake()

    def _next_batch(self) -> Batch | None:
        while (batch := self.scheduler.schedule()) is not None:
            screened = self._screen(batch)
            if screened is not None:
                return screened
        return None

    def _screen(self, batch: Batch) -> Batch | None:
        """Take out rows that must not run any more: the last look before state changes."""
        slots = np.concatenate([part.slots for part in batch.parts])
        expected = np.concatenate([part.column(part.work.expected) for part in batch.parts])
        table = self.table
        bad = (table.position[slots] != expected) | table.lost[slots] | table.closing[slots]
        if not bad.any() and not any(part.work.cancelled for part in batch.parts):
            return batch
        kept: list[Part] = []
        start = 0
        for part in batch.parts:
            rows = bad[start : start + len(part.rows)]
            start += len(part.rows)
            if part.work.cancelled:
                gone = CancelledError("the caller went away before the step ran")
                self._drop(part, part.work.failure or gone)
                continue
            for index in np.flatnonzero(rows).tolist():
                one = Part(
                    work=part.work,
                    rows=part.rows[index : index + 1],
                    start=part.start,
                    stop=part.stop,
                )
                self._drop(one, self._why_not(one))
            if not rows.all():
                good = part.rows[~rows]
                kept.append(Part(work=part.work, rows=good, start=part.start, stop=part.stop))
        return Batch(kind=batch.kind, parts=tuple(kept)) if kept else None

    def _why_not(self, part: Part) -> CellarError:
        slot = int(part.slots[0])
        if self.table.closing[slot]:
            return SessionClosedError("the session was closed before the step ran")
        if self.table.lost[slot]:
            return lost_error(int(self.table.position[slot]))
        expected = int(part.column(part.work.expected)[0])
        return PositionMismatchError(expected, int(self.table.position[slot]))

    def _drop(self, part: Part, error: CellarError) -> None:
        if isinstance(part.work, Fork):
            self.return_spares(part.work)
        self.scheduler.retire(part)
        self._call_idle(part.slots)
        part.work.deliver(
            Delivery(
                rows=part.column(part.work.origin),
                positions=self.table.position[part.slots],
                error=error,
            )
        )

    def _is_short(self, batch: Batch) -> bool:
        seconds = self._seconds.get((batch.kind, batch.steps.bit_length()))
        return seconds is not None and seconds <= self._settings.inline_run_s

    def _run(self, batch: Batch) -> Outcome:
        started = time.monotonic()
        outcome = self._execution.run(batch)
        outcome.started_s = started
        outcome.seconds = time.monotonic() - started
        return outcome

    def _work(self) -> None:
        while (batch := self._jobs.get()) is not None:
            outcome = self._run(batch)
            self._loop.call_soon_threadsafe(self._done, batch, outcome)

    def _done(self, batch: Batch, outcome: Outcome) -> None:
        self._commit(batch, outcome)
        following = self._next_batch()
        if following is not None and not self._is_short(following):
            self._jobs.put(following)
            following = None
        else:
            self._running = False
        self._deliver(batch, outcome)
        if following is not None:  # short: but after the answers of the batch before it
            outcome = self._run(following)
            self._commit(following, outcome)
            self._deliver(following, outcome)
        self._wake()

    def _commit(self, batch: Batch, outcome: Outcome) -> None:
        """Count what has run, and let what waits for it go on."""
        key = (batch.kind, batch.steps.bit_length())
        known = self._seconds.get(key, outcome.seconds)
        self._seconds[key] = 0.9 * known + 0.1 * outcome.seconds
        now_s = self._clock()
        applied = 0
        for part in batch.parts:
            work = part.work
            slots = part.slots
            if outcome.fault is None:
                if isinstance(work, Steps) and work.commit:
                    self.table.commit(
                        slots, steps=1, contents=part.column(work.contents), now_s=now_s
                    )
                    applied += len(slots)
                elif isinstance(work, Chunk) and work.commit and part.is_last:
                    self.table.commit(slots, steps=work.size, contents=work.contents, now_s=now_s)
                    self._execution.remember(work)
                    applied += work.size
                elif isinstance(work, Fork):
                    self.table.fork(int(slots[0]), work.spares)
            else:
                self._contain(part, outcome.fault)
        self.scheduler.complete(batch)
        if self._idle_callbacks or outcome.fault is not None:
            for part in batch.parts:
                self._call_idle(part.slots)
        self._count_steps.inc(applied)
        self._metrics.batch_size.observe(batch.steps)
        self._run_seconds.observe(outcome.seconds)
        queued = max(0.0, outcome.started_s - batch.parts[0].work.submitted_s)
        self._queue_seconds.observe(queued)
        self._count_pending.set(self.scheduler.pending_steps)

    def _contain(self, part: Part, fault: Exception) -> None:
        """A run failed: what it may have half written is lost, and says so."""
        _log.error("run failed", shard=self._name, kind=type(part.work).__name__, exc_info=fault)
        work = part.work
        if isinstance(work, Steps | Chunk) and work.commit and part.is_last:
            self.table.lost[part.slots] = True
        elif isinstance(work, Chunk):
            # Its earlier pieces are on a spare slot: the session was not touched.
            work.cancelled = True
            work.failure = _not_run()
        elif isinstance(work, Fork):
            self.return_spares(work)

    def _deliver(self, batch: Batch, outcome: Outcome) -> None:
        began = time.monotonic()
        for index, part in enumerate(batch.parts):
            if not part.is_last:
                continue
            work = part.work
            positions = self.table.position[part.slots]
            rows = part.column(work.origin)
            if outcome.fault is not None:
                error: CellarError = _not_run()
                if self.table.lost[part.slots].any():
                    error = lost_error(int(positions[0]))
                work.deliver(Delivery(rows=rows, positions=positions, error=error))
                continue
            work.deliver(
                Delivery(
                    rows=rows,
                    positions=positions,
                    answers=outcome.answers[index],
                    replayed=isinstance(work, Peek) and work.replays,
                )
            )
        self._reply_seconds.observe(time.monotonic() - began)

    def _call_idle(self, slots: Ints) -> None:
        for slot in slots.tolist():
            if not self.scheduler.is_idle(slot):
                continue
            self.table.settle(slot)
            callbacks = self._idle_callbacks.pop(slot, [])
            for index, callback in enumerate(callbacks):
                callback()
                if not self.scheduler.is_idle(slot):  # it has queued something: the rest waits
                    self._idle_callbacks.setdefault(slot, []).extend(callbacks[index + 1 :])
                    break


def lost_error(position: int) -> StateLostError:
    """What a session answers whose state is in doubt."""
    return StateLostError(
        f"a fault at position {position} left the session's state in doubt: reset the session "
        "and send its steps again from position 0"
    )


def _not_run() -> InternalError:
    return InternalError("the model could not be run; the server's log tells why")
