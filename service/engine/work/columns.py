"""The columns that steps and predictions travel in. Knows nothing of sessions or devices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Branches: TypeAlias = NDArray[np.uint64]
"""Branches of sessions, (rows,); see `SessionTable`."""
Inputs: TypeAlias = NDArray[np.int64] | NDArray[np.float32]
"""Token ids (rows,) int64, or values (rows, width) float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Which predictions a caller wants; equal ones are computed together."""

    argmax: bool = False
    top_k: int = 0
    probabilities: bool = False
    sample: bool = False
    quantiles: tuple[float, ...] = ()
    raw: bool = False
    every_step: bool = False
    states: bool = False
    """What is resident of the sessions then, too: nobody outside asks for it."""

    @property
    def last_only(self) -> "Outputs":
        """The same, for the last step of each request."""
        return replace(self, every_step=False) if self.every_step else self


NOTHING = Outputs()
SAMPLE = Outputs(sample=True)
STATE = "state"
"""Begins the names of columns of states: with its number, those of a tensor, (rows, *shape)."""

ANSWERS = (
    "argmax",  # (rows,) int32
    "top_tokens",  # (rows, k) int32
    "top_probabilities",  # (rows, k) float32
    "probabilities",  # (rows, vocabulary) float32
    "sampled_tokens",  # (rows,) int32; of several drawn steps (rows, steps)
    "sampled_values",  # (rows,) float32; of several drawn steps (rows, steps)
    "quantiles",  # (rows, levels) float32
    "raw",  # (rows, prediction width) float32
)


@dataclass(slots=True)
class Answers:
    """Predictions as asked for: some of the columns that `ANSWERS` names, with equal rows.

    A column that was not asked for reads as ``None``. Those of states have no names there.
    """

    columns: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, **columns: NDArray[Any] | None) -> "Answers":
        """Those of the columns that are not ``None``."""
        return cls({name: column for name, column in columns.items() if column is not None})

    def __getattr__(self, name: str) -> NDArray[Any] | None:
        if name not in ANSWERS:
            raise AttributeError(name)
        return self.columns.get(name)

    def rows(self, start: int, stop: int) -> "Answers":
        """A range of rows, as views."""
        return Answers({name: column[start:stop] for name, column in self.columns.items()})

    def copied(self) -> "Answers":
        """The same, on memory of its own: views would keep the rows of a whole batch alive."""
        return Answers({name: column.copy() for name, column in self.columns.items()})

    @classmethod
    def joined(cls, parts: "Sequence[Answers]") -> "Answers":
        """All rows of answers to the same question."""
        if len(parts) == 1:
            return parts[0]
        columns = [part.columns for part in parts]
        return cls({name: np.concatenate([own[name] for own in columns]) for name in columns[0]})


def has_repeats(column: Ints) -> bool:
    """Whether a number appears twice."""
    ordered = np.sort(column)
    return bool((ordered[1:] == ordered[:-1]).any())
