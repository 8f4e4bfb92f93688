"""What failed runs lead to: what they have written is in doubt or is not, and their callers hear.

A fault of ours is one, too: it may leave the queue in doubt.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import structlog

from service.engine.execution.executor import Executor
from service.engine.execution.runner import Runner, UnwrittenError
from service.engine.log.shard_log import ShardLog, tell
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.scheduler.scheduler import Scheduler, batch_of
from service.engine.sessions.slots import SlotManager
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.restoring.loads import Loads
from service.engine.shard.run import Run
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import Branches, Ints
from service.engine.work.replies import UNKNOWN, Delivery
from service.engine.work.work import Barrier, Chunk, Fork, Load, Work, cannot_tell, hand_over
from service.errors import CellarError, InternalError, unreadable
from service.logs import Repeats

_log = structlog.get_logger(__name__)


class Failures:
    """The failed runs of one shard.

    Args:
        loads: tells of seeds that are not in their slots.
        log: what is told waits for it.
        model: the shard's, for the server's log.
        rows: says which rows of its request a part is.
        device_lost: is told when no run on the device will succeed any more.
        lost: is told of sessions whose states are in doubt, (rows,) slots; ``None`` where no log
            can bring them back.
    """

    def __init__(
        self,
        table: SessionTable,
        scheduler: Scheduler,
        feedback: Feedback,
        slots: SlotManager,
        runner: Runner,
        executor: Executor,
        *,
        loads: Loads,
        log: ShardLog | None,
        model: str,
        rows: Callable[[Part], Ints],
        device_lost: Callable[[Exception], None],
        lost: Callable[[Ints], None] | None,
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._feedback = feedback
        self._slots = slots
        self._runner = runner
        self._executor = executor
        self._loads = loads
        self._log = log
        self._repeats = Repeats()
        self._model = model
        self._rows = rows
        self._device_lost = device_lost
        self._lost = lost
        self._refusing: dict[Part, Delivery] = {}  # what is not told yet

    # -- the queue ------------------------------------------------------------------------

    def withdraw(self, run: Run, error: CellarError) -> None:
        """A run that was chosen never begins: refuse its rows, whose sessions have not moved."""
        for part in run.batch.parts:
            if part.work.feeds_back:
                self._feedback.land(self._rows(part))
            self.refuse(part, error)

    def give_up(
        self,
        running: Sequence[Run],
        error: CellarError,
        *,
        answering: Run | None = None,
        chosen: Run | None = None,
    ) -> None:
        """A fault left the queue in doubt: refuse all that is in it, and begin with an empty one.

        The sessions stand where they stood. What the worker runs goes on, and so does the run that
        is about to be answered. One that was ``chosen``, and has not begun, is refused.
        """
        parts = [part for run in running for part in run.batch.parts]
        works = self._scheduler.forget(parts)
        refusing, self._refusing = self._refusing, {}
        for part, refused in refusing.items():
            tell(self._log, part.work, refused, part.slots, fail=True)
        if chosen is not None and chosen.request is not None and chosen.request not in works:
            works.append(chosen.request)  # it was never queued
        self._slots.reclaim()
        fed_back = [part.rows for part in parts if part.work.reply_to is self._feedback]
        self._feedback.give_up(np.concatenate([np.empty(0, np.int64), *fed_back]), error)
        spoken_for: dict[Work, list[Ints]] = {}
        if answering is not None:
            batch = answering.batch
            if not answering.is_settled:
                self.undo(answering, RuntimeError("it was not committed"))
                self.contain_all(answering)
                self._table.accepted[batch.slots] = self._table.position[batch.slots]
            answering.positions = [self._table.position[part.slots] for part in batch.parts]
            parts += [part for part in batch.parts if part.is_last]
        for part in parts:
            spoken_for.setdefault(part.work, []).append(part.all_indices)
        for work in works:
            indices = np.arange(len(work.slots))
            if work in spoken_for:
                indices = np.setdiff1d(indices, np.concatenate(spoken_for[work]))
            if not len(indices):
                continue
            if isinstance(work, Fork):
                self._slots.return_spares(work)
            elif isinstance(work, Load) and work.tells is None:  # else what runs must end before it
                left = indices[~work.done[indices]]
                left = self._loads.settle(work, left, lost=True)
                self._table.accepted[work.slots[left]] = work.positions[left]
            positions = self._table.stands(work.slots[indices])
            refused = Delivery(rows=work.rows_at(indices), positions=positions, error=error)
            tell(self._log, work, refused, work.slots[indices], fail=True)

    # -- what it ran ----------------------------------------------------------------------

    def apart(self, batch: Batch, fault: UnwrittenError) -> list[Run]:
        """Run a batch that failed, and has written nothing, half by half.

        Returns what became of its rows; those that fail by themselves stand alone.
        """
        if len(batch.slots) == 1:
            return [Run(batch=batch, fault=fault)]
        runs: list[Run] = []
        for parts in _halves(batch):
            half = Run(batch=batch_of(batch.kind, parts))
            try:
                half.answers = self._executor.run(half.batch)
            except Exception as again:  # what it has written is in doubt, the other half is not
                half.lost = self._runner.is_lost(again)
                if isinstance(again, UnwrittenError) and not half.lost:
                    runs += self.apart(half.batch, again)
                    continue
                half.fault = again
            runs.append(half)
        return runs

    def undo(self, run: Run, fault: Exception) -> None:
        """A run could not be committed: its states are written, and nobody can say whose."""
        run.fault, run.answers, run.pieces = fault, [], []
        for part in run.batch.parts:
            if part.work.commit and part.is_last:
                self._table.position[part.slots] = part.column(part.work.expected)
            elif isinstance(part.work, Barrier) and part.work.reset:
                self._table.lost[part.slots] = True
        self._slots.reclaim()

    def contain_all(self, run: Run) -> None:
        """A run failed: mark what it may have half written, and say so in the log."""
        fault = run.fault
        assert fault is not None, "it failed"
        if _complaint(fault) is None:  # what a caller sent is no fault of ours
            kind, repeated = run.batch.kind.value, self._repeats.next(type(fault).__name__)
            if repeated is not None:  # a model that fails does so with every batch
                _log.error("run failed", shard=self._model, kind=kind, exc_info=fault, **repeated)
        for part in run.batch.parts:
            self._contain(part, fault)
        if run.lost:
            self._device_lost(fault)

    def _contain(self, part: Part, fault: Exception) -> None:
        """A run failed: what it may have half written is lost, and says so."""
        work = part.work
        if work.commit and part.is_last:
            if not isinstance(fault, UnwrittenError):
                self._table.lost[part.slots] = True
                self._lose(part)
            self._table.withdraw(part.slots, work.row_steps, self._branches(part))
        elif isinstance(work, Chunk) and not part.is_last:
            # Its earlier pieces are on a spare slot: the session was not touched.
            work.failure = _not_run(part, fault)
        elif isinstance(work, Load):
            self._loads.settle(work, part.all_indices, lost=True)
            if not work.stays:
                self._lose(part)
        elif isinstance(work, Fork):
            self._slots.return_spares(work)

    def _lose(self, part: Part) -> None:
        """The states of its sessions are in doubt."""
        work, slots = part.work, part.slots
        if self._lost is not None:
            self._lost(slots)
        elif isinstance(work, Load) and work.tells is not None and work.branches is not None:
            # It is tried once more, as soon as that is told to whoever has it go back.
            strays = self._table.strays(slots, part.column(work.branches))
            self._table.restoring[slots[~strays]] = True

    def _branches(self, part: Part) -> Branches | None:
        """The branches that its rows' steps were counted on, (rows,); ``None`` for the present."""
        branches = part.work.branches
        if branches is not None:
            own: Branches = part.column(branches)
            return own
        return self._feedback.branches(self._rows(part)) if part.work.feeds_back else None

    def refuse(self, part: Part, error: CellarError) -> None:
        """These rows will not run."""
        work = part.work
        # First what is told of them: behind a fault from there on they are told all the same.
        positions = self._table.stands(part.slots)
        refused = Delivery(rows=self._rows(part), positions=positions, error=error)
        self._refusing[part] = refused
        try:
            if isinstance(work, Fork):
                self._slots.return_spares(work)
            elif isinstance(work, Load):
                self._loads.settle(work, part.all_indices, lost=True)
            if work.commit:
                self._table.withdraw(part.slots, work.row_steps, self._branches(part))
            self._scheduler.finish(part)
            if self._slots.leaving:
                self._slots.finished(part.slots)
        finally:
            tell(self._log, work, refused, part.slots)
            del self._refusing[part]

    def deliver_fault(self, part: Part, positions: Ints, fault: Exception) -> None:
        """Tell each row what the failed run means for its session."""
        rows = self._rows(part)
        is_sound = not part.work.commit or isinstance(fault, UnwrittenError)
        if is_sound and not isinstance(part.work, Load):
            hand_over(
                part.work, Delivery(rows=rows, positions=positions, error=_not_run(part, fault))
            )
            return
        for row in range(len(rows)):
            one = slice(row, row + 1)
            error = self._table.why_lost(int(part.slots[row]))
            hand_over(part.work, Delivery(rows=rows[one], positions=positions[one], error=error))

    def untold(self, parts: Sequence[tuple[int, Part]]) -> None:
        """What became of some rows cannot be told, as nobody knows when it may be."""
        for _, part in parts:
            cannot_tell(part.work, part.rows, np.full(len(part.slots), UNKNOWN))


def _halves(batch: Batch) -> Iterator[list[Part]]:
    """The parts of the first half of a batch's rows, and those of the second."""
    left = middle = len(batch.slots) // 2
    first: list[Part] = []
    second: list[Part] = []
    for part in batch.parts:
        rows = len(part.slots)
        if rows <= left:
            first.append(part)
        elif not left:
            second.append(part)
        else:
            first.append(part.only(slice(left)))
            second.append(part.only(slice(left, rows)))
        left = max(0, left - rows)
    assert middle == sum(len(part.slots) for part in first), "no row is lost"
    yield first
    yield second


def _complaint(fault: Exception) -> str | None:
    """What the model says of a caller's input, if that is why a run has failed."""
    return fault.complaint if isinstance(fault, UnwrittenError) else None


def _not_run(part: Part, fault: Exception) -> CellarError:
    """What a caller is told whose step could not be run, and whose session is as it was."""
    complaint = _complaint(fault)
    if complaint is None:
        return InternalError("the model could not be run; the server's log tells why")
    if isinstance(part.work, Chunk):
        complaint += f" (in steps {part.start} to {part.stop - 1})"
    return unreadable(complaint)
