"""Turns predictions into what callers asked for, row by row.

Knows nothing of sessions, slots or state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest, PredictionKind
from service.engine.execution.runtime import open_session
from service.engine.work.columns import Answers, Floats, Ints, Outputs
from service.engine.work.sampling import Draws, uniforms

Rows: TypeAlias = Ints | slice
ALL = slice(None)


class _Rows(Protocol):
    """Predictions (rows, width), wherever they lie."""

    def __len__(self) -> int: ...

    def copy(self) -> Any:
        """They, in the host's memory."""


Predictions = TypeVar("Predictions", bound=_Rows)


class DrawMode(Enum):
    """How a row is drawn; its own parameters alone decide, never its neighbours'."""

    PLAIN = "sample"  # from all tokens, which need no sorting then
    FILTERED = "sample_filtered"
    GREEDY = "argmax"
    VALUES = "quantiles"


def draw_modes(draws: Draws, *, vocabulary: int) -> list[tuple[DrawMode, Rows]]:
    """The rows to draw in each mode; together they are all rows."""
    fewest = np.minimum.reduce(draws.top_k)
    if fewest > 1:  # nobody is greedy: mostly all draw in one way
        if np.maximum.reduce(draws.top_k) < vocabulary:
            return [(DrawMode.FILTERED, ALL)]
        if fewest >= vocabulary and np.minimum.reduce(draws.top_p) >= 1.0:
            return [(DrawMode.PLAIN, ALL)]
    greedy = (draws.top_k == 1) & (draws.temperature == 1.0)
    plain = (draws.top_k >= vocabulary) & (draws.top_p >= 1.0) & ~greedy
    found: list[tuple[DrawMode, Rows]] = []
    for mode, chosen in (
        (DrawMode.PLAIN, plain),
        (DrawMode.GREEDY, greedy),
        (DrawMode.FILTERED, ~(plain | greedy)),
    ):
        if chosen.all():
            return [(mode, ALL)]
        if chosen.any():
            found.append((mode, np.flatnonzero(chosen)))
    return found


def parameters(draws: Draws, mode: DrawMode) -> dict[str, NDArray[Any]]:
    """What the graphs that draw take, (rows, 1) each."""
    if mode in (DrawMode.GREEDY, DrawMode.VALUES):
        return {}
    found: dict[str, NDArray[Any]] = {"temperature": draws.temperature[:, None]}
    if mode is DrawMode.FILTERED:
        found["top_k"] = draws.top_k[:, None]
        found["top_p"] = draws.top_p[:, None]
    return found


class HeadsOf(ABC, Generic[Predictions]):
    """What every device's heads have in common: which of them an answer takes."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def answer(
        self, predictions: Predictions, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        """See ``Runner.answer``."""
        found: dict[str, Any] = {}
        if outputs.raw:
            found["raw"] = predictions.copy()
        kind = self._manifest.prediction.kind
        if kind in (PredictionKind.LOGITS, PredictionKind.LABELS):
            self._answer_tokens(found, predictions, outputs, draws, positions)
        elif kind is PredictionKind.DISTRIBUTION:
            if outputs.quantiles:
                levels = np.tile(np.array(outputs.quantiles, np.float32), (len(predictions), 1))
                found["quantiles"] = self._quantiles(predictions, levels)
            if outputs.sample and draws is not None:
                levels = uniforms(draws.seed, positions)[:, None]
                found["sampled_values"] = self._quantiles(predictions, levels)[:, 0]
        return Answers(found)

    @abstractmethod
    def _answer_tokens(
        self,
        found: dict[str, Any],
        logits: Predictions,
        outputs: Outputs,
        draws: Draws | None,
        positions: Ints,
    ) -> None:
        """Add what was asked of logits (rows, vocabulary), or of the scores of labels."""

    @abstractmethod
    def _quantiles(self, predictions: Predictions, levels: Floats) -> Floats:
        """(rows, width), (rows, k) -> (rows, k)."""


class Heads(HeadsOf[Floats]):
    """The heads of one model on the CPU.

    Args:
        graphs: each head as a graph.
    """

    def __init__(self, graphs: Mapping[str, bytes], manifest: Manifest) -> None:
        super().__init__(manifest)
        self._sessions = {
            name: open_session(graph) for name, graph in graphs.items() if name != "argmax"
        }

    def _answer_tokens(
        self,
        found: dict[str, Any],
        logits: Floats,
        outputs: Outputs,
        draws: Draws | None,
        positions: Ints,
    ) -> None:
        feed = {"logits": logits}
        if outputs.argmax:
            found["argmax"] = _argmax(logits)
        if outputs.top_k:
            k = np.array([outputs.top_k], np.int64)
            found["top_tokens"], found["top_probabilities"] = self._sessions["top_k"].run(
                None, {**feed, "k": k}
            )
        if outputs.probabilities:
            (found["probabilities"],) = self._sessions["probabilities"].run(None, feed)
        if outputs.sample and draws is not None:
            found["sampled_tokens"] = self._sample(logits, draws, positions)

    def _sample(self, logits: Floats, draws: Draws, positions: Ints) -> NDArray[np.int32]:
        """(rows, vocabulary) -> (rows,)."""
        tokens = np.empty(len(logits), np.int32)
        for mode, rows in draw_modes(draws, vocabulary=logits.shape[1]):
            if mode is DrawMode.GREEDY:
                tokens[rows] = _argmax(logits[rows])
                continue
            own = draws if rows is ALL else draws.take(rows)
            (tokens[rows],) = self._sessions[mode.value].run(
                None,
                {
                    "logits": logits[rows],
                    "uniform": uniforms(own.seed, positions[rows])[:, None],
                    **parameters(own, mode),
                },
            )
        return tokens

    def _quantiles(self, predictions: Floats, levels: Floats) -> Floats:
        """(rows, width), (rows, k) -> (rows, k)."""
        names = self._manifest.quantiles
        assert names is not None, "the manifest says that a distribution has quantiles"
        (found,) = self._sessions["quantiles"].run(
            None, {self._manifest.prediction.output: predictions[:, None, :], names.levels: levels}
        )
        values: Floats = found[:, 0, :]
        return values


def _argmax(logits: Floats) -> NDArray[np.int32]:
    """The likeliest token of each row: 5 us for 256 rows of 96, the graph's ArgMax takes 26."""
    found: NDArray[np.int32] = logits.argmax(axis=1).astype(np.int32)
    return found
