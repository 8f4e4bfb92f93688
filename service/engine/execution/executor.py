"""Turns a batch into calls on the runner, and predictions into the answers of its parts.

This is what runs on the worker thread. Knows nothing of queues, clocks or the event loop.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from service.engine.execution.ahead.steps import (
    Answered,
    BegunSteps,
    SingleSteps,
    answer_failed,
)
from service.engine.execution.runner import Runner, UnwrittenError
from service.engine.sessions.table.table import SessionTable
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import NOTHING, STATE, Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.memory import BufferMemory, Held
from service.engine.work.sampling import Draws
from service.engine.work.work import Chunk, Decode, Fork, Kind, Load, Piece, Recall, Save, Work
from service.errors import ReplyLostError, unapplied

_NO_ANSWERS = Answers({})


class Executor:
    """Runs batches on one runner.

    Args:
        table: says which sessions begin with the model's initial state, and of every slot its row
            of the arena.
        scratch: the arena's row that takes what must not be kept.
        outside: reads the states of slots that have none, see `Runner.read`.
        memory: where replies of several predictions are counted.
        max_history_bytes: of it, for those of all shards; the oldest make room.
    """

    def __init__(
        self,
        runner: Runner,
        table: SessionTable,
        *,
        scratch: int,
        outside: Callable[[Ints], list[Floats]],
        memory: BufferMemory,
        max_history_bytes: int,
    ) -> None:
        self.histories: dict[int, Floats] = {}
        """By slot, the predictions after every step of a session's last request, where it asked for
        them all: the resident prediction alone could not repeat that reply."""
        self.steps = SingleSteps(runner, table, scratch=scratch)
        """Runs single steps."""
        self._runner = runner
        self._table = table
        self._scratch = scratch
        self._row = table.row
        self._outside = outside
        self._memory = memory
        self._most_history = max_history_bytes
        memory.add_reclaim(self._forget_oldest)

    def run(self, batch: Batch) -> list[Answered]:
        """Run a batch; returns the answers of each part.

        Raises:
            UnwrittenError: no state has changed, and what was asked can be asked again.
            Exception: whatever the runtime throws; states that it writes are in doubt then.
        """
        match batch.kind:
            case Kind.STEPS:
                return self.begin(batch).finish()
            case Kind.DECODE:
                return self._decode(batch)
            case Kind.CHUNKS:
                return self._chunks(batch)
            case Kind.RECALL:
                return self._with_states(batch.parts, [self._recall(own) for own in batch.parts])
            case Kind.SAVE:
                return self._save(batch)
            case Kind.LOAD:
                return self._load(batch)
            case Kind.FORK:
                return [self._fork(part.work) for part in batch.parts]
        return [_NO_ANSWERS for _ in batch.parts]

    def begin(self, batch: Batch) -> BegunSteps:
        """Begin a batch of single steps, which `SingleSteps.begin` does; `run` ends it as well.

        Raises:
            Exception: as `run`.
        """
        return self.steps.begin(batch, self._with_states)

    def keep(self, slot: int, history: Floats) -> None:
        """Keep what is needed to repeat the reply to a session's last request."""
        self.forget(slot)
        self.histories[slot] = history
        memory = self._memory
        memory.count(Held.HISTORY, history.nbytes)
        while memory.by_kind[Held.HISTORY] > self._most_history or memory.used > memory.limit:
            if len(self.histories) == 1 and memory.reclaim(but=self._forget_oldest):
                continue  # those of other shards make room
            if not self._forget_oldest():
                return

    def forget(self, slot: int) -> None:
        """Nobody will ask for the reply of a slot's session again."""
        history = self.histories.pop(slot, None)
        if history is not None:
            self._memory.count(Held.HISTORY, -history.nbytes)

    def _forget_oldest(self) -> bool:
        """Make room, if there is anything to forget."""
        if not self.histories:
            return False
        self.forget(next(iter(self.histories)))
        return True

    def measure(self, max_batch: int) -> dict[int, float]:
        """Seconds that a run of 1, 2, 4, ... rows takes."""
        sizes = [2**power for power in range(max_batch.bit_length())]
        return {rows: measure(self._runner, rows=rows, scratch=self._scratch) for rows in sizes}

    def _with_states(self, parts: Sequence[Part], answers: list[Answered]) -> list[Answered]:
        """Answers, and what is resident of the sessions whose states are asked for, too.

        As views: they are all read at once.
        """
        wanted = [
            (number, own, part.slots)
            for number, (part, own) in enumerate(zip(parts, answers, strict=True))
            if part.work.outputs.states and isinstance(own, Answers) and own.columns
        ]
        if not wanted:
            return answers
        try:
            slots = np.concatenate([slots for _, _, slots in wanted])
            found = self._runner.read(self._table.rows(slots))
        except Exception as fault:
            failed = answer_failed(fault)
            for number, _, _ in wanted:
                answers[number] = failed
            return answers
        start = 0
        for _, own, slots in wanted:
            stop = start + len(slots)
            own.columns |= {f"{STATE}{n}": rows[start:stop] for n, rows in enumerate(found)}
            start = stop
        return answers

    def _decode(self, batch: Batch) -> list[Answered]:
        answers: list[Answered] = []
        for part in batch.parts:
            work = part.work
            assert isinstance(work, Decode), "a batch holds one kind of work"
            inputs, expected, draws = work.inputs, work.expected, work.draws
            if part.indices is not None:
                inputs, expected = part.column(inputs), part.column(expected)
                draws = part.draws
            assert draws is not None, "a decode says how to draw"
            rows = self._table.rows(part.slots)
            drawn = self._runner.decode(
                read=rows,
                write=rows,
                fresh=self._table.fresh(part.slots, expected),
                inputs=inputs,
                positions=expected + 1,
                draws=draws,
                steps=work.row_steps,
            )
            name = "sampled_tokens" if drawn.dtype == np.int32 else "sampled_values"
            answers.append(Answers({name: drawn}))
        return answers

    def _chunks(self, batch: Batch) -> list[Answered]:
        parts = batch.parts
        chunks = [part.work for part in parts if isinstance(part.work, Chunk)]
        counts = np.array([part.stop - part.start for part in parts])
        time_steps = max(int(counts.max()), parts[0].run_steps)
        first = chunks[0].inputs
        inputs: Inputs = np.zeros((len(parts), time_steps, *first.shape[1:]), first.dtype)
        read = np.empty(len(parts), np.int64)
        write = np.empty(len(parts), np.int64)
        fresh = np.zeros(len(parts), np.bool_)
        homes = self._table.rows(batch.slots)
        for row, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            piece = chunk.inputs[part.start : part.stop]
            inputs[row, : len(piece)] = piece
            inputs[row, len(piece) :] = piece[-1]  # any valid input: it is not read
            home = int(homes[row])
            inside = home if chunk.spare is None else self._row.item(chunk.spare)
            read[row] = home if part.start == 0 else inside
            write[row] = inside
            if part.is_last:
                write[row] = home if chunk.commit else self._scratch
            fresh[row] = part.start == 0 and self._table.fresh(chunk.slots, chunk.expected)[0]
        every_step = any(chunk.outputs.every_step for chunk in chunks)
        predictions = self._runner.step(
            read=read,
            write=write,
            fresh=fresh,
            inputs=inputs,
            lengths=counts,
            every_step=every_step,
            bucket=batch.bucket,
        )
        bucket = self._runner.bucket(len(parts))
        run_steps = time_steps if self._runner.cuts_matter else 0
        if bucket or run_steps:
            for part, chunk in zip(parts, chunks, strict=True):
                ran = chunk.ran if chunk.is_fold else chunk.pieces
                if ran is not None:
                    ran.append(Piece(part.stop, bucket, run_steps))
        answers: list[Answered] = []
        for row, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            count = int(counts[row])
            own = predictions[row, :count] if every_step else predictions[row : row + 1]
            after = chunk.expected[0] + part.stop  # the position after this piece
            positions = np.array([after])
            if chunk.outputs.every_step:
                try:
                    own = _kept(chunk, part, own)
                except MemoryError as fault:
                    chunk.history = None
                    if part.is_last:
                        answers.append(answer_failed(fault))
                    else:  # the session has not moved, and will not
                        chunk.failure = unapplied(fault)
                        answers.append(_NO_ANSWERS)
                    continue
                positions = chunk.expected[0] + np.arange(1, len(own) + 1)
            else:
                own = own[-1:]
            if not part.is_last or chunk.is_fold:  # nobody is told of a fold
                answers.append(_NO_ANSWERS)
                continue
            draws = _spread(chunk.draws, len(own))
            answers.append(self.answer(chunk.outputs, own, draws, positions))
        return self._with_states(parts, answers)

    def _recall(self, part: Part) -> Answered:
        work = part.work
        assert isinstance(work, Recall), "a batch holds one kind of work"
        ends, draws = work.expected, work.draws
        if part.indices is not None:
            ends, draws = ends[part.indices], part.draws
        if work.row_cost == 1:
            predictions = self._runner.recall(self._table.rows(part.slots))
            return self.answer(work.outputs, predictions, draws, ends)
        # Every step of one session's last request.
        history = self.histories.get(int(part.slots[0]))
        if history is None:
            return ReplyLostError(
                "the steps were applied, but their predictions are no longer kept: go on from the "
                "session's position"
            )
        ends = ends[0] - np.arange(work.row_cost - 1, -1, -1)
        return self.answer(work.outputs, history, _spread(draws, work.row_cost), ends)

    def _fork(self, work: Work) -> Answered:
        assert isinstance(work, Fork), "a batch holds one kind of work"
        spares = self._row[work.spares]  # given back at any time, by whoever waited for them
        self._runner.copy(int(self._table.rows(work.slots)[0]), spares)
        if work.outputs == NOTHING:
            return _NO_ANSWERS
        positions = np.full(work.row_cost, work.expected[0])
        predictions = self._runner.recall(spares)
        return self.answer(work.outputs, predictions, work.draws, positions)

    def _save(self, batch: Batch) -> list[Answered]:
        found = self._read(batch.slots)
        start = 0
        for part in batch.parts:
            work, stop = part.work, start + len(part.slots)
            assert isinstance(work, Save), "a batch holds one kind of work"
            own = [rows[start:stop] for rows in found]
            start = stop
            if part.indices is None:
                # On memory of its own: views would keep the rows of a whole batch alive.
                work.states = own if len(batch.parts) == 1 else [rows.copy() for rows in own]
                continue
            if not work.states:
                count = len(work.slots)
                work.states = [np.zeros((count, *rows.shape[1:]), rows.dtype) for rows in own]
            for whole, rows in zip(work.states, own, strict=True):
                whole[part.indices] = rows
        return [_NO_ANSWERS for _ in batch.parts]

    def _read(self, slots: Ints) -> list[Floats]:
        """Copies of sessions' states, wherever they are."""
        rows = self._row[slots]
        # One that comes back has a row already, in which it is only once its host row is free.
        out = self._table.host_row[slots] >= 0
        if not out.any():
            return self._runner.read(rows)
        found = self._outside(slots[out])
        if out.all():
            return found
        whole = [np.empty((len(slots), *own.shape[1:]), own.dtype) for own in found]
        for tensor, inside, outside in zip(
            whole, self._runner.read(rows[~out]), found, strict=True
        ):
            tensor[~out], tensor[out] = inside, outside
        return whole

    def _load(self, batch: Batch) -> list[Answered]:
        found: list[list[Floats]] = []
        for part in batch.parts:
            work = part.work
            assert isinstance(work, Load), "a batch holds one kind of work"
            if work.in_host:  # what waits for a row holds no copy
                found.append(self._outside(part.slots))
            else:
                found.append([part.column(own) for own in work.states])
        try:
            rows = [np.concatenate(tensor) for tensor in zip(*found, strict=True)]
            self._runner.write(self._table.rows(batch.slots), rows)
        except ValueError as fault:  # of some rows: the others need not suffer
            raise UnwrittenError from fault
        return [_NO_ANSWERS for _ in batch.parts]

    def answer(
        self, outputs: Outputs, predictions: Floats, draws: Draws | None, positions: Ints
    ) -> Answered:
        """Run the heads; what fails here leaves state and neighbours untouched."""
        try:
            return self._runner.answer(predictions, outputs, draws, positions)
        except Exception as fault:  # whatever the runtime throws
            return answer_failed(fault)


def measure(runner: Runner, *, rows: int, scratch: int) -> float:
    """Seconds that a run of so many rows takes, on the scratch row alone."""
    slots = np.full(rows, scratch, np.int64)
    inputs = runner.blank(rows)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        runner.step(
            read=slots,
            write=slots,
            fresh=np.ones(rows, np.bool_),
            inputs=inputs,
            lengths=np.ones(rows, np.int64),
            every_step=False,
        )
        times.append(time.perf_counter() - began)
    return min(times)


def _kept(chunk: Chunk, part: Part, predictions: Floats) -> Floats:
    """A chunk's predictions so far, with those of a part of it.

    Room for all of them is made with the first ones: where there is none, nothing has moved yet.
    """
    history = chunk.history
    if history is None:
        shape = (chunk.row_steps, predictions.shape[1])
        history = chunk.history = np.empty(shape, predictions.dtype)
    history[part.start : part.stop] = predictions
    return history[: part.stop]


def _spread(draws: Draws | None, rows: int) -> Draws | None:
    """One session's sampling parameters, for several of its predictions."""
    return draws if draws is None or rows == 1 else draws.take(np.zeros(rows, np.int64))
