"""The ordinary way through a tick: a batch from the queue, screened, run, committed, answered.

Everything goes this way but what takes the short one.
"""

import time
from dataclasses import dataclass, field

import structlog

from service.engine.execution.executor import Outcome
from service.engine.scheduler.screening import lost_error, screen
from service.engine.shard.delivery import hand_over
from service.engine.shard.way import Way
from service.engine.work.work import (
    Answers,
    Barrier,
    Batch,
    Chunk,
    Decode,
    Fork,
    Kind,
    Part,
    Peek,
    joined,
)
from service.errors import CellarError, InternalError

_STEPPING = (Kind.STEPS, Kind.CHUNKS, Kind.DECODE)
_log = structlog.get_logger(__name__)


class OrdinaryWay(Way):
    """Takes batches from the queue of one shard."""

    def next(self) -> "BatchRun | None":
        """The next batch of what is queued; rows that must not run are refused."""
        while (batch := self._scheduler.schedule()) is not None:
            screened = screen(batch, self._table)
            for part, error in screened.refused:
                self._drop(part, error)
            if screened.batch is not None:
                return BatchRun(way=self, batch=screened.batch)
        return None

    def is_short(self, batch: Batch) -> bool:
        """Whether a batch may hold up the event loop."""
        return self._costs.is_short_batch(batch)

    def execute(self, batch: Batch) -> Outcome:
        """Run a batch, on any thread."""
        return self._execution.run(batch)

    def commit(self, batch: Batch, outcome: Outcome) -> None:
        """Count what has run, and let what waits for it go on."""
        self._measure(batch, outcome)
        if outcome.fault is not None:
            _log.error(
                "run failed", shard=self._model, kind=batch.kind.value, exc_info=outcome.fault
            )
            for part in batch.parts:
                self._contain(part)
        else:
            self._apply(batch, outcome, self._clock())
        self._scheduler.complete(batch)
        self._residents.finished(joined(batch.parts, "slots"))

    def deliver(self, batch: Batch, outcome: Outcome) -> None:
        """Answer whoever asked."""
        began = time.monotonic()
        for index, part in enumerate(batch.parts):
            if not part.is_last:
                continue
            if outcome.fault is not None:
                self._deliver_fault(part)
                continue
            hand_over(
                part,
                self._table.position[part.slots],
                outcome.answers[index],
                replayed=isinstance(part.work, Peek) and part.work.replays,
            )
        if batch.kind in _STEPPING:
            self._metrics.reply_seconds.observe(time.monotonic() - began)

    def _apply(self, batch: Batch, outcome: Outcome, now_s: float) -> None:
        if batch.kind is Kind.STEPS:
            applied = [part for part in batch.parts if part.work.commits]
            if applied:
                slots = joined(applied, "slots")
                contents = joined(applied, "contents")
                self._table.commit(slots, steps=1, contents=contents, now_s=now_s)
                self._execution.applied(slots)
                self._count_steps.inc(len(slots))
            return
        for part, answers in zip(batch.parts, outcome.answers, strict=True):
            work = part.work
            match work:
                case Decode():
                    assert isinstance(answers, Answers), "a decode fails as a whole"
                    self._table.commit(
                        part.slots,
                        steps=work.steps,
                        contents=work.last_contents(answers),
                        now_s=now_s,
                        last_steps=1,  # as if they had come one by one
                    )
                    self._execution.applied(part.slots)
                    self._count_steps.inc(work.steps * len(part.rows))
                case Chunk(commit=True) if part.is_last:
                    self._table.commit(
                        part.slots, steps=work.weight, contents=work.contents, now_s=now_s
                    )
                    self._execution.applied(part.slots)
                    self._execution.remember(work)
                    self._count_steps.inc(work.weight)
                case Fork():
                    self._table.fork(int(part.slots[0]), work.spares)
                    if work.cancelled:
                        self._residents.return_spares(work)
                case Barrier(reset=True):
                    slot = int(part.slots[0])
                    self._execution.forget(slot)
                    self._table.reset(slot, now_s=now_s)

    def _contain(self, part: Part) -> None:
        """A run failed: what it may have half written is lost, and says so."""
        work = part.work
        if work.commits and part.is_last:
            self._table.lost[part.slots] = True
            self._withdraw(part)
        elif isinstance(work, Chunk):
            # Its earlier pieces are on a spare slot: the session was not touched.
            work.cancelled = True
            work.failure = _not_run()
        elif isinstance(work, Fork):
            self._residents.return_spares(work)

    def _drop(self, part: Part, error: CellarError) -> None:
        """These rows will not run."""
        if isinstance(part.work, Fork):
            self._residents.return_spares(part.work)
        self._withdraw(part)
        self._scheduler.finish(part)
        self._residents.finished(part.slots)
        hand_over(part, self._table.position[part.slots], error)

    def _withdraw(self, part: Part) -> None:
        work = part.work
        if work.commits:
            self._table.withdraw(part.slots, work.weight)

    def _measure(self, batch: Batch, outcome: Outcome) -> None:
        self._costs.observe_batch(batch, outcome.seconds)
        if batch.kind in _STEPPING:
            self._metrics.batch_size.observe(batch.steps)
            self._metrics.run_seconds.observe(outcome.seconds)
            queued = outcome.started_s - batch.parts[0].work.submitted_s
            self._metrics.queue_seconds.observe(max(0.0, queued))

    def _deliver_fault(self, part: Part) -> None:
        """Tell each row what the failed run means for its session."""
        slots = part.slots
        positions = self._table.position[slots]
        for row, slot in enumerate(slots.tolist()):
            error = lost_error(int(positions[row])) if self._table.lost[slot] else _not_run()
            one = slice(row, row + 1)
            hand_over(part.only(part.rows[one]), positions[one], error)


@dataclass(slots=True, eq=False, kw_only=True)
class BatchRun:
    """A batch on its way; see `service.engine.shard.way.Run`."""

    way: OrdinaryWay
    batch: Batch
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def is_short(self) -> bool:
        """Whether it may hold up the event loop."""
        return self.way.is_short(self.batch)

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.outcome.seconds

    def run(self) -> None:
        """Run it, on any thread."""
        started = time.monotonic()
        self.outcome = self.way.execute(self.batch)
        self.outcome.started_s = started
        self.outcome.seconds = time.monotonic() - started

    def commit(self) -> None:
        """Count what has run, and let what waits for it go on."""
        self.way.commit(self.batch, self.outcome)

    def deliver(self) -> None:
        """Answer whoever asked."""
        self.way.deliver(self.batch, self.outcome)


def _not_run() -> InternalError:
    return InternalError("the model could not be run; the server's log tells why")
