"""One turn of a shard: what is next is prepared, run, committed and delivered.

A run comes straight from a request whose sessions have nothing queued, or from the queue; from
there on both are the same. Everything but `execute` happens on the event loop.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import structlog

from service.engine.execution.ahead.steps import Answered, answer_failed
from service.engine.execution.executor import Executor
from service.engine.execution.runner import Runner, UnwrittenError
from service.engine.log.groups.entries import DRAWN, EVERY_STEP
from service.engine.log.shard_log import ShardLog
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.scheduler.scheduler import Scheduler, batch_of
from service.engine.scheduler.screening import screen
from service.engine.sessions.slots import SlotManager
from service.engine.sessions.table.table import SessionTable
from service.engine.sessions.tiers import Tiers
from service.engine.shard.failures import Failures
from service.engine.shard.history.chronicles import Chronicles
from service.engine.shard.restoring.loads import Loads
from service.engine.shard.run import Run
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import Answers, Ints
from service.engine.work.replies import Delivery
from service.engine.work.request import Request
from service.engine.work.work import (
    Barrier,
    Chunk,
    Decode,
    Fork,
    Kind,
    Load,
    Piece,
    Recall,
    Save,
    cannot_tell,
    not_handed_over,
)
from service.errors import CellarError, InternalError
from service.metrics import Metrics

_STEPPING = (Kind.STEPS, Kind.CHUNKS, Kind.DECODE)
_ANYWHERE = (Kind.SAVE, Kind.LOAD, Kind.BARRIER)  # whatever position a session has
_PREDICTED = (Kind.RECALL, Kind.FORK)  # from the prediction that a session has
_COUNTED_AT_ONCE = 256  # runs
_log = structlog.get_logger(__name__)


class Tick:
    """What a turn of one shard consists of.

    Attributes:
        failures: what failed runs lead to.
    """

    def __init__(
        self,
        table: SessionTable,
        scheduler: Scheduler,
        feedback: Feedback,
        slots: SlotManager,
        runner: Runner,
        executor: Executor,
        tiers: Tiers,
        metrics: Metrics,
        *,
        log: ShardLog | None,
        model: str,
        max_batch: int,
        clock: Callable[[], float],
        device_lost: Callable[[Exception], None],
        lost: Callable[[Ints], None] | None,
        stay_in_store: Callable[[Ints], None],
        chronicles: Chronicles,
    ) -> None:
        self._chronicles = chronicles
        self._table = table
        self._scheduler = scheduler
        self._feedback = feedback
        self._slots = slots
        self._runner = runner
        self._executor = executor
        self._tiers = tiers
        self._log = log
        self._batches = metrics.batches(model)
        self._count_steps = metrics.steps.labels(model).inc
        self._model = model
        self._max_batch = max_batch
        self._clock = clock
        self._runs_matter: bool | None = None  # bits depend on what a step runs in
        self._numbers = np.arange(max_batch)
        self._loads = Loads(
            table,
            executor,
            forget_in_host=tiers.loaded,
            out_of_host=tiers.stay_in_host,
            out_of_store=stay_in_store,
        )
        self.failures = Failures(
            table,
            scheduler,
            feedback,
            slots,
            runner,
            executor,
            loads=self._loads,
            log=log,
            model=model,
            rows=self._rows,
            device_lost=device_lost,
            lost=lost,
        )
        self._ones = np.ones(max_batch, np.int64)
        self._ended_s = 0.0  # when the last run was over

    # -- what is next ---------------------------------------------------------------------

    def straight(self, request: Request) -> Run | None:
        """A request as a run, if it is one step of each of sessions that have nothing queued.

        Most requests are, and what the queue costs is spared: a third of what the engine adds to a
        frame. ``None`` where anything wants a closer look; nothing has changed then.
        """
        if request.steps is not None or not request.commit or len(request.slots) > self._max_batch:
            return None
        if request.reply_to.cancelled:
            return None
        if self._chronicles.some and self._chronicles.is_full:
            return None
        request.contents = request.digest()
        at = self._table.begin(request.slots, request.positions, request.branches)
        if at is None:
            return None
        request.expected = at
        self._scheduler.pending_steps += len(at)
        slots, rows = request.slots, len(at)
        part = Part(work=request, slots=slots)
        batch = Batch(
            kind=Kind.STEPS, parts=(part,), slots=slots, expected=at, steps=rows, cost_rows=rows
        )
        return Run(batch=batch, request=request)

    def queued(self, *, decode_steps: int, feedback_rows: int | None, room: int) -> Run | None:
        """The next batch of what is queued; rows that must not run are refused.

        The arguments are those of `Scheduler.schedule`.
        """
        while True:
            batch = self._scheduler.schedule(
                decode_steps=decode_steps, feedback_rows=feedback_rows, room=room
            )
            if batch is None:
                return None
            if self._is_doubtful(batch):
                left = screen(batch, self._table, self.failures.refuse)
                if left is None:
                    continue
                batch = left
            return Run(batch=batch, request=_only_request(batch))

    # -- running --------------------------------------------------------------------------

    def can_begin(self, run: Run) -> bool:
        """Whether it may be begun before the run before it has ended: see `begin`."""
        return run.batch.kind is Kind.STEPS and self._executor.steps.can_begin

    def execute(self, run: Run) -> None:
        """Run it, on any thread; a failure is part of the run.

        One that has written nothing is tried again without the rows that it hangs on.
        """
        run.began_s = time.monotonic()
        try:
            if run.request is not None and not run.request.outputs.states:
                run.answers = [self._step(run.request)]
            else:
                run.answers = self._executor.run(run.batch)
        except Exception as fault:  # whatever the runtime throws must not kill the thread
            self._failed(run, fault)
        self._ended_s = time.monotonic()
        run.seconds = self._ended_s - run.began_s

    def begin(self, run: Run) -> None:
        """The first half of `execute`, for a run of single steps: `finish` is the other one."""
        run.began_s = time.monotonic()
        try:
            if run.request is not None and not run.request.outputs.states:
                run.begun = self._executor.steps.begin_whole(run.request)
            else:
                run.begun = self._executor.begin(run.batch)
        except Exception as fault:  # as in `execute`; told when it is finished
            run.fault = fault

    def is_over(self, run: Run) -> bool:
        """Whether `finish` would not wait for a run that has begun."""
        return run.begun is None or run.begun.is_over()

    def finish(self, run: Run) -> None:
        """The second half of `execute`: wait for the end of a run that has begun."""
        if run.begun is not None:
            try:
                run.answers = run.begun.finish()
            except Exception as fault:  # as in `execute`
                run.fault = fault
            run.begun = None
        if run.fault is not None:
            self._failed(run, run.fault)
        now_s = time.monotonic()
        # It has had the device since then: of two that are under way, one waits for the other.
        run.seconds = now_s - max(run.began_s, self._ended_s)
        self._ended_s = now_s

    def _failed(self, run: Run, fault: Exception) -> None:
        run.fault = fault
        if not isinstance(fault, UnwrittenError):
            run.lost = self._runner.is_lost(fault)
            return
        try:
            run.lost = self._runner.is_lost(fault)
            if not run.lost:
                run.pieces = self.failures.apart(run.batch, fault)
                run.fault = None
        except Exception:  # of ours: all rows are refused, and none was written
            _log.exception("a run that failed could not be tried again")

    def commit(self, run: Run) -> None:
        """Apply what has run: the one place where sessions move.

        From here on what waits for their next steps may run. The positions that replies tell are
        taken here: a later run may have moved the sessions on before they are sent.

        Raises:
            Exception: a fault of ours behind the move, so that the queue is in doubt: `give_up`.
        """
        if run.pieces:
            for piece in run.pieces:
                self.commit(piece)
            run.is_settled = True
            return
        if run.fault is None:
            try:
                self._move(run)
            except Exception as fault:
                self.failures.undo(run, fault)
        if run.fault is not None:
            self.failures.contain_all(run)
        run.is_settled = True
        batch, request, table = run.batch, run.request, self._table
        # A session that is closed while it is brought back reads no further.
        tell = table.stands if batch.kind is Kind.BARRIER else table.position.__getitem__
        run.positions = [tell(part.slots) for part in batch.parts]
        if request is not None:
            if len(request.tickets):
                self._scheduler.finish_whole(request)
            else:  # it was never queued
                table.serving[batch.slots] += 1
                self._scheduler.pending_steps -= batch.steps
                if self._scheduler.parked:
                    self._scheduler.unpark(batch.slots)
        else:
            self._scheduler.complete(batch)
        for index, part in enumerate(batch.parts):
            if part.work.feeds_back:
                self._feed(part, None if run.fault else run.answers[index], len(batch.slots))
        if self._slots.leaving:
            self._slots.finished(batch.slots)

    def _move(self, run: Run) -> None:
        """Move the sessions of a run that has not failed."""
        batch, request = run.batch, run.request
        parts = batch.parts
        if request is not None:
            self._apply(batch.slots, batch.expected + 1, contents=request.contents)
        elif batch.kind is Kind.STEPS:
            parts = [part for part in parts if part.work.commit]
            if parts:
                applied = batch_of(batch.kind, parts) if len(parts) < len(batch.parts) else batch
                contents = applied.column("contents")
                self._apply(applied.slots, applied.expected + 1, contents=contents)
        else:
            for part, answers in zip(batch.parts, run.answers, strict=True):
                self._apply_part(part, answers)
            return
        for part in parts:
            work = part.work
            assert isinstance(work, Request), "a batch of steps holds requests"
            self._count(part)
            if self._chronicles.some:
                self._note_read(part, work, batch)
            if self._log is not None and not work.is_fold:
                expected, inputs = part.column(work.expected), part.column(work.inputs)
                bucket = self._runner.bucket(len(batch.slots))
                run_steps = 1 if self._runner.cuts_matter else 0
                self._log.steps(part.slots, expected, inputs, bucket=bucket, run_steps=run_steps)

    def deliver(self, run: Run) -> None:
        """Answer whoever asked; one receiver's fault disturbs nobody else."""
        began_s, batch = time.monotonic(), run.batch
        for piece in run.pieces or (run,):
            self._deliver(piece)
        if batch.kind in _STEPPING:
            queued_s = max(0.0, run.began_s - batch.parts[0].work.submitted_s)
            self._note(batch.steps, queued_s, run.seconds, time.monotonic() - began_s)

    # -- inside ---------------------------------------------------------------------------

    def _deliver(self, run: Run) -> None:
        inside: list[tuple[int, Part]] = []
        outside: list[tuple[int, Part]] = []
        for index, part in enumerate(run.batch.parts):
            if part.is_last:
                stays = self._log is None or part.work.reply_to.is_inside
                (inside if stays else outside).append((index, part))
        if outside:
            try:
                self._hold(run, outside)
            except Exception:
                _log.exception("replies cannot wait for the store")
                self.failures.untold(outside)
        self._deliver_parts(run, inside)

    def _hold(self, run: Run, parts: Sequence[tuple[int, Part]]) -> None:
        """Tell what became of some rows once that is durable."""
        assert self._log is not None, "there is something to wait for"
        slots = [part.slots for _, part in parts]
        told = partial(self._deliver_parts, run, parts)
        self._log.hold(slots[0] if len(slots) == 1 else np.concatenate(slots), told)

    def _deliver_parts(self, run: Run, parts: Sequence[tuple[int, Part]]) -> None:
        for index, part in parts:
            try:
                self._answer(run, part, index)
            except Exception:
                _log.exception("reply could not be made")
                cannot_tell(part.work, part.rows, run.positions[index])

    def _is_doubtful(self, batch: Batch) -> bool:
        """Whether some of the rows may have to be refused."""
        for part in batch.parts:
            work = part.work
            if work.failure is not None or work.reply_to.cancelled:
                return True
            branches, own = work.branches, part.indices
            if branches is not None:
                branches = branches if own is None else branches[own]
                if self._table.strays(part.slots, branches).any():
                    return True
        if len(batch.parts) == 1 and not len(part.work.tickets):
            return False  # it was never queued: `Feedback` has begun it in this turn
        if batch.kind in _PREDICTED and self._table.unpredicted(batch.slots).any():
            return True
        if self._table.refused:
            return True
        if self._table.cold_count and self._table.cold[batch.slots].any():
            return True
        return batch.kind in _ANYWHERE or not self._table.stand(batch.slots, batch.expected)

    def _step(self, request: Request) -> Answered:
        """What `Executor.run` does, for a batch that is one request: spares a tenth of its time."""
        rows = self._table.rows(request.slots)
        predictions = self._runner.step(
            read=rows,
            write=rows,
            fresh=self._table.fresh(request.slots, request.expected),
            inputs=request.inputs[:, None],
            lengths=self._ones[: len(request.slots)],
            every_step=False,
            bucket=request.bucket,
        )
        try:
            return self._runner.answer(
                predictions, request.outputs, request.draws, request.expected + 1
            )
        except Exception as fault:  # the heads': the step was applied
            return answer_failed(fault)

    def _apply(self, slots: Ints, positions: Ints, *, contents: Ints, last_steps: int = 1) -> None:
        """Sessions have read on, and stand at ``positions`` now."""
        self._table.commit(
            slots, positions, contents=contents, last_steps=last_steps, now_s=self._clock()
        )
        if self._executor.histories:  # earlier replies are not asked for again
            for slot in slots.tolist():
                self._executor.forget(slot)

    def _count(self, part: Part) -> None:
        if not part.work.is_fold:
            self._count_steps(part.work.row_steps * len(part.slots))

    def _apply_part(self, part: Part, answers: Answered) -> None:
        work, slots = part.work, part.slots
        match work:
            case Decode():
                assert isinstance(answers, Answers), "a decode fails as a whole"
                # As if they had come one by one: the last that was read may be asked for again.
                (drawn,) = answers.columns.values()
                last = np.ascontiguousarray(drawn[:, -2])
                bits = last if last.dtype == np.int32 else last.view(np.int32)
                expected = work.expected if part.indices is None else part.column(work.expected)
                positions, steps = expected + work.row_steps, work.row_steps
                contents = bits.astype(np.int64)
                self._apply(slots, positions, contents=contents)
                self._count(part)
                if self._log is not None or self._chronicles.some:
                    first = part.column(work.inputs)[:, None]
                    read = np.concatenate([first, drawn[:, :-1]], axis=1).ravel()
                    read = read if drawn.dtype == np.int32 else read.astype(np.float32)[:, None]
                    bucket = self._runner.bucket(len(slots))
                    if self._chronicles.some:
                        pieces = [Piece(steps, bucket)] if bucket else []
                        self._chronicles.steps(slots, expected, read, steps=steps, pieces=pieces)
                    if self._log is not None:
                        self._log.steps(
                            slots, expected, read, steps=steps, flags=DRAWN, bucket=bucket
                        )
            case Chunk(commit=True) if part.is_last:
                count = work.row_steps
                self._apply(
                    slots,
                    work.expected + count,
                    contents=work.contents,
                    last_steps=count,
                )
                self._count(part)
                if work.history is not None:
                    self._executor.keep(work.slot, work.history)
                if self._chronicles.some:
                    self._chronicles.chunk(work)
                if self._log is not None and not work.is_fold:
                    flags = EVERY_STEP if work.outputs.every_step else 0
                    self._log.chunk(work, flags=flags)
            case Save():
                at = part.all_indices
                work.positions[at] = self._table.position[slots]
                work.saved_branches[at] = self._table.branch[slots]
                work.last_steps[at], work.contents[at] = self._table.last_request(slots)
                if self._log is not None and work.is_checkpoint and not work.reply_to.cancelled:
                    self._log.saved(slots, work, at)
                kept = self._executor.histories
                if kept:
                    work.histories |= {s: kept[s] for s in slots.tolist() if s in kept}
                if work.evicts and not work.reply_to.cancelled:
                    self._tiers.evicted_by(work, at)
            case Load():
                # What was to follow it may have been refused while it ran.
                self._loads.settle(work, part.all_indices, lost=work.failure is not None)
                self._tiers.loaded(slots)
            case Fork():
                self._table.fork(int(slots[0]), work.spares)
                if work.reply_to.cancelled:
                    self._slots.return_spares(work)
            case Barrier(reset=True):
                self._executor.forget(int(slots[0]))
                slot = int(slots[0])
                work.new_branch = self._table.reset(slot, now_s=self._clock())
                if work.then is not None:
                    work.then.branches = np.array([work.new_branch], np.uint64)
                elif self._table.seeded[slot]:  # what it began with is not there any more
                    self._table.lost[slot] = True
                if self._chronicles.some:
                    self._chronicles.reset(slot)
                if self._log is not None:
                    self._log.reset(slot)
            case Barrier(acts=acts) if acts is not None:
                acts()

    def _note_read(self, part: Part, work: Request, batch: Batch) -> None:
        """Single steps are in their sessions' histories, if these keep any."""
        bucket = batch.bucket or self._runner.bucket(len(batch.slots))
        run_steps = 1 if self._runner.cuts_matter else 0
        self._chronicles.steps(
            part.slots,
            part.column(work.expected),
            part.column(work.inputs),
            pieces=[Piece(1, bucket, run_steps)] if bucket or run_steps else [],
            is_fold=work.is_fold,
        )

    def _feed(self, part: Part, answers: Answered | None, rows: int) -> None:
        """Let rows read on with what they have drawn; where they cannot, their calls end.

        ``rows``: of the whole run.
        """
        try:
            if isinstance(answers, Answers):
                if self._runs_matter is None:
                    self._runs_matter = self._runner.bucket(1) > 0 or self._runner.cuts_matter
                ran = self._in_what(part, rows) if self._runs_matter else (0, 0)
                self._feedback.feed(self._rows(part), answers, ran)
            else:  # why not is delivered
                self._feedback.land(self._rows(part))
        except Exception:
            _log.exception("draws could not be fed back")
            positions = self._table.stands(part.slots)
            error = InternalError("what was drawn was lost; the server's log tells why")
            self._feedback.land(part.rows)
            self._feedback.fail(Delivery(rows=part.rows, positions=positions, error=error))

    def _in_what(self, part: Part, rows: int) -> tuple[int, int]:
        """The bucket and the time steps of the run of a part that is fed back, see `Entry`."""
        if part.work.kind is not Kind.STEPS:  # a decode runs by itself
            return self._runner.bucket(len(part.slots)), 0
        return self._runner.bucket(rows), 1 if self._runner.cuts_matter else 0

    def _answer(self, run: Run, part: Part, index: int) -> None:
        """Answer the rows of one part."""
        if run.fault is not None:
            self.failures.deliver_fault(part, run.positions[index], run.fault)
            return
        work, answers = part.work, run.answers[index]
        delivery = Delivery(rows=self._rows(part), positions=run.positions[index])
        if self._log is not None:
            delivery.groups = self._log.log.groups
        if isinstance(answers, CellarError):
            delivery.error = answers
        else:
            delivery.answers = answers
            delivery.replayed = isinstance(work, Recall) and work.replays
        try:  # what `hand_over` does, without the way there
            work.reply_to.deliver(delivery)
        except Exception:
            not_handed_over(work, delivery)

    def _rows(self, part: Part) -> Ints:
        """Which rows of the request they are."""
        if part.indices is not None:
            return part.rows
        return self._numbers[: len(part.slots)] if part.work.rows is None else part.work.rows

    def _note(self, steps: int, queued_s: float, run_s: float, reply_s: float) -> None:
        batches = self._batches
        batches.size.noted.append(steps)
        batches.queue_s.noted.append(queued_s)
        batches.run_s.noted.append(run_s)
        batches.reply_s.noted.append(reply_s)
        if len(batches.size.noted) >= _COUNTED_AT_ONCE:
            batches.count_noted()


def _only_request(batch: Batch) -> Request | None:
    """The request that a batch is all of, if it applies its steps."""
    (part, *others), kind = batch.parts, batch.kind
    work = part.work
    if others or kind is not Kind.STEPS or part.indices is not None or not work.commit:
        return None
    assert isinstance(work, Request), "a batch of steps holds requests"
    return work
