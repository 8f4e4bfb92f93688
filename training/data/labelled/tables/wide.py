"""Tables with a whole sequence of numbers in each row."""

import math
import re
from collections.abc import Sequence

import numpy as np

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.parts import part_word
from training.data.labelled.tables.columns import Chosen
from training.data.labelled.tables.table import Table
from training.data.notes import Note
from training.errors import DataError

LARGEST = float(np.finfo(np.float32).max)
FEATURE = "value"
"""The name of the one number of a step."""
MISSING = ("", "?", "nan")
"""What stands for a number that there is not."""


def read_wide(table: Table, chosen: Chosen) -> Labelled:
    """Read the sequences; missing numbers at the end of a row are no part of it.

    Raises:
        DataError: a field is no number, or one is missing within a sequence.
    """
    places = [table.header.index(name) for name in chosen.features]
    labels = whole_labels(table.column(chosen.label))
    parts = table.column(chosen.part) if chosen.part else [""] * len(table.rows)
    groups = table.column(chosen.group) if chosen.group else [""] * len(table.rows)
    examples, dropped, ended = [], [], 0
    for row, label, part, group in zip(table.rows, labels, parts, groups, strict=True):
        fields = [row.fields[place] for place in places]
        used = len(without_missing_end(fields))
        ended += used < len(fields)
        place = f"line {row.line}"
        if not used or not label:
            dropped.append(place)
            continue
        names = chosen.features[:used]
        where = f"{table.path}, line {row.line}"
        values = finite_numbers(fields[:used], where, [f"column '{name}'" for name in names])
        sequence = np.array(values, np.float32)[:, None]
        examples.append(
            Example(sequence=sequence, label=label, place=place, part=part_word(part), group=group)
        )
    notes = []
    if ended:
        detail = "missing numbers at the end of a row are no steps"
        notes.append(Note(what="shorter sequences", rows=ended, detail=detail))
    if dropped:
        detail = f"first: {dropped[0]}"
        notes.append(Note(what="dropped: no numbers or no label", rows=len(dropped), detail=detail))
    return Labelled(
        examples=tuple(examples),
        features=(FEATURE,),
        source=table.path.name,
        notes=tuple(notes),
    )


def without_missing_end(fields: Sequence[str]) -> Sequence[str]:
    """Fields up to the last one that holds something."""
    used = len(fields)
    while used and fields[used - 1].lower() in MISSING:
        used -= 1
    return fields[:used]


def finite_numbers(fields: Sequence[str], where: str, places: Sequence[str]) -> list[float]:
    """Fields as numbers; ``where`` and ``places`` name them in errors.

    Raises:
        DataError: one is no finite number.
    """
    try:
        numbers = list(map(float, fields))
    except ValueError:
        numbers = [math.nan]
    if all(abs(number) <= LARGEST for number in numbers):
        return numbers
    field, place = next(
        pair for pair in zip(fields, places, strict=True) if not _is_finite(pair[0])
    )
    what = "is missing" if field.lower() in MISSING else f"'{field}' is not a finite number"
    raise DataError(
        f"{where}, {place}: {what}; mend it, or leave the sequence out: it must be whole"
    )


def _is_finite(field: str) -> bool:
    try:
        return abs(float(field)) <= LARGEST
    except ValueError:
        return False


def whole_labels(labels: Sequence[str]) -> list[str]:
    """Labels that are whole numbers written as others (1.0, 1.0000e+00) as such; others as is."""
    if any(re.fullmatch(r"[+-]?0\d+", label) for label in set(labels)):
        return list(labels)  # codes rather than numbers
    try:
        numbers = {label: float(label) for label in set(labels) if label}
    except ValueError:
        return list(labels)
    if not all(math.isfinite(n) and n.is_integer() for n in numbers.values()):
        return list(labels)
    return [str(int(numbers[label])) if label else "" for label in labels]
