"""Decides what becomes of each row of a request: queued, answered again, or refused.

Knows nothing of batches or devices; whatever it queues runs in the scheduler's order.
"""

from collections.abc import Callable

import numpy as np

from service.engine.batch import Barrier, Chunk, Delivery, Draws, Ints, Peek, Steps, Work
from service.engine.request import Request, Submission
from service.engine.scheduler import Scheduler
from service.engine.session import SessionTable
from service.errors import (
    CellarError,
    PositionMismatchError,
    StepConflictError,
)
from service.metrics import Metrics

_NO_POSITION = np.zeros(1, np.int64)  # a barrier runs at any


class Admission:
    """The way into the queue of one shard.

    Args:
        table: where each session stands.
        scheduler: the queue.
        metrics: where to count.
        wake: tells that there is work.
    """

    def __init__(
        self,
        table: SessionTable,
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._metrics = metrics
        self._wake = wake

    def admit(self, request: Request, submission: Submission) -> None:
        """Queue, repeat or refuse every row; ``submission`` gets what was queued."""
        slots = request.slots
        contents = request.contents()
        verdicts = self._table.judge(
            slots,
            positions=request.positions,
            steps=request.steps,
            contents=contents,
        )
        rows = np.arange(len(slots))
        if not verdicts.apply.all():
            again = np.flatnonzero(verdicts.replay)
            if request.commit:
                self._repeat(request, again, submission)
                self._refuse_conflicts(request, np.flatnonzero(verdicts.conflict))
                self._refuse_positions(request, np.flatnonzero(verdicts.mismatch))
            else:  # a dry run has no reply to repeat
                wrong = verdicts.replay | verdicts.conflict | verdicts.mismatch
                self._refuse_positions(request, np.flatnonzero(wrong))
            for row in np.flatnonzero(verdicts.queued).tolist():
                self._admit_later(request.only(row), submission)
            rows = np.flatnonzero(verdicts.apply)
        if len(rows):
            self._queue(request, rows, verdicts.expected, contents, submission)
            if request.commit:
                self._table.accept(slots[rows], request.steps[rows])
        self._wake()

    def _admit_later(self, request: Request, submission: Submission) -> None:
        """Judge a row again after what is queued now: it may repeat some of that."""

        def again(delivery: Delivery) -> None:
            if delivery.error is None:
                self.admit(request, submission)
            else:
                self._refuse(request, 0, delivery.error)

        barrier = Barrier(slots=request.slots, expected=_NO_POSITION, deliver=again)
        self._submit(barrier, submission)

    def _queue(
        self,
        request: Request,
        rows: Ints,
        expected: Ints,
        contents: Ints,
        submission: Submission,
    ) -> None:
        steps = request.steps
        stops = np.cumsum(steps)
        single = rows[steps[rows] == 1]
        if len(single):
            whole = len(single) == len(request.slots)
            take: Ints | slice = slice(None) if whole else single
            self._submit(
                Steps(
                    slots=request.slots[take],
                    origin=request.origin[take],
                    expected=expected[take],
                    outputs=request.outputs.last_only,
                    draws=_draws(request, len(single)),
                    deliver=request.deliver,
                    inputs=request.inputs if whole else request.inputs[stops[single] - 1],
                    contents=contents[take],
                    commit=request.commit,
                ),
                submission,
            )
        if len(single) == len(rows):
            return
        for row in rows[steps[rows] > 1].tolist():
            self._submit(
                Chunk(
                    slots=request.slots[row : row + 1],
                    origin=request.origin[row : row + 1],
                    expected=expected[row : row + 1],
                    outputs=request.outputs,
                    draws=_draws(request, 1),
                    deliver=request.deliver,
                    inputs=request.inputs[stops[row] - steps[row] : stops[row]],
                    contents=contents[row : row + 1],
                    commit=request.commit,
                ),
                submission,
            )

    def _repeat(self, request: Request, rows: Ints, submission: Submission) -> None:
        """Answer rows that were applied already from the resident predictions."""
        if not len(rows):
            return
        self._metrics.replayed_steps.inc(len(rows))
        # Rows with replies of several predictions have different lengths: each is work of its own.
        many = request.steps[rows] > 1 if request.outputs.every_step else np.zeros(len(rows), bool)
        for group in [rows[~many], *rows[many][:, None]]:
            if not len(group):
                continue
            slots = request.slots[group]
            peek = Peek(
                slots=slots,
                origin=request.origin[group],
                expected=self._table.position[slots],
                outputs=request.outputs,
                draws=_draws(request, len(group)),
                deliver=request.deliver,
                replays=True,
            )
            if request.outputs.every_step:
                peek.steps = int(request.steps[group[0]])
            self._submit(peek, submission)

    def _submit(self, work: Work, submission: Submission) -> None:
        submission.works.append(work)
        self._scheduler.submit(work)

    def _refuse_positions(self, request: Request, rows: Ints) -> None:
        for row in rows.tolist():
            current = int(self._table.accepted[request.slots[row]])
            self._refuse(request, row, PositionMismatchError(request.position(row), current))
        self._metrics.position_conflicts.inc(len(rows))

    def _refuse_conflicts(self, request: Request, rows: Ints) -> None:
        for row in rows.tolist():
            self._refuse(request, row, StepConflictError(request.position(row)))
        self._metrics.position_conflicts.inc(len(rows))

    def _refuse(self, request: Request, row: int, error: CellarError) -> None:
        request.deliver(
            Delivery(
                rows=request.origin[row : row + 1],
                positions=self._table.position[request.slots[row : row + 1]],
                error=error,
            )
        )


def _draws(request: Request, rows: int) -> Draws | None:
    return None if request.sampling is None else Draws.repeated(request.sampling, rows)
