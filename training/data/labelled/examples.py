"""Sequences with their labels, and what was done to find them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.labelled.parts import Part
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
    part: Part | None = None
    """The part it is in, where whoever published the data said so."""
    group: str = ""
    """What it was recorded from, where that must not be on both sides of a split."""

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
    def is_split(self) -> bool:
        """Whether it came in parts."""
        return any(example.part is not None for example in self.examples)

    @property
    def sha256(self) -> str:
        """Hash of sequences and labels, and of parts and groups where there are some."""
        digest = hashlib.sha256()
        for example in self.examples:
            more = [word.encode() for word in (example.part, example.group) if word]
            for part in (example.label.encode(), example.key, *more):
                digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()


def _rank(label: str) -> tuple[bool, float, str]:
    try:
        return (False, float(label), label)
    except ValueError:
        return (True, 0.0, label)
