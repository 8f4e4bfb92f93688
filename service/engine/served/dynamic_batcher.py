"""Predicts with a model without states: gathers sequences of all callers into runs.

The runs happen on threads of their own. Knows nothing of gRPC.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import structlog

from service.engine.execution.runner import UnwrittenError
from service.engine.execution.stateless import StatelessRunner
from service.engine.scheduler.fair_queue import FairQueue
from service.engine.served.predictor import Predictor, Promised, Sequences
from service.engine.shard.queue_limit import QueueLimit
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.flow import Flow
from service.engine.work.sampling import Draws, Sampling
from service.errors import CellarError, InternalError, unapplied, unreadable
from service.logs import Repeats
from service.metrics import Metrics
from service.settings import EngineSettings

R = TypeVar("R")

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """One call: what has been predicted for it so far."""

    outputs: Outputs
    sampling: Sampling | None
    counts: Ints  # (sequences,) steps of each
    found: list[Floats | None]  # by sequence
    left: int  # sequences
    done: asyncio.Future[Answers]
    principal: Hashable | None  # whose it is, where it takes turns
    submitted_s: float = field(default_factory=time.monotonic)

    @property
    def predictions(self) -> Floats:
        """What was predicted for all sequences, (rows, width)."""
        return np.concatenate([found for found in self.found if found is not None])

    @property
    def positions(self) -> Ints:
        """How many steps each prediction is based on, (rows,)."""
        if not self.outputs.every_step:
            return self.counts
        return np.concatenate([np.arange(1, steps + 1) for steps in self.counts.tolist()])


@dataclass(frozen=True, slots=True)
class _Queued:
    """One sequence of a call."""

    job: _Job
    row: int
    steps: Inputs


class DynamicBatcher(Predictor):
    """Predicts with a model without states.

    Args:
        runners: what runs it, one for each run that may overlap; the same one may be there often.
        device_lost: is told on the event loop when no run on the device will succeed any more.
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[StatelessRunner],
        *,
        metrics: Metrics,
        settings: EngineSettings,
        device_lost: Callable[[Exception], None],
    ) -> None:
        super().__init__(name, metrics=metrics, settings=settings)
        self._name = name
        self._runners = runners
        self._free = list(runners)  # of runs
        self._pads = runners[0].pads
        self._device_lost = device_lost
        self._lost = False
        self._repeats = Repeats()
        self._batches = metrics.batches(name)
        self._most_rows = 1 if any(runner.isolated for runner in runners) else settings.max_batch
        self._most_steps = settings.max_batch * settings.chunk_steps  # padding included
        # A flow has an eighth of a run in each round.
        self._queue: FairQueue[_Queued] = FairQueue(
            max(1, self._most_steps // 8), size=lambda queued: len(queued.steps)
        )
        self._limit = QueueLimit(settings, count=metrics.overloaded_steps.labels(name).inc)
        self._jobs: set[_Job] = set()  # that are not answered
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._pool = ThreadPoolExecutor(len(runners), thread_name_prefix=f"stateless {name}")

    def stop(self) -> None:
        """See `Predictor.stop`."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def drained(self) -> None:
        """See `Predictor.drained`; runs whose callers are gone are waited for too."""
        await super().drained()
        await self._idle.wait()

    async def _predict(
        self,
        sequences: Sequences,
        outputs: Outputs,
        sampling: Sampling | None,
        promised: Promised,  # noqa: ARG002  # they are pending here until they are answered
        flow: Flow,
    ) -> Answers:
        job = _Job(
            outputs=outputs,
            sampling=sampling,
            counts=sequences.counts,
            found=[None] * len(sequences),
            left=len(sequences),
            done=asyncio.get_running_loop().create_future(),
            principal=flow.allowance,
        )
        parts = sequences.split()
        # Those of similar length side by side, to pad less.
        order = np.argsort(sequences.counts, kind="stable").tolist()
        self._jobs.add(job)
        try:
            for row in order:
                queued = _Queued(job, row, parts[row])
                start = self._queue.place(flow, len(queued.steps), flow.allowance)
                self._queue.append(queued, start, flow.allowance)
            self._start()
            return await job.done
        except asyncio.CancelledError:  # nor may what was queued for nobody pile up
            self._queue.keep(lambda queued: queued.job is not job)
            raise
        finally:
            self._jobs.discard(job)

    def _check_room(self, steps: int, flow: Flow) -> None:
        if self.pending_steps + steps > self._limit.roomy_steps:
            self._limit.check(self.pending_steps, steps, flow)

    def _start(self) -> None:
        """Hand the runners what they can take."""
        try:
            while self._running < len(self._runners) and (batch := self._next()):
                began = time.monotonic()
                self._batches.queue_s.noted.append(began - batch[0].job.submitted_s)
                self._batches.size.noted.append(sum(len(queued.steps) for queued in batch))
                self._batches.count_noted()
                runner = self._free.pop()
                self._begin(
                    partial(self._run, runner, batch), partial(self._ran, runner, batch, began)
                )
        except Exception as fault:  # whatever was taken from the queue: all are told
            self._queue.keep(lambda _: False)
            self._fail(self._jobs, fault)

    def _begin(
        self,
        work: Callable[[], R],
        then: "Callable[[asyncio.Future[R]], None]",
    ) -> None:
        """Do something on a thread, and something with what comes of it here."""
        run = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._running += 1
        self._idle.clear()
        run.add_done_callback(then)

    def _ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    def _next(self) -> list[_Queued]:
        """The sequence that came first, with others of its length, about."""
        batch: list[_Queued] = []
        passed: list[_Queued] = []
        shortest = longest = 0
        for queued in self._of_queue():
            steps = len(queued.steps)
            low, high = min(shortest or steps, steps), max(longest, steps)
            fits = high <= 2 * low if self._pads else high == low
            if not batch or (fits and high * (len(batch) + 1) <= self._most_steps):
                batch.append(queued)
                shortest, longest = low, high
            else:
                passed.append(queued)
            if len(batch) == self._most_rows or len(passed) > self._settings.max_batch:
                break
        for queued in reversed(passed):
            self._queue.put_back(queued, 0, queued.job.principal)
        return batch

    def _of_queue(self) -> Iterator[_Queued]:
        """What somebody still waits for, taken from the queue."""
        while self._queue:
            queued = self._queue.popleft()
            if not queued.job.done.done():
                yield queued

    def _run(self, runner: StatelessRunner, batch: list[_Queued]) -> list[Floats | Exception]:
        """On a thread: predict; a sequence that cannot be run leaves the others alone."""
        try:
            return list(runner.predict([queued.steps for queued in batch]))
        except Exception as fault:  # whatever the runtime throws
            self._lost = self._lost or runner.is_lost(fault)
            if len(batch) == 1 or self._lost:
                return [fault] * len(batch)
            return [found for queued in batch for found in self._run(runner, [queued])]

    def _ran(
        self,
        runner: StatelessRunner,
        batch: list[_Queued],
        began_s: float,
        run: "asyncio.Future[list[Floats | Exception]]",
    ) -> None:
        """Put the predictions in their places, and have those calls answered that have all."""
        self._free.append(runner)
        self._batches.run_s.noted.append(time.monotonic() - began_s)
        self._ended()
        if run.cancelled():  # the server has stopped
            return
        try:
            self._limit.observe(sum([len(queued.steps) for queued in batch]), self.pending_steps)
            self._place(batch, run.result())
        except Exception as fault:
            self._fail([queued.job for queued in batch], fault)
        self._start()

    def _place(self, batch: list[_Queued], predictions: list[Floats | Exception]) -> None:
        complete: dict[Outputs, list[_Job]] = {}
        for queued, found in zip(batch, predictions, strict=True):
            job = queued.job
            if job.done.done():
                continue
            if isinstance(found, Exception):
                if isinstance(found, UnwrittenError) and found.complaint is not None:
                    job.done.set_exception(unreadable(found.complaint, row=queued.row))
                else:
                    self._fail([job], found)
                if self._lost:
                    self._device_lost(found)
                continue
            job.found[queued.row] = found if job.outputs.every_step else found[-1:].copy()
            job.left -= 1
            if not job.left:
                complete.setdefault(job.outputs, []).append(job)
        for jobs in complete.values():
            began_s = time.monotonic()
            self._begin(partial(self._answer, jobs), partial(self._answered, jobs, began_s))

    def _answer(self, jobs: list[_Job]) -> list[Answers]:
        """On a thread: answer calls that want the same."""
        predictions = [job.predictions for job in jobs]
        draws = [
            Draws.repeated(job.sampling, len(rows))
            for job, rows in zip(jobs, predictions, strict=True)
            if job.sampling is not None
        ]
        answers = self._runners[0].answer(
            np.concatenate(predictions),
            jobs[0].outputs,
            Draws.joined(draws) if draws else None,
            np.concatenate([job.positions for job in jobs]),
        )
        if len(jobs) == 1:
            return [answers]
        stops = np.cumsum([len(rows) for rows in predictions]).tolist()
        return [answers.rows(start, stop) for start, stop in pairwise([0, *stops])]

    def _answered(
        self, jobs: list[_Job], began_s: float, answering: "asyncio.Future[list[Answers]]"
    ) -> None:
        self._batches.reply_s.noted.append(time.monotonic() - began_s)
        self._ended()
        if not answering.cancelled():
            fault = answering.exception()
            for row, job in enumerate(jobs):
                if isinstance(fault, Exception):
                    self._fail([job], fault)
                elif not job.done.done():
                    job.done.set_result(answering.result()[row])
        self._start()

    def _fail(self, jobs: Iterable[_Job], fault: Exception) -> None:
        repeated = self._repeats.next(type(fault).__name__)
        if repeated is not None:
            _log.error("run failed", model=self._name, exc_info=fault, **repeated)
        error: CellarError = InternalError("the model could not be run; the server's log tells why")
        if isinstance(fault, MemoryError):
            error = unapplied(fault)
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)
