"""Sequences with their labels, and what was done to find them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.notes import Note

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One sequence with its label."""

    sequence: str | Floats
    """Characters; or numbers, ``(steps, features)``."""
    label: str
    place: str
    """Where it came from, for messages."""

    @property
    def key(self) -> bytes:
        """Equal for equal sequences."""
        return self.sequence.encode() if isinstance(self.sequence, str) else self.sequence.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Sequences of one kind."""

    examples: tuple[Example, ...]
    features: tuple[str, ...] = ()
    """Names of the columns of numbers; none for text."""
    source: str
    notes: tuple[Note, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether the sequences are characters."""
        return not self.features

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels in order: numbers by size, words by alphabet."""
        return tuple(sorted({example.label for example in self.examples}, key=_rank))

    @property
    def sha256(self) -> str:
        """Hash of sequences and labels."""
        digest = hashlib.sha256()
        for example in self.examples:
            for part in (example.label.encode(), example.key):
                digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()


def _rank(label: str) -> tuple[bool, float, str]:
    try:
        return (False, float(label), label)
    except ValueError:
        return (True, 0.0, label)
