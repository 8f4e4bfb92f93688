"""What stands for no value: marks in fields, and numbers that can hardly be readings."""

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellar.reading.fields.marks import MARKS
from training.data.notes import Note

FEWEST_SAME = 3
"""A number stands so often where it is none."""
MARKING = frozenset([-1.0, 0.0, *(sign * n for sign in (1, -1) for n in (99, 999, 9999, 99999))])
"""Numbers that mark; with -200 and the like they have nothing but distance in common."""


def is_missing(texts: "pd.Series[str]", told: tuple[str, ...] = ()) -> NDArray[np.bool_]:
    """Where a field says that there is no value, ``(rows,)``; ``told`` are further marks."""
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    found = np.zeros(len(texts), np.bool_)
    odd = np.flatnonzero(np.isnan(numbers))
    found[odd] = [text.lower() in MARKS for text in texts.iloc[odd]]
    for mark in told:
        number = _number(mark)
        found |= np.fromiter((text == mark for text in texts), bool, len(texts))
        if number is not None:
            found |= numbers == number
            if texts.str.contains(",").any():
                commas = pd.to_numeric(texts.str.replace(",", "."), errors="coerce")
                found |= commas.to_numpy(np.float64) == number
    return found


def unlikely_note(values: NDArray[np.float64], *, where: str) -> Note | None:
    """Tell of a number ``(rows,)`` that is repeated far from all others: it may say "no value"."""
    numbers, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(numbers) < 5:
        return None
    for place, rest in ((0, numbers[1:]), (-1, numbers[:-1])):
        far = abs(numbers[place] - rest[place]) > rest[-1] - rest[0]
        enough = counts[place] >= (1 if _marks(numbers[place]) else FEWEST_SAME)
        if far and enough:
            number = f"{numbers[place]:g}"
            return Note(
                what=f"kept, but look: {number} may stand for no value",
                rows=int(counts[place]),
                detail=f"{where}the other values are {rest[0]:g} to {rest[-1]:g}; "
                f"--missing {number} takes it for none",
            )
    return None


def marks_note(texts: list[str], *, where: str) -> Note | None:
    """Tell of the marks among fields that stand for no value, with their counts."""
    found = Counter(text for text in texts if text)
    if not found:
        return None
    shown = ", ".join(f"'{mark}' {count:,} times" for mark, count in found.most_common(3))
    return Note(what="read as no value", rows=found.total(), detail=where + shown)


def _marks(number: float) -> bool:
    return number in MARKING or abs(number) >= 1e9


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
