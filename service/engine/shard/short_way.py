"""The short way through a tick, for steps that come while nothing else is queued.

It does what the ordinary way does (admission, scheduler, screening, execution, commit, delivery)
for the common case: good steps, one per session, that are next. Whatever wants a closer look is
left to the ordinary way. Most of what Cellar adds to a lone step, and a third of what it adds to
a frame, would otherwise be bookkeeping for cases that are not there.
"""

import time
from dataclasses import dataclass

import numpy as np
import structlog

from service.engine.scheduler.screening import lost_error
from service.engine.shard.delivery import answer, deliver
from service.engine.shard.way import Way
from service.engine.work.lones import Lones
from service.engine.work.request import UNCHECKED, Lone, Request
from service.engine.work.work import Answers, Delivery, Ints, Kind
from service.errors import CellarError

_log = structlog.get_logger(__name__)


class ShortWay(Way):
    """Prepares, runs and answers what goes the short way."""

    def prepare(self, entry: Lone | Lones | Request, *, max_batch: int) -> "ShortRun | None":
        """What came in as a run, to be run and committed; ``None`` if it wants a closer look.

        Nothing is queued on the shard, though something may run; a run has ``max_batch`` rows at
        most.
        """
        if entry.size > max_batch:
            return None
        if isinstance(entry, Lones):
            if not entry.are_distinct:
                return None
            request = Request.of_lones(entry)
        else:
            request = Request.merged([entry]) if isinstance(entry, Lone) else entry
        if request.steps is not None or not request.commit or request.is_called_off():
            return None
        if not self._scheduler.are_idle(request.slots).all():
            return None  # where they stand is not settled
        at = self._table.position[request.slots]
        claimed = request.positions
        if claimed is not None:
            is_next = claimed == at
            if not is_next.all() and not (is_next | (claimed == UNCHECKED)).all():
                return None
        if self._table.blocked(request.slots).any():
            return None
        # Busy from here on: the event loop may turn before it has run.
        self._table.accept(request.slots, 1)
        self._scheduler.hold(request.slots)
        return ShortRun(way=self, request=request, at=at)

    def is_short(self, run: "ShortRun") -> bool:
        """Whether it may hold up the event loop."""
        return self._costs.is_short(Kind.STEPS, len(run.at))

    def execute(self, run: "ShortRun") -> None:
        """Run it, on any thread."""
        request = run.request
        run.began_s = time.monotonic()
        try:
            run.answers = self._execution.run_rows(
                request.slots, run.at, request.inputs, request.outputs.last_only, request.draws
            )
        except Exception:  # as in Execution.run
            _log.exception("run failed", shard=self._model, kind=Kind.STEPS.value)
        run.seconds = time.monotonic() - run.began_s

    def commit(self, run: "ShortRun") -> None:
        """Count what has run, and let what waits for it go on."""
        table, request = self._table, run.request
        slots, rows = request.slots, len(request.slots)
        if run.answers is None:
            table.lost[slots] = True
            table.withdraw(slots, 1)
        else:
            table.stand(slots, run.at + 1, contents=request.contents(), now_s=self._clock())
            self._execution.applied(slots)
            self._count_steps.inc(rows)
        self._scheduler.release(slots)
        self._residents.finished(slots)
        self._costs.observe(Kind.STEPS, rows, run.seconds)
        self._metrics.batch_size.observe(rows)
        self._metrics.queue_seconds.observe(run.began_s - request.submitted_s)
        self._metrics.run_seconds.observe(run.seconds)

    def deliver(self, run: "ShortRun") -> None:
        """Answer whoever asked."""
        began = time.monotonic()
        request, rows = run.request, np.arange(len(run.at))
        origin = request.origin_of(rows)
        if run.answers is None:
            for row, position in enumerate(run.at.tolist()):
                one = slice(row, row + 1)
                error = lost_error(position)
                delivery = Delivery(rows=origin[one], positions=run.at[one], error=error)
                deliver(request.caller(row), delivery)
        else:
            answer(request.callers, request.tags, origin, run.at + 1, run.answers)
        self._metrics.reply_seconds.observe(time.monotonic() - began)


@dataclass(slots=True, eq=False, kw_only=True)
class ShortRun:
    """One step of each of several sessions, which are next; see `service.engine.shard.way.Run`."""

    way: ShortWay
    request: Request
    at: Ints  # (rows,) where the sessions stand
    answers: Answers | CellarError | None = None  # None: it has not run, or failed
    began_s: float = 0.0
    seconds: float = 0.0

    @property
    def is_short(self) -> bool:
        """Whether it may hold up the event loop."""
        return self.way.is_short(self)

    def run(self) -> None:
        """Run it, on any thread."""
        self.way.execute(self)

    def commit(self) -> None:
        """Count what has run, and let what waits for it go on."""
        self.way.commit(self)

    def deliver(self) -> None:
        """Answer whoever asked."""
        self.way.deliver(self)
