"""The short way through a tick, for steps that come while nothing else is queued.

It does what the ordinary way does (admission, scheduler, screening, execution, commit, delivery)
for the common case: good steps, one per session, that are next. Whatever wants a closer look is
left to the ordinary way. Most of what Cellar adds to a lone step, and a third of what it adds to
a frame, would otherwise be bookkeeping for cases that are not there.
"""

import time
from collections.abc import Callable

import numpy as np
import structlog

from service.engine.batch import Answers, Delivery, Kind
from service.engine.costs import RunCosts
from service.engine.delivering import answer_lones, deliver
from service.engine.execution import Execution
from service.engine.lones import Lones
from service.engine.request import UNCHECKED, Lone, Request, content_of
from service.engine.screening import lost_error
from service.engine.session import SessionTable
from service.errors import CellarError
from service.metrics import Metrics

_log = structlog.get_logger(__name__)


class ShortWay:
    """Runs what goes the short way.

    Args:
        table: where each session stands.
        execution: what runs it.
        costs: what is short enough for the event loop.
        metrics: where to count.
        model: under which name to count steps.
        max_batch: the most rows of a run.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        table: SessionTable,
        execution: Execution,
        costs: RunCosts,
        metrics: Metrics,
        *,
        model: str,
        max_batch: int,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._execution = execution
        self._costs = costs
        self._metrics = metrics
        self._count_steps = metrics.steps.labels(model)
        self._model = model
        self._max_batch = max_batch
        self._clock = clock

    def run(self, entry: Lone | Lones | Request) -> float | None:
        """Run and answer what came in; seconds of the run, or ``None`` if it was left alone.

        Nothing is queued or running on the shard.
        """
        if isinstance(entry, Request):
            return self._run_request(entry)
        return self._run_one(entry) if entry.size == 1 else None

    def _run_one(self, entry: Lone | Lones) -> float | None:
        slot, table = entry.slot, self._table
        at: int = table.position.item(slot)
        if (
            entry.position not in (UNCHECKED, None, at)
            or table.is_blocked(slot)
            or entry.is_called_off
            or not self._costs.is_short(Kind.STEPS, 1)
        ):
            return None
        inputs = entry.inputs if isinstance(entry, Lone) else entry.inputs[0]
        began = time.monotonic()
        answers: Answers | CellarError
        try:
            answers = self._execution.run_one(slot, at, inputs, entry.outputs, entry.draws)
        except Exception:  # as in Execution.run
            _log.exception("run failed", shard=self._model, kind=Kind.STEPS.value)
            table.lost[slot] = True
            answers = lost_error(at)
        else:
            table.commit_one(slot, content=content_of(inputs, entry.outputs), now_s=self._clock())
            self._count_steps.inc()
        ended = time.monotonic()
        after = table.position[slot : slot + 1].copy()
        if isinstance(entry, Lone):
            deliver(entry.caller, entry.delivery(after, answers))
        else:
            answer_lones(entry.tags, after, answers)
        return self._measure(entry, began, ended)

    def _run_request(self, request: Request) -> float | None:
        table, slots = self._table, request.slots
        rows = len(slots)
        if (
            request.steps is not None
            or not request.commit
            or len(request.callers) != 1
            or rows > self._max_batch
            or not self._costs.is_short(Kind.STEPS, rows)
            or request.callers[0].cancelled
        ):
            return None
        at = table.position[slots]
        if request.positions is not None and not (request.positions == at).all():
            return None
        if table.blocked(slots).any():
            return None
        caller = request.callers[0]
        began = time.monotonic()
        try:
            answers = self._execution.run_rows(
                slots, at, request.inputs, request.outputs.last_only, request.draws
            )
        except Exception:
            _log.exception("run failed", shard=self._model, kind=Kind.STEPS.value)
            table.lost[slots] = True
            ended = time.monotonic()
            origin = request.origin_of(np.arange(rows))
            for row, position in enumerate(at.tolist()):
                one = slice(row, row + 1)
                error = lost_error(position)
                deliver(caller, Delivery(rows=origin[one], positions=at[one], error=error))
        else:
            after = at + 1
            table.commit_rows(slots, after, contents=request.contents(), now_s=self._clock())
            self._execution.applied(slots)
            self._count_steps.inc(rows)
            ended = time.monotonic()
            delivery = Delivery(
                rows=request.origin_of(np.arange(rows)),
                positions=after,
                answers=None if isinstance(answers, CellarError) else answers,
                error=answers if isinstance(answers, CellarError) else None,
            )
            deliver(caller, delivery)
        return self._measure(request, began, ended)

    def _measure(self, entry: Lone | Lones | Request, began: float, ended: float) -> float:
        steps, metrics = entry.size, self._metrics
        self._costs.observe(Kind.STEPS, steps, ended - began)
        metrics.batch_size.observe(steps)
        metrics.queue_seconds.observe(began - entry.submitted_s)
        metrics.run_seconds.observe(ended - began)
        metrics.reply_seconds.observe(time.monotonic() - ended)
        return ended - began
