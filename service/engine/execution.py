"""Turns a batch into calls on the runner, and predictions into the answers of its parts.

This is what runs on the worker thread. Knows nothing of queues, clocks or the event loop.
"""

import time
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from service.engine.batch import (
    NOTHING,
    Answers,
    Batch,
    Chunk,
    Draws,
    Floats,
    Fork,
    Inputs,
    Ints,
    Kind,
    Part,
    Steps,
)
from service.engine.runner import Runner

_NO_ANSWERS = Answers()


@dataclass(slots=True)
class Outcome:
    """What a batch came to: answers per part (empty for unfinished ones), or a fault."""

    answers: list[Answers] = field(default_factory=list)
    fault: Exception | None = None
    started_s: float = 0.0
    seconds: float = 0.0


class Execution:
    """Runs batches on one runner.

    Args:
        runner: the device.
        scratch: the slot that takes what must not be kept.
    """

    def __init__(self, runner: Runner, *, scratch: int) -> None:
        self._runner = runner
        self._scratch = scratch
        # Predictions after every step of a session's last request, where it asked for them all:
        # the resident prediction alone could not repeat that reply.
        self._histories: dict[int, Floats] = {}

    def run(self, batch: Batch) -> Outcome:
        """Run a batch; a failure is part of the outcome."""
        try:
            match batch.kind:
                case Kind.STEPS:
                    answers = self._steps(batch)
                case Kind.CHUNKS:
                    answers = self._chunks(batch)
                case Kind.PEEK:
                    answers = self._peek(batch)
                case Kind.FORK:
                    answers = self._fork(batch)
        except Exception as fault:  # whatever the runtime throws must not kill the thread
            return Outcome(fault=fault)
        return Outcome(answers=answers)

    def remember(self, chunk: Chunk) -> None:
        """Keep what is needed to repeat a committed chunk's reply."""
        if chunk.history:
            self._histories[chunk.slot] = np.concatenate(chunk.history)

    def forget(self, slot: int) -> None:
        """The session of a slot is gone."""
        self._histories.pop(slot, None)

    def measure(self, max_batch: int) -> dict[int, float]:
        """Seconds that a run of 1, 2, 4, ... rows takes, on the scratch row alone."""
        found: dict[int, float] = {}
        rows = 1
        while rows <= max_batch:
            slots = np.full(rows, self._scratch, np.int64)
            inputs = self._runner.blank(rows)
            times = []
            for _ in range(3):
                began = time.perf_counter()
                self._runner.step(
                    read=slots,
                    write=slots,
                    fresh=np.ones(rows, np.bool_),
                    inputs=inputs,
                    lengths=np.ones(rows, np.int64),
                    every_step=False,
                )
                times.append(time.perf_counter() - began)
            found[rows] = min(times)
            rows *= 2
        return found

    def _steps(self, batch: Batch) -> list[Answers]:
        parts = batch.parts
        works = [part.work for part in parts if isinstance(part.work, Steps)]
        slots = _column(parts, "slots")
        expected = _column(parts, "expected")
        inputs: Inputs = np.concatenate(
            [
                work.inputs if len(part.rows) == len(work.slots) else work.inputs[part.rows]
                for part, work in zip(parts, works, strict=True)
            ]
        )[:, None]  # (rows, 1) or (rows, 1, width)
        write = slots
        if not all(work.commit for work in works):
            commit = np.repeat([work.commit for work in works], [len(p.rows) for p in parts])
            write = np.where(commit, slots, self._scratch)
        predictions = self._runner.step(
            read=slots,
            write=write,
            fresh=expected == 0,
            inputs=inputs,
            lengths=np.ones(len(slots), np.int64),
            every_step=False,
        )
        for work, part in zip(works, parts, strict=True):
            if self._histories and work.commit:
                for slot in part.slots.tolist():
                    self._histories.pop(slot, None)
        return self._answers(parts, predictions, expected + 1)

    def _chunks(self, batch: Batch) -> list[Answers]:
        parts = batch.parts
        chunks = [part.work for part in parts if isinstance(part.work, Chunk)]
        counts = np.array([part.stop - part.start for part in parts])
        time_steps = int(counts.max())
        first = chunks[0].inputs
        inputs: Inputs = np.zeros((len(parts), time_steps, *first.shape[1:]), first.dtype)
        read = np.empty(len(parts), np.int64)
        write = np.empty(len(parts), np.int64)
        fresh = np.zeros(len(parts), np.bool_)
        for row, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            piece = chunk.inputs[part.start : part.stop]
            inputs[row, : len(piece)] = piece
            inputs[row, len(piece) :] = piece[-1]  # any valid input: it is not read
            inside = chunk.slot if chunk.spare is None else chunk.spare
            read[row] = chunk.slot if part.start == 0 else inside
            write[row] = inside
            if part.is_last:
                write[row] = chunk.slot if chunk.commit else self._scratch
            fresh[row] = part.start == 0 and chunk.expected[0] == 0
        every_step = any(chunk.outputs.every_step for chunk in chunks)
        predictions = self._runner.step(
            read=read,
            write=write,
            fresh=fresh,
            inputs=inputs,
            lengths=counts,
            every_step=every_step,
        )
        answers: list[Answers] = []
        for row, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            count = int(counts[row])
            own = predictions[row, :count] if every_step else predictions[row : row + 1]
            after = chunk.expected[0] + part.stop  # the position after this piece
            if chunk.outputs.every_step:
                chunk.history.append(own.copy())
            if not part.is_last:
                answers.append(_NO_ANSWERS)
                continue
            if chunk.commit:
                self._histories.pop(chunk.slot, None)
            if chunk.outputs.every_step:
                own = np.concatenate(chunk.history)
                positions = chunk.expected[0] + np.arange(1, len(own) + 1)
            else:
                own = own[-1:]
                positions = np.array([after])
            draws = _spread(chunk.draws, len(own))
            answers.append(self._runner.answer(own, chunk.outputs, draws, positions))
        return answers

    def _peek(self, batch: Batch) -> list[Answers]:
        answers: list[Answers] = []
        for part in batch.parts:
            slots = part.slots
            predictions = self._histories.get(int(slots[0])) if len(slots) == 1 else None
            if predictions is None or not part.work.outputs.every_step:
                predictions = self._runner.peek(slots)
            ends = part.column(part.work.expected)
            draws = _drawn(part)
            if len(predictions) != len(slots):  # every step of one session
                ends = ends[0] - np.arange(len(predictions) - 1, -1, -1)
                draws = _spread(draws, len(predictions))
            answers.append(self._runner.answer(predictions, part.work.outputs, draws, ends))
        return answers

    def _fork(self, batch: Batch) -> list[Answers]:
        for part in batch.parts:
            assert isinstance(part.work, Fork)
            self._runner.copy(int(part.slots[0]), part.work.spares)
        return [_NO_ANSWERS for _ in batch.parts]

    def _answers(
        self, parts: tuple[Part, ...], predictions: Floats, positions: Ints
    ) -> list[Answers]:
        """Answer parts that want equal outputs with one call, and share out the rows."""
        answers: list[Answers] = []
        start = 0
        for outputs, group in groupby(parts, key=lambda part: part.work.outputs):
            members = list(group)
            stop = start + sum(len(part.rows) for part in members)
            if outputs == NOTHING:
                answers.extend(_NO_ANSWERS for _ in members)
                start = stop
                continue
            draws = None
            if outputs.sample:
                draws = Draws.joined([d for part in members if (d := _drawn(part)) is not None])
            found = self._runner.answer(
                predictions[start:stop], outputs, draws, positions[start:stop]
            )
            offset = 0
            for part in members:
                size = len(part.rows)
                whole = size == stop - start
                answers.append(found if whole else found.rows(offset, offset + size))
                offset += size
            start = stop
        return answers


def _drawn(part: Part) -> Draws | None:
    """The sampling parameters of a part's rows."""
    draws = part.work.draws
    if draws is None or len(part.rows) == len(part.work.slots):
        return draws
    return draws.take(part.rows)


def _spread(draws: Draws | None, rows: int) -> Draws | None:
    """One session's sampling parameters, for several of its predictions."""
    return draws if draws is None or rows == 1 else draws.take(np.zeros(rows, np.int64))


def _column(parts: tuple[Part, ...], name: str) -> Ints:
    if len(parts) == 1:
        return parts[0].column(getattr(parts[0].work, name))
    return np.concatenate([part.column(getattr(part.work, name)) for part in parts])
