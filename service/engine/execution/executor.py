"""Turns a batch into calls on the runner, and predictions into the answers of its parts.

This is what runs on the worker thread. Knows nothing of queues, clocks or the event loop.
"""

import time
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

import numpy as np
import structlog

from service.engine.execution.cpu.runner import Runner
from service.engine.work.work import (
    NOTHING,
    Answers,
    Batch,
    Chunk,
    Decode,
    Draws,
    Floats,
    Fork,
    Inputs,
    Ints,
    Kind,
    Outputs,
    Part,
    Peek,
    Steps,
    joined,
)
from service.errors import CellarError, InternalError, ReplyLostError

_Answered: TypeAlias = Answers | CellarError

_NO_ANSWERS = Answers()
_FRESH, _NOT_FRESH = np.ones(1, np.bool_), np.zeros(1, np.bool_)
_ONE = np.ones(1, np.int64)
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a batch came to: an answer per part, or a fault that leaves its state in doubt.

    A part whose answer could not be computed has an error in its place; its state is sound.
    """

    answers: list[Answers | CellarError] = field(default_factory=list)
    fault: Exception | None = None
    started_s: float = 0.0
    seconds: float = 0.0


class Execution:
    """Runs batches on one runner.

    Args:
        runner: the device.
        scratch: the slot that takes what must not be kept.
        max_history_bytes: memory for replies of several predictions; the oldest make room.
    """

    def __init__(self, runner: Runner, *, scratch: int, max_history_bytes: int) -> None:
        self._runner = runner
        self._scratch = scratch
        self._history_room = max_history_bytes
        # Predictions after every step of a session's last request, where it asked for them all:
        # the resident prediction alone could not repeat that reply.
        self._histories: dict[int, Floats] = {}

    @property
    def can_decode(self) -> bool:
        """Whether the device runs several steps that feed on each other."""
        return self._runner.can_decode

    def run(self, batch: Batch) -> Outcome:
        """Run a batch; a failure is part of the outcome."""
        try:
            match batch.kind:
                case Kind.STEPS:
                    answers = self._steps(batch)
                case Kind.DECODE:
                    answers = self._decode(batch)
                case Kind.CHUNKS:
                    answers = self._chunks(batch)
                case Kind.PEEK:
                    answers = self._peek(batch)
                case Kind.FORK:
                    answers = self._fork(batch)
                case Kind.BARRIER:
                    answers = [_NO_ANSWERS for _ in batch.parts]
        except Exception as fault:  # whatever the runtime throws must not kill the thread
            return Outcome(fault=fault)
        return Outcome(answers=answers)

    def run_rows(
        self, slots: Ints, positions: Ints, inputs: Inputs, outputs: Outputs, draws: Draws | None
    ) -> Answers | CellarError:
        """Apply one step of each of several sessions, which stand at ``positions``.

        Raises:
            Exception: whatever the runtime throws; the sessions' states are in doubt then.
        """
        predictions = self._runner.step(
            read=slots,
            write=slots,
            fresh=positions == 0,
            inputs=inputs[:, None],
            lengths=np.ones(len(slots), np.int64),
            every_step=False,
        )
        return self._answer(outputs, predictions, draws, positions + 1)

    def applied(self, slots: Ints) -> None:
        """The sessions of these slots have gone on: earlier replies are not asked for again."""
        if self._histories:
            for slot in slots.tolist():
                self.forget(slot)

    def remember(self, chunk: Chunk) -> None:
        """Keep what is needed to repeat a committed chunk's reply."""
        if not chunk.history:
            return
        history = np.concatenate(chunk.history)
        self._histories[chunk.slot] = history
        self._history_room -= history.nbytes
        while self._history_room < 0:
            self.forget(next(iter(self._histories)))

    def forget(self, slot: int) -> None:
        """Nobody will ask for the reply of a slot's session again."""
        history = self._histories.pop(slot, None)
        if history is not None:
            self._history_room += history.nbytes

    def measure(self, max_batch: int) -> dict[int, float]:
        """Seconds that a run of 1, 2, 4, ... rows takes."""
        sizes = [2**power for power in range(max_batch.bit_length())]
        return {rows: measure(self._runner, rows=rows, scratch=self._scratch) for rows in sizes}

    def _steps(self, batch: Batch) -> list[_Answered]:
        parts = batch.parts
        works = [part.work for part in parts if isinstance(part.work, Steps)]
        slots = joined(parts, "slots")
        expected = joined(parts, "expected")
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
        return self._answers(parts, predictions, expected + 1)

    def _decode(self, batch: Batch) -> list[_Answered]:
        answers: list[_Answered] = []
        for part in batch.parts:
            work, draws = part.work, _drawn(part)
            assert isinstance(work, Decode), "a batch holds one kind of work"
            assert draws is not None, "a decode says how to draw"
            expected = part.column(work.expected)
            drawn = self._runner.decode(
                read=part.slots,
                write=part.slots,
                fresh=expected == 0,
                inputs=work.inputs if len(part.rows) == len(work.slots) else work.inputs[part.rows],
                positions=expected + 1,
                draws=draws,
                steps=work.steps,
            )
            tokens = drawn.dtype == np.int32
            answers.append(
                Answers(
                    sampled_tokens=drawn if tokens else None,
                    sampled_values=None if tokens else drawn,
                )
            )
        return answers

    def _chunks(self, batch: Batch) -> list[_Answered]:
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
        answers: list[_Answered] = []
        for row, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            count = int(counts[row])
            own = predictions[row, :count] if every_step else predictions[row : row + 1]
            after = chunk.expected[0] + part.stop  # the position after this piece
            if chunk.outputs.every_step:
                chunk.history.append(own.copy())
            if not part.is_last:
                answers.append(_NO_ANSWERS)
                continue
            positions = np.array([after])
            if chunk.outputs.every_step:
                own = np.concatenate(chunk.history)
                positions = chunk.expected[0] + np.arange(1, len(own) + 1)
            else:
                own = own[-1:]
            draws = _spread(chunk.draws, len(own))
            answers.append(self._answer(chunk.outputs, own, draws, positions))
        return answers

    def _peek(self, batch: Batch) -> list[_Answered]:
        answers: list[_Answered] = []
        for part in batch.parts:
            work, slots = part.work, part.slots
            assert isinstance(work, Peek), "a batch holds one kind of work"
            ends = part.column(work.expected)
            draws = _drawn(part)
            if work.steps == 1:
                predictions = self._runner.peek(slots)
            else:  # every step of one session's last request
                history = self._histories.get(int(slots[0]))
                if history is None:
                    answers.append(_reply_lost())
                    continue
                predictions = history
                ends = ends[0] - np.arange(work.steps - 1, -1, -1)
                draws = _spread(draws, work.steps)
            answers.append(self._answer(work.outputs, predictions, draws, ends))
        return answers

    def _fork(self, batch: Batch) -> list[_Answered]:
        for part in batch.parts:
            assert isinstance(part.work, Fork)
            self._runner.copy(int(part.slots[0]), part.work.spares)
        return [_NO_ANSWERS for _ in batch.parts]

    def _answers(
        self, parts: tuple[Part, ...], predictions: Floats, positions: Ints
    ) -> list[_Answered]:
        """Answer parts that want equal outputs with one call, and share out the rows."""
        answers: list[_Answered] = []
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
            found = self._answer(outputs, predictions[start:stop], draws, positions[start:stop])
            offset = 0
            for part in members:
                size = len(part.rows)
                whole = size == stop - start
                if isinstance(found, CellarError) or whole:
                    answers.append(found)
                else:
                    answers.append(found.rows(offset, offset + size).copied())
                offset += size
            start = stop
        return answers

    def _answer(
        self, outputs: Outputs, predictions: Floats, draws: Draws | None, positions: Ints
    ) -> _Answered:
        """Run the heads; what fails here leaves state and neighbours untouched."""
        try:
            return self._runner.answer(predictions, outputs, draws, positions)
        except Exception as fault:  # whatever the runtime throws
            _log.error("answer failed", exc_info=fault)
            return InternalError(
                "the step was applied, but its answer could not be computed; the server's log "
                "tells why"
            )


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


def _reply_lost() -> ReplyLostError:
    return ReplyLostError(
        "the steps were applied, but their predictions are no longer kept: go on from the "
        "session's position"
    )


def _drawn(part: Part) -> Draws | None:
    """The sampling parameters of a part's rows."""
    draws = part.work.draws
    if draws is None or len(part.rows) == len(part.work.slots):
        return draws
    return draws.take(part.rows)


def _spread(draws: Draws | None, rows: int) -> Draws | None:
    """One session's sampling parameters, for several of its predictions."""
    return draws if draws is None or rows == 1 else draws.take(np.zeros(rows, np.int64))
