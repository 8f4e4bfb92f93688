"""One device's share of a model: its sessions' columns, its queue, its runner, its thread.

A tick is one turn: schedule a batch, screen it, run it, commit it, deliver it. Everything but
the run happens on the event loop. A batch that is expected to run for less than a thread hop
costs runs on the loop too; a longer one runs on the shard's worker thread. The worker is handed
its next batch while it still runs one, where waiting would not make that batch cheaper, so that it
need not wait for the event loop in between.

Knows nothing of session ids, models' names or gRPC.
"""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from service.engine.execution.cpu.runner import Runner
from service.engine.execution.executor import Execution
from service.engine.scheduler.admission import Admission
from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.slots import SlotAllocator
from service.engine.sessions.table import Session, SessionTable
from service.engine.shard.costs import RunCosts
from service.engine.shard.ordinary_way import BatchRun, OrdinaryWay
from service.engine.shard.patience import Patience
from service.engine.shard.short_way import ShortRun, ShortWay
from service.engine.shard.slot_manager import Residents
from service.engine.shard.way import Run
from service.engine.work.lones import LoneKind, Lones
from service.engine.work.request import Lone, Request
from service.engine.work.work import (
    Caller,
    Decode,
    Delivery,
    Draws,
    Fork,
    Inputs,
    Ints,
    Kind,
    Work,
)
from service.errors import OverloadedError
from service.metrics import Metrics
from service.settings import EngineSettings

_SECONDS_PER_TURN = 120e-6
_MOST_TURNS = 8
_FEW = 1 / 8
_WORTH_A_BATCH = 128  # rows that gain nothing from more of them, on a CPU
_HANDED_AT_ONCE = 2  # runs that the worker may have: one runs, one waits


class Shard:
    """Serves the sessions of one model on one device.

    Args:
        name: for metrics and logs.
        runner: the device; its arena has ``rows(settings, sessions)`` rows.
        sessions: the most that can be open.
        chunk_steps: the most time steps that one run of this model takes.
        metrics: where to count.
        settings: limits.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        *,
        sessions: int,
        chunk_steps: int,
        metrics: Metrics,
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        rows = self.rows(settings, sessions)
        chunk_spares = settings.max_batch
        self.slots = SlotAllocator(0, sessions)
        self.spares = SlotAllocator(sessions, settings.spare_slots)
        self.table = SessionTable(rows)
        self.scheduler = Scheduler(
            slots=rows,
            fork_spares=self.spares,
            chunk_spares=SlotAllocator(rows - 1 - chunk_spares, chunk_spares),
            max_batch=settings.max_batch,
            chunk_steps=chunk_steps,
        )
        self._settings = settings
        # Elsewhere a run may cost the same however many rows it has.
        most = settings.max_batch
        self._worth_a_batch = most if runner.own_thread else min(_WORTH_A_BATCH, most)
        self._scratch = np.array([rows - 1], np.int64)  # never steps: stands at position 0
        self._execution = Execution(
            runner, scratch=rows - 1, max_history_bytes=settings.max_history_bytes
        )
        self.residents = Residents(
            self.slots,
            self.spares,
            self.table,
            self.scheduler,
            forget=self._execution.forget,
            wake=self._wake,
        )
        self._admission = Admission(self.table, self.scheduler, metrics)
        self._inbox: list[Lone | Lones | Request] = []  # what came in since the last tick
        self._lones: dict[LoneKind, Lones] = {}  # those of the inbox that more can be added to
        self._inbox_steps = 0
        self._woken = False
        self._patience = Patience()
        self._turns_left = 0  # of the event loop, before the next tick
        self._handed = 0  # runs that the worker has, begun or not
        self._quiet = asyncio.Event()  # set whenever nothing is queued
        self._own_thread = runner.own_thread
        # On a device that wants its own thread no run is short: all go to the worker.
        self._costs = RunCosts(-math.inf if self._own_thread else settings.inline_run_s)
        ways = (self.table, self.scheduler, self._execution, self.residents, self._costs, metrics)
        self._ordinary_way = OrdinaryWay(*ways, model=name, clock=clock)
        self._short_way = ShortWay(*ways, model=name, clock=clock)
        self._jobs: queue.SimpleQueue[BatchRun | ShortRun | Callable[[], None] | None] = (
            queue.SimpleQueue()
        )
        self._loop = asyncio.get_running_loop()
        self._worker = threading.Thread(target=self._work, name=f"shard {name}", daemon=True)
        self._worker.start()

    @staticmethod
    def rows(settings: EngineSettings, sessions: int) -> int:
        """Rows of the arena: sessions, spare slots of forks and of chunks, the scratch row."""
        return sessions + settings.spare_slots + settings.max_batch + 1

    # -- asking ---------------------------------------------------------------------------

    @property
    def pending_steps(self) -> int:
        """Steps queued or running."""
        return self.scheduler.pending_steps + self._inbox_steps

    def submit(self, entry: Lone | Request, *, limited: bool = True) -> None:
        """Take steps in; their callers are answered, once for each row.

        They are looked at in the next tick, together with all else that comes in before it.
        Without ``limited`` they are taken however long the queue is.

        Raises:
            OverloadedError: the queue is full; nothing was queued.
        """
        if limited and self.pending_steps + entry.size > self._settings.max_pending_steps:
            raise OverloadedError(
                f"{self.pending_steps} steps are queued, the limit is "
                f"{self._settings.max_pending_steps}: try again shortly"
            )
        for caller in entry.callers:
            caller.wake = self._wake
        self._lones = {}  # what is added from here on comes behind this
        self._inbox.append(entry)
        self._inbox_steps += entry.size
        self._wake()

    def lones(self, kind: LoneKind) -> Lones | None:
        """Where to add one lone step of a stream, which then counts as submitted.

        ``None`` when the queue is full.
        """
        if self.pending_steps >= self._settings.max_pending_steps:
            return None
        self._inbox_steps += 1
        found = self._lones.get(kind)
        if found is None:
            found = self._lones[kind] = Lones(kind)
            self._inbox.append(found)
            self._wake()
        return found

    def gather(self) -> None:
        """Queue what came in since the last tick.

        Whoever asks what is queued for a session, or queues something behind it, calls this first.
        """
        if self._inbox:
            entries, self._inbox, self._inbox_steps = self._inbox, [], 0
            self._lones = {}
            self._admission.admit(entries)

    def submit_decode(
        self,
        caller: Caller,
        *,
        slots: Ints,
        inputs: Inputs,
        positions: Ints,
        draws: Draws,
        origin: Ints,
        at_most: int,
    ) -> bool:
        """Queue several steps that feed on each other, if that is faster.

        With more than a few others waiting it is not: single steps share their batches.

        Every row reads its input (rows,), draws a step, reads that, and so on, ``at_most`` times
        or less; the answers are the draws, (rows, steps). False: nothing was queued.
        """
        self.gather()
        others = self.pending_steps - self.scheduler.decoding_steps
        if others > _FEW * len(slots) or not self._execution.can_decode:
            return False  # sharing their batch costs less
        room_s = 2 * self._costs.inline_run_s
        drawn_s = self._costs.expected_s(Kind.DECODE, len(slots))
        step_s = self._costs.expected_s(Kind.STEPS, len(slots)) or math.inf
        steps = int(room_s / (step_s if drawn_s is None else drawn_s))
        if drawn_s is not None and 2 * step_s <= room_s:
            steps = max(2, steps)  # were it never tried again, it would never look cheaper
        steps = min(at_most, steps)
        if steps < 2 or self.table.blocked(slots).any():
            return False
        if (self.table.accepted[slots] != positions).any():
            return False
        self.table.accept(slots, steps)
        work = Decode(
            slots=slots,
            expected=positions,
            draws=draws,
            callers=(caller,),
            origin=origin,
            inputs=inputs,
            steps=steps,
        )
        self.scheduler.submit(work)
        self._wake()
        return True

    def are_idle(self, slots: Ints) -> NDArray[np.bool_]:
        """Which slots have nothing queued or running, (slots,)."""
        self.gather()
        return self.scheduler.are_idle(slots)

    def is_idle(self, slot: int) -> bool:
        """Whether a slot has nothing queued or running."""
        self.gather()
        return self.scheduler.is_idle(slot)

    def end(self, slot: int) -> None:
        """End the session of a slot; its queued steps are refused, then the slot is free."""
        self.gather()
        self.residents.end(slot)

    def idle_sessions(self, now_s: float, *, at_most: int) -> list[Session]:
        """Sessions that have been idle for longer than their timeout."""
        self.gather()
        return self.residents.idle(now_s, at_most=at_most)

    async def borrow(self, copies: int) -> Fork:
        """Spare slots in the initial state, which the caller must return."""
        fork = Fork(slots=self._scratch, expected=np.zeros(1, np.int64), copies=copies)
        if self.spares.free < copies or self.scheduler.forks_wait:
            await self.perform(fork)  # in its turn
        else:
            fork.spares = self.spares.allocate_many(copies)
            self.table.fork(int(self._scratch[0]), fork.spares)
        return fork

    async def perform(self, *works: Work) -> list[Delivery]:
        """Run work that needs no admission: peeks, forks, barriers, steps of spare slots.

        Raises:
            CellarError: a row failed.
        """
        done = asyncio.Event()
        deliveries: list[Delivery] = []
        missing = sum(len(work.slots) for work in works)

        def deliver(delivery: Delivery) -> None:
            nonlocal missing
            deliveries.append(delivery)
            missing -= len(delivery.rows)
            if missing == 0:
                done.set()

        self.gather()
        callers = (Caller(deliver),)
        for work in works:
            work.callers = callers
            self.scheduler.submit(work)
        self._wake()
        try:
            await done.wait()
        except asyncio.CancelledError:
            for work in works:
                work.cancelled = True
                if isinstance(work, Fork) and done.is_set():
                    # It has run, and nobody is left to return its copies.
                    self.residents.return_spares(work)
            self._wake()
            raise
        for delivery in deliveries:
            if delivery.error is not None:
                raise delivery.error
        return deliveries

    async def drained(self) -> None:
        """Wait until nothing is queued or running."""
        while self.pending_steps:
            self._quiet.clear()
            await self._quiet.wait()

    def stop(self) -> None:
        """End the worker thread, unless a run is stuck: the thread then ends with the process."""
        self._jobs.put(None)
        self._worker.join(timeout=5.0)

    def warm_up(self) -> None:
        """Run each size class on the scratch row, to learn what it costs."""
        if not self._own_thread:
            self._learn_costs()
            return
        done: Future[None] = Future()

        def learn() -> None:
            try:
                self._learn_costs()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._jobs.put(learn)
        done.result()

    def _learn_costs(self) -> None:
        for size, seconds in self._execution.measure(self._settings.max_batch).items():
            self._costs.observe(Kind.STEPS, size, seconds)

    # -- ticks ----------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self.pending_steps:
            self._quiet.set()
        elif not self._woken and self._handed < _HANDED_AT_ONCE:
            self._woken = True
            # After the callbacks that are ready now: what they submit shares the batch.
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        if self._turns_left > 0:
            self._turns_left -= 1
            self._loop.call_soon(self._tick)
            return
        if self._handed:
            self._woken = False
            self._hand_ahead()
            return
        rows = self._inbox_steps + self.scheduler.ready_rows
        if not self._patience.is_over(rows, time.monotonic()):
            self._loop.call_soon(self._tick)
            return
        self._woken = False
        following = self._next()
        if following is None:
            if not self.pending_steps:
                self._quiet.set()
        elif following.is_short:
            self._run_here(following)
            self._wake()
        else:
            self._hand(following)
            self._hand_ahead()

    def _next(self) -> BatchRun | ShortRun | None:
        """What to run now."""
        run = self._next_short()
        if run is not None:
            return run
        self.gather()
        return self._ordinary_way.next()

    def _next_short(self) -> ShortRun | None:
        """What came first, if it goes the short way."""
        if not self._inbox or not self.scheduler.is_empty:
            return None
        entry = self._inbox[0]
        if len(self._inbox) > 1 and entry.size < self._worth_a_batch:
            return None  # a batch with the others costs less
        run = self._short_way.prepare(entry, max_batch=self._settings.max_batch)
        if run is not None:
            del self._inbox[0]
            self._inbox_steps -= entry.size
            if isinstance(entry, Lones):
                self._lones.pop(entry.kind, None)
        return run

    def _hand(self, run: BatchRun | ShortRun) -> None:
        """Leave a run to the worker."""
        self._handed += 1
        self._jobs.put(run)

    def _hand_ahead(self) -> None:
        """Hand the worker its next run too, if that would not gain from more rows.

        Rows of sessions that are running do not count: they are not in the next run.
        """
        if self._handed == _HANDED_AT_ONCE:
            return
        enough = self._worth_a_batch
        if self._inbox_steps + self.scheduler.ready_rows < enough:
            return
        following: BatchRun | ShortRun | None = self._next_short()
        if following is None:
            self.gather()
            if self.scheduler.ready_rows >= enough:
                following = self._ordinary_way.next()
        if following is not None:
            self._hand(following)

    def _make_way(self, seconds: float) -> None:
        """Let the event loop turn some times after a run that held it up for so long.

        A message takes several turns from the socket to the queue. One turn per run would keep
        most of them waiting, and the batches small.
        """
        self._turns_left = min(_MOST_TURNS, int(seconds / _SECONDS_PER_TURN))

    def _run_here(self, run: Run) -> None:
        """A whole turn on the event loop."""
        run.run()
        self._make_way(run.seconds)
        run.commit()
        run.deliver()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, BatchRun | ShortRun):
                job.run()
                self._loop.call_soon_threadsafe(self._done, job)
            else:
                job()

    def _done(self, run: BatchRun | ShortRun) -> None:
        """Commit; hand the worker what is next, if it has nothing; and only then answer."""
        self._handed -= 1
        run.commit()
        following = None
        if not self._handed:
            following = self._next()
            if following is not None and not following.is_short:
                self._hand(following)
                following = None
        run.deliver()
        if following is not None:
            self._run_here(following)
        self._wake()
