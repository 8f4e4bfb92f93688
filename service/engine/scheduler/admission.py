"""Decides what becomes of each row of a request: queued, answered again, or refused.

Knows nothing of batches or devices; whatever it queues runs in the scheduler's order.
"""

from collections.abc import Callable

import numpy as np
import structlog

from service.engine.log.shard_log import ShardLog, tell
from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.table.table import SessionTable, Verdicts
from service.engine.work.columns import Ints, Mask
from service.engine.work.replies import UNKNOWN, Delivery
from service.engine.work.request import UNCHECKED, Request
from service.engine.work.work import Barrier, Chunk, Recall
from service.errors import (
    CallerGoneError,
    CellarError,
    PositionMismatchError,
    ReplyLostError,
    StaleBranchError,
    StepConflictError,
    history_full,
    unapplied,
)
from service.metrics import Metrics

_OTHER_BITS = (
    "the steps were applied, but the server has restarted with another arithmetic, and would give "
    "other numbers: go on from the session's position"
)
_FIRST = np.zeros(1, np.int64)
_log = structlog.get_logger(__name__)


class Admission:
    """The entrance to the queue of one shard.

    Args:
        again: calls `admit` for a row that had to wait, and contains whatever fault it has.
        full: says which sessions may not read on, as their histories have no room; ``None``: all
            may.
    """

    def __init__(
        self,
        table: SessionTable,
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        again: Callable[[Request], None],
        full: Callable[[Ints], Mask | None] = lambda _: None,
        log: ShardLog | None = None,
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._metrics = metrics
        self._again = again
        self._full = full
        self._log = log

    def admit(self, request: Request) -> None:
        """Queue, repeat or refuse every row.

        What may be large is made before anything is queued: a fault there is told to the request's
        rows alone.

        Raises:
            Exception: a fault of ours while rows were queued, so that the queue is in doubt.
        """
        try:
            request.contents = request.digest()
            gone = self._gone(request)
            strays = self._strays(request)
            judged = self._judged(request)
        except Exception as fault:
            _log.exception("request failed")
            self.fail(request, unapplied(fault))
            return
        wanted: Mask | None = None  # all rows
        if gone is not None:
            self._refuse(request, gone, lambda _: CallerGoneError("the caller went away"))
            wanted = ~gone
            if not wanted.any():
                return
        if strays is not None:
            strays = strays if wanted is None else strays & wanted
            self._refuse(request, strays, lambda row: self._stale(request, row))
            wanted = ~strays if wanted is None else wanted & ~strays
            if not wanted.any():
                return
        if judged is not None:
            wanted = self._without_judged(request, *judged, wanted)
        full = None
        if request.commit and not (request.is_fold or request.feeds_back):
            full = self._full(request.slots)
        if full is not None:
            full = full if wanted is None else full & wanted
            self._refuse(request, full, lambda _: history_full())
            wanted = ~full if wanted is None else wanted & ~full
        self._queue(request, wanted)

    def admit_after(self, request: Request) -> None:
        """Admit one row, whose wait for what was queued before it has just ended."""
        # With the wait its session may have ended, which was closed when that had begun to run: the
        # slot is free then, and the row must not reach whoever has it next.
        if self._table.closing[request.slots[0]]:
            branch = int(self._table.branch[request.slots[0]])
            why = self._table.why_closed(branch, "the session was closed before it ran")
            self.refuse(request, 0, why)
            return
        if request.feeds_back and request.reply_to.cancelled_rows(request.rows_at(_FIRST)).any():
            return  # the wait was over when the queue was given up, which its call was told
        self._again(request)

    def fail(self, request: Request, error: CellarError) -> None:
        """Give an error to those of the rows that have had no answer, whatever is queued."""
        numbers = request.rows_at(np.arange(len(request.slots)))
        positions = self._table.stands(request.slots)
        failed = Delivery(rows=numbers, positions=positions, error=error)
        tell(self._log, request, failed, request.slots, fail=True)

    def _gone(self, request: Request) -> Mask | None:
        """The rows whose callers went away before they were looked at."""
        if not request.reply_to.cancelled:
            return None
        return request.reply_to.cancelled_rows(request.rows_at(np.arange(len(request.slots))))

    def _strays(self, request: Request) -> Mask | None:
        """The rows of sessions that were reset since the rows came in."""
        if request.branches is None:
            return None
        strays = self._table.strays(request.slots, request.branches)
        return strays if strays.any() else None

    def _stale(self, request: Request, row: int) -> CellarError:
        slot = request.slots[row]
        if self._table.moving[slot]:
            return self._table.moves[int(slot)].error()
        branch, position = self._table.branch[slot], self._table.accepted[slot]
        if self._log is not None and self._log.log.holds_steps:  # what is queued may be lost
            position = self._table.stands_at(slot)
        return StaleBranchError(branch=int(branch), position=int(position))

    def _mismatch(self, request: Request, row: int, claimed: int, stands: int) -> CellarError:
        slot = int(request.slots[row])
        if self._table.restoring[slot]:  # what is counted meanwhile is not where it will stand
            return self._table.why_lost(slot)
        return PositionMismatchError(claimed, stands)

    def _judged(self, request: Request) -> tuple[Ints, Verdicts] | None:
        """What becomes of the rows, with their positions, if they are not all simply applied."""
        expected = request.expected = self._table.accepted[request.slots]
        positions = request.positions
        if positions is None or ((positions == expected).all() and not request.is_late):
            return None
        positions = np.where(positions == UNCHECKED, expected, positions)
        if (positions == expected).all() and not request.is_late:
            return None
        return positions, self._table.judge(
            request.slots,
            positions=positions,
            steps=request.steps_at(np.arange(len(request.slots))),
            contents=request.contents,
        )

    def _without_judged(
        self, request: Request, positions: Ints, verdicts: Verdicts, wanted: Mask | None
    ) -> Mask:
        """Deal with the rows that must not simply be applied; returns the others."""
        if wanted is None:
            wanted = np.ones(len(request.slots), np.bool_)
        current = request.expected
        mismatch, conflict = verdicts.mismatch & wanted, verdicts.conflict & wanted
        if request.commit:
            self._repeat(request, np.flatnonzero(verdicts.replay & wanted))
        else:  # a dry run has no reply to repeat
            mismatch |= (verdicts.replay | conflict) & wanted
            conflict[:] = False
        late = np.zeros(len(request.slots), np.bool_)
        if request.is_late:  # what came behind it may have led there: it is not next for that
            mismatch |= verdicts.apply & wanted
            verdicts.apply[:] = False
            current = self._table.position[request.slots]
        elif self._log is not None and self._log.log.holds_steps:
            # What is queued for them may be lost before it is durable: no position to tell, yet.
            late = mismatch & (current != self._table.position[request.slots])
            verdicts.queued[:] |= late
            mismatch &= ~late
        self._refuse(request, conflict, lambda row: StepConflictError(int(positions[row])))
        self._refuse(
            request,
            mismatch,
            lambda row: self._mismatch(request, row, int(positions[row]), int(current[row])),
        )
        self._metrics.position_conflicts.inc(int((conflict | mismatch).sum()))
        for row in np.flatnonzero(verdicts.queued & wanted).tolist():
            one = request.row(row)
            one.is_late = bool(late[row])
            self._admit_later(one, positions[row : row + 1])
        return verdicts.apply & wanted

    def _admit_later(self, request: Request, positions: Ints) -> None:
        """Judge a row again after what is queued now: it may repeat some of that."""
        request.positions = positions
        self._scheduler.submit(
            Barrier(slots=request.slots, reply_to=_Retry(self, request), rows=np.zeros(1, np.int64))
        )

    def _queue(self, request: Request, wanted: Mask | None) -> None:
        """Queue rows, single steps together and chunks one by one; ``None`` is all of them."""
        if wanted is not None and wanted.all():
            wanted = None
        steps = request.steps
        if steps is None:
            rows = None if wanted is None else np.flatnonzero(wanted)
            self._queue_steps(request if rows is None else request.single_steps(rows))
            return
        everyone = np.arange(len(steps)) if wanted is None else np.flatnonzero(wanted)
        single_rows = everyone[steps[everyone] == 1]
        if len(single_rows):
            self._queue_steps(request.single_steps(single_rows))
        starts = np.cumsum(steps) - steps
        for row in everyone[steps[everyone] > 1].tolist():
            one = slice(row, row + 1)
            chunk = Chunk(
                slots=request.slots[one],
                expected=request.expected[one],
                branches=None if request.branches is None else request.branches[one],
                outputs=request.outputs,
                draws=None if request.draws is None else request.draws.take(one),
                reply_to=request.reply_to,
                rows=request.rows_at(np.array([row])),
                commit=request.commit,
                borrowed=request.borrowed,
                submitted_s=request.submitted_s,
                flow=request.flow,
                row_steps=int(steps[row]),
                inputs=request.inputs[starts[row] : starts[row] + steps[row]],
                contents=request.contents[one],
            )
            self._scheduler.submit(chunk)
            if request.commit:
                self._table.accept(chunk.slots, chunk.row_steps)

    def _queue_steps(self, request: Request) -> None:
        if not len(request.slots):
            return
        request.outputs = request.outputs.last_only
        self._scheduler.submit(request)
        if request.commit:
            self._table.accept(request.slots, 1)

    def _repeat(self, request: Request, rows: Ints) -> None:
        """Answer rows that were applied already from the resident predictions."""
        if not len(rows):
            return
        lost = self._table.replies_lost(request.slots[rows])
        for row in rows[lost].tolist():
            self.refuse(request, row, ReplyLostError(_OTHER_BITS))
        rows = rows[~lost]
        self._metrics.replayed_steps.inc(len(rows))
        steps = request.steps_at(rows)
        # Replies of several predictions are work of their own.
        apart = (steps > 1) & request.outputs.every_step
        for group in [rows[~apart], *rows[apart][:, None]]:
            if not len(group):
                continue
            slots = request.slots[group]
            recall = Recall(
                slots=slots,
                expected=self._table.position[slots],
                branches=None if request.branches is None else request.branches[group],
                outputs=request.outputs,
                draws=None if request.draws is None else request.draws.take(group),
                reply_to=request.reply_to,
                rows=request.rows_at(group),
                feeds_back=request.feeds_back,
                flow=request.flow,
                round=request.round,
                turns_of=request.turns_of,
                replays=True,
            )
            if request.outputs.every_step:
                recall.row_cost = int(request.steps_at(group)[0])
            self._scheduler.submit(recall)

    def _refuse(self, request: Request, rows: Mask, why: Callable[[int], CellarError]) -> None:
        for row in np.flatnonzero(rows).tolist():
            self.refuse(request, row, why(row))

    def refuse(self, request: Request, row: int, error: CellarError) -> None:
        """Refuse one row."""
        slot = request.slots[row : row + 1]
        # What is queued before it runs all the same, and the position is that after it; but whoever
        # has gone away may have left that, too.
        positions = self._table.accepted[slot]
        if isinstance(error, CallerGoneError) and (positions != self._table.position[slot]).any():
            positions = np.full(1, UNKNOWN)
        refused = Delivery(rows=request.rows_at(np.array([row])), positions=positions, error=error)
        if self._log is not None and not request.reply_to.is_inside:
            refused.positions = self._log.told(slot, positions)
        tell(self._log, request, refused, slot)


class _Retry:
    """A row that waits for what is queued before it, to be judged again then."""

    is_inside = True

    def __init__(self, admission: Admission, request: Request) -> None:
        self._admission = admission
        self._request = request

    @property
    def cancelled(self) -> bool:
        """See `ReplyTo.cancelled`."""
        return bool(self.cancelled_rows(np.zeros(1, np.int64)).any())

    def cancelled_rows(self, rows: Ints) -> Mask:
        """See `ReplyTo.cancelled_rows`; whoever waits for the row decides."""
        return self._request.reply_to.cancelled_rows(self._request.rows_at(rows))

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        if delivery.error is None:
            self._admission.admit_after(self._request)
        else:
            self._admission.refuse(self._request, 0, delivery.error)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`; a row that was judged is queued under its own name."""
        assert delivery.error is not None, "a fault is told as an error"
        self._admission.fail(self._request, delivery.error)
