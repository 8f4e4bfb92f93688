"""Runs models without states: sequences of any lengths, padded to one tensor.

Knows nothing of queues or the event loop. Runs may overlap; on a GPU one follows the other.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models.compile.stateless import StatelessGraph
from models.errors import ModelError
from models.manifest import Manifest, TokensInput, ValuesInput
from service.engine.execution.heads import Heads
from service.engine.execution.probe import CHANCE, check_tokens, is_same
from service.engine.execution.runner import UnwrittenError
from service.engine.execution.runtime import CPU, Place, complaint, is_lost, open_session
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws

_PROBED_LENGTHS = (5, 1, 16, 2, 9, 33, 3, 7, 12)


class StatelessRunner:
    """A model without states on a device.

    Its operators are its own, and not all of them give a row the same bits in any batch. So
    that neighbours cannot change an answer, sequences share a run only where that was seen to
    change nothing.

    Args:
        place: where it runs.
        isolated: sequences share no run; ``None`` finds out whether they may.
        tolerance: how far apart the numbers of a sequence may be in another run, see `probe`.

    Raises:
        ModelError: it cannot be run, or its numbers hang on chance.
    """

    def __init__(
        self,
        graph: StatelessGraph,
        *,
        place: Place = CPU,
        isolated: bool | None = None,
        tolerance: float = 0.0,
        tf32: bool = False,
    ) -> None:
        self._tolerance = tolerance
        self._manifest = graph.manifest
        self._place = place
        self._session = open_session(graph.graph, place, tf32=tf32)
        # ONNX Runtime makes CUDA's handles, and the memory they work in, anew for each thread that
        # runs there, and keeps those of threads that have ended.
        self._thread = None if place == CPU else ThreadPoolExecutor(1, f"stateless {place}")
        self._heads = Heads(graph.heads, graph.manifest)
        self.isolated = self._is_changed_by_others() if isolated is None else isolated

    @property
    def pads(self) -> bool:
        """Whether sequences of different lengths can share a run."""
        return self._manifest.lengths is not None

    def predict(self, sequences: Sequence[Inputs]) -> list[Floats]:
        """Run some sequences together: (steps, width) for each, or (1, width).

        Args:
            sequences: token ids (steps,) or values (steps, width) of each, at least one step; of
                one length unless `pads`.

        Raises:
            UnwrittenError: they could not be run.
        """
        counts = [len(steps) for steps in sequences]
        first = sequences[0]
        padded = np.empty((len(counts), max(counts), *first.shape[1:]), first.dtype)
        for row, steps in enumerate(sequences):
            padded[row, : len(steps)] = steps
            padded[row, len(steps) :] = steps[-1]  # any valid step: it is not read
        feeds: dict[str, NDArray[Any]] = {self._manifest.input.name: padded}
        if self._manifest.lengths is not None:
            feeds[self._manifest.lengths] = np.array(counts, np.int32)
        try:
            found = self._run(feeds)
        except Exception as fault:  # whatever the runtime throws
            raise UnwrittenError(complaint(fault)) from fault
        if not self._manifest.prediction.per_step:
            return [found[row : row + 1] for row in range(len(counts))]
        return [found[row, :steps] for row, steps in enumerate(counts)]

    def _run(self, feeds: dict[str, NDArray[Any]]) -> Floats:
        run = partial(self._session.run, [self._manifest.prediction.output], feeds)
        (found,) = run() if self._thread is None else self._thread.submit(run).result()
        return cast(Floats, found)

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        return self._heads.answer(predictions, outputs, draws, positions)

    def is_lost(self, fault: Exception) -> bool:
        """See ``Runner.is_lost``."""
        steps = _any_steps(self._manifest, np.random.default_rng(0), 9)
        return is_lost(self._place, fault, lambda: self.predict([steps]))

    def _is_changed_by_others(self) -> bool:
        """Run sequences alone and together, and compare.

        Raises:
            ModelError: alone they cannot be run, or not twice to one result.
        """
        lengths = _PROBED_LENGTHS if self.pads else (9,) * len(_PROBED_LENGTHS)
        generator = np.random.default_rng(0)
        sequences = [_any_steps(self._manifest, generator, length) for length in lengths]
        if isinstance(self._manifest.input, TokensInput):
            check_tokens(len(self._manifest.input.vocabulary), self._why_not_token)
        try:
            alone = [self.predict([steps])[0] for steps in sequences]
            again = [self.predict([steps])[0] for steps in sequences]
        except UnwrittenError as fault:
            raise ModelError(f"cannot be run: {fault}") from fault
        if not all(map(self._is_same, again, alone)):
            raise ModelError(CHANCE)
        for batch in (sequences[:2], sequences, sequences * 8):
            try:
                together = self.predict(batch)
            except UnwrittenError:  # one by one it could
                return True
            if not all(map(self._is_same, together, cycle(alone))):
                return True
        return False

    def _why_not_token(self, token: int) -> str | None:
        try:
            self.predict([np.full(9, token)])
        except UnwrittenError as fault:
            return str(fault)
        return None

    def _is_same(self, one: Floats, other: Floats) -> bool:
        return is_same(one, other, tolerance=self._tolerance)


def _any_steps(manifest: Manifest, generator: np.random.Generator, length: int) -> Inputs:
    """Steps that the model can read."""
    match manifest.input:
        case TokensInput(vocabulary=vocabulary):
            return generator.integers(len(vocabulary), size=length)
        case ValuesInput(are_positive=positive, width=width):
            values = generator.normal(size=(length, width)).astype(np.float32)
            return np.where(positive, np.exp(values), values)
