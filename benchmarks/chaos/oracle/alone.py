"""Sessions as they would be alone: one step after another, on ONNX Runtime in this process.

Rows of many sessions share its runs, which changes no bit on a CPU; some are run in a batch of one
as well, so that this need not be believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.oracle.history import Digests, Floats, Ints, digest
from models.compile.arena import compile_model
from models.manifest import TokensInput
from models.repository import Model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.work.columns import SAMPLE
from service.engine.work.sampling import Draws, Sampling, path_seeds

ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What one session has read.

    Attributes:
        inputs: tokens or values, (steps,); whatever at steps that nobody was told.
        drawn: steps that the server drew, (steps,).
        seeds: of those, (steps,).
    """

    inputs: Floats
    drawn: NDArray[np.bool_]
    seeds: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a session alone would have been told.

    Attributes:
        digests: of the prediction after each step, (steps,).
        inputs: what each step was; drawn ones are drawn here, (steps,).
    """

    digests: Digests
    inputs: Floats


class Alone:
    """Runs of one model.

    Args:
        rows: how many sessions share a run at most.
    """

    def __init__(self, model: Model, *, rows: int = ROWS) -> None:
        self._rows = rows
        self._runner = CpuRunner(compile_model(model), slots=rows + 1, max_batch=rows)
        self._is_tokens = isinstance(model.manifest.input, TokensInput)

    def run(self, pasts: Sequence[Past]) -> list[Told]:
        """What each of several sessions would have been told."""
        order = sorted(range(len(pasts)), key=lambda number: -len(pasts[number]))
        found: dict[int, Told] = {}
        for start in range(0, len(order), self._rows):
            some = order[start : start + self._rows]
            told = self._together([pasts[number] for number in some])
            found.update(zip(some, told, strict=True))
        return [found[number] for number in range(len(pasts))]

    def forecast(self, past: Past, *, seed: int, paths: int, horizon: int) -> Floats:
        """The paths of a forecast of a series from there, (paths, horizon)."""
        self._together([past])
        slots = np.arange(paths)
        self._runner.copy(0, slots[1:])
        last = np.repeat(self._runner.recall(slots[:1]), paths, axis=0)
        seeds = path_seeds(seed, paths)
        values = np.empty((paths, horizon), np.float32)
        for step in range(horizon):
            values[:, step] = self._draw(last, seeds, np.full(paths, len(past) + step))
            if step + 1 < horizon:
                last = self._step(slots, values[:, step], fresh=False)
        return values

    def _together(self, pasts: Sequence[Past]) -> list[Told]:
        """Run sessions, the longest first, each in the slot of its number."""
        lengths = np.array([len(past) for past in pasts])
        count, longest = len(pasts), int(lengths.max(initial=0))
        inputs = np.zeros((longest, count), np.float32)
        drawn = np.zeros((longest, count), np.bool_)
        seeds = np.zeros((longest, count), np.uint64)
        for row, past in enumerate(pasts):
            inputs[: len(past), row] = past.inputs
            drawn[: len(past), row] = past.drawn
            seeds[: len(past), row] = past.seeds
        digests = np.zeros((longest, count), np.uint64)
        last = np.empty((0, 0), np.float32)
        for step in range(longest):
            going_on = int((lengths > step).sum())
            slots = np.arange(going_on)
            (rows,) = drawn[step, :going_on].nonzero()
            if len(rows):
                at = np.full(len(rows), step)
                inputs[step, rows] = self._draw(last[rows], seeds[step, rows], at)
            last = self._step(slots, inputs[step, :going_on], fresh=step == 0)
            digests[step, :going_on] = digest(last)
        return [
            Told(digests=digests[:length, row], inputs=inputs[:length, row])
            for row, length in enumerate(lengths.tolist())
        ]

    def _step(self, slots: Ints, inputs: Floats, *, fresh: bool) -> Floats:
        """One step of the sessions in these slots; their predictions (rows, width)."""
        column = inputs.astype(np.int64)[:, None] if self._is_tokens else inputs[:, None, None]
        found = self._runner.step(
            read=slots,
            write=slots,
            fresh=np.full(len(slots), fresh),
            inputs=column,
            lengths=np.ones(len(slots), np.int64),
            every_step=False,
        )
        return found.copy()

    def _draw(self, predictions: Floats, seeds: NDArray[np.uint64], positions: Ints) -> Floats:
        """What is drawn from predictions (rows, width) at these positions, (rows,)."""
        plain = Draws.repeated(Sampling(), len(seeds))
        draws = Draws(
            temperature=plain.temperature, top_k=plain.top_k, top_p=plain.top_p, seed=seeds
        )
        answers = self._runner.answer(predictions, SAMPLE, draws, positions.astype(np.int64))
        column = answers.sampled_tokens if self._is_tokens else answers.sampled_values
        assert column is not None
        return column.astype(np.float32)


__all__ = ["ROWS", "Alone", "Past", "Told"]
