"""Decides what becomes of each row of a request: queued, answered again, or refused.

Knows nothing of batches or devices; whatever it queues runs in the scheduler's order.
"""

from collections.abc import Sequence

import numpy as np

from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.table import SessionTable
from service.engine.work.lones import Lones
from service.engine.work.request import UNCHECKED, Lone, Request, are_distinct, requests_of, runs
from service.engine.work.work import Barrier, Caller, Chunk, Delivery, Ints, Peek, Steps, Work
from service.errors import (
    CallerGoneError,
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
    """

    def __init__(self, table: SessionTable, scheduler: Scheduler, metrics: Metrics) -> None:
        self._table = table
        self._scheduler = scheduler
        self._metrics = metrics

    def admit(self, arrived: Sequence[Lone | Lones | Request]) -> None:
        """Queue, repeat or refuse every row of what came in, in order."""
        entries = list(requests_of(arrived))
        if are_distinct(entries):
            self._admit_run(entries)
        else:
            for run in runs(entries):
                self._admit_run(run)

    def _admit_run(self, entries: Sequence[Lone | Request]) -> None:
        """No session appears twice: the order does not matter, and lone steps can be merged."""
        lones: dict[object, list[Lone]] = {}
        for entry in entries:
            if isinstance(entry, Lone):
                key = (entry.outputs, entry.position is None)
                lones.setdefault(key, []).append(entry)
            else:
                self._admit(entry)
        for group in lones.values():
            self._admit(Request.merged(group))

    def _admit(self, request: Request) -> None:
        contents = request.contents()
        rows: Ints | None = None  # all
        if request.is_called_off():
            rows = self._without_cancelled(request)
            if not len(rows):
                return
        expected = self._table.accepted[request.slots]
        positions = request.positions
        if positions is not None and not (positions == expected).all():
            request.positions = np.where(positions == UNCHECKED, expected, positions)
            rows = self._judge(request, contents, rows)
        self._queue(request, rows, expected, contents)

    def _without_cancelled(self, request: Request) -> Ints:
        """Refuse the rows whose callers went away before they were looked at."""
        gone = request.called_off()
        for row in np.flatnonzero(gone).tolist():
            self._refuse(request, row, CallerGoneError("the caller went away"))
        return np.flatnonzero(~gone)

    def _judge(self, request: Request, contents: Ints, rows: Ints | None) -> Ints:
        """Deal with the rows that must not simply be applied; returns the others."""
        everything = np.arange(len(request.slots))
        assert request.positions is not None, "rows are judged by their positions"
        verdicts = self._table.judge(
            request.slots,
            positions=request.positions,
            steps=request.steps_of(everything),
            contents=contents,
        )
        wanted = np.ones(len(everything), np.bool_)
        if rows is not None:
            wanted[:] = False
            wanted[rows] = True
        if request.commit:
            self._repeat(request, np.flatnonzero(verdicts.replay & wanted))
            self._refuse_conflicts(request, np.flatnonzero(verdicts.conflict & wanted))
            self._refuse_positions(request, np.flatnonzero(verdicts.mismatch & wanted))
        else:  # a dry run has no reply to repeat
            wrong = verdicts.replay | verdicts.conflict | verdicts.mismatch
            self._refuse_positions(request, np.flatnonzero(wrong & wanted))
        for row in np.flatnonzero(verdicts.queued & wanted).tolist():
            self._admit_later(request.only(row))
        return np.flatnonzero(verdicts.apply & wanted)

    def _admit_later(self, request: Request) -> None:
        """Judge a row again after what is queued now: it may repeat some of that."""

        def again(delivery: Delivery) -> None:
            if delivery.error is None:
                self._admit(request)
            else:
                self._refuse(request, 0, delivery.error)

        (caller,) = request.callers
        waiting = Caller(again, wake=caller.wake)
        barrier = Barrier(slots=request.slots, expected=_NO_POSITION, callers=(waiting,))
        caller.works.append(barrier)
        self._scheduler.submit(barrier)

    def _queue(self, request: Request, rows: Ints | None, expected: Ints, contents: Ints) -> None:
        """Queue rows, single steps together and chunks one by one; ``None`` is all of them."""
        if rows is not None and not len(rows):
            return
        steps = request.steps
        if steps is None:
            self._queue_steps(request, rows, expected, contents)
            if request.commit:
                self._table.accept(request.slots if rows is None else request.slots[rows], 1)
            return
        everyone = np.arange(len(request.slots)) if rows is None else rows
        single = everyone[steps[everyone] == 1]
        if len(single):
            whole = len(single) == len(request.slots)
            self._queue_steps(request, None if whole else single, expected, contents)
        if len(single) < len(everyone):
            starts = np.cumsum(steps) - steps
            for row in everyone[steps[everyone] > 1].tolist():
                one = slice(row, row + 1)
                chunk = Chunk(
                    slots=request.slots[one],
                    origin=request.origin_of(np.array([row])),
                    expected=expected[one],
                    outputs=request.outputs,
                    draws=None if request.draws is None else request.draws.take(one),
                    callers=(request.caller(row),),
                    inputs=request.inputs[starts[row] : starts[row] + steps[row]],
                    contents=contents[one],
                    commit=request.commit,
                    submitted_s=request.submitted_s,
                )
                self._submit(chunk)
        if request.commit:
            self._table.accept(request.slots[everyone], steps[everyone])

    def _queue_steps(
        self, request: Request, rows: Ints | None, expected: Ints, contents: Ints
    ) -> None:
        if rows is None:
            work = Steps(
                slots=request.slots,
                origin=request.origin,
                expected=expected,
                outputs=request.outputs.last_only,
                draws=request.draws,
                callers=request.callers,
                tags=request.tags,
                inputs=request.inputs,
                contents=contents,
                commit=request.commit,
                submitted_s=request.submitted_s,
            )
        else:
            places = rows if request.steps is None else np.cumsum(request.steps)[rows] - 1
            alone = len(request.callers) <= 1
            work = Steps(
                slots=request.slots[rows],
                origin=request.origin_of(rows),
                expected=expected[rows],
                outputs=request.outputs.last_only,
                draws=None if request.draws is None else request.draws.take(rows),
                callers=request.callers if alone else [request.callers[r] for r in rows.tolist()],
                tags=None if request.tags is None else request.tags.only(rows),
                inputs=request.inputs[places],
                contents=contents[rows],
                commit=request.commit,
                submitted_s=request.submitted_s,
            )
        self._submit(work)

    def _repeat(self, request: Request, rows: Ints) -> None:
        """Answer rows that were applied already from the resident predictions."""
        if not len(rows):
            return
        self._metrics.replayed_steps.inc(len(rows))
        steps = request.steps_of(rows)
        # Rows of different callers, or with replies of several predictions, are work of their own.
        apart = steps > 1 if request.outputs.every_step else np.zeros(len(rows), np.bool_)
        if len(request.callers) != 1:
            apart[:] = True
        for group in [rows[~apart], *rows[apart][:, None]]:
            if not len(group):
                continue
            slots = request.slots[group]
            peek = Peek(
                slots=slots,
                origin=request.origin_of(group),
                expected=self._table.position[slots],
                outputs=request.outputs,
                draws=None if request.draws is None else request.draws.take(group),
                callers=(request.caller(int(group[0])),),
                replays=True,
            )
            if request.outputs.every_step:
                peek.steps = int(request.steps_of(group)[0])
            self._submit(peek)

    def _submit(self, work: Work) -> None:
        for caller in work.callers:
            caller.works.append(work)
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
        request.caller(row).deliver(
            Delivery(
                rows=request.origin_of(np.array([row])),
                positions=self._table.position[request.slots[row : row + 1]],
                error=error,
            )
        )
