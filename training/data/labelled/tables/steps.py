"""Tables with the numbers of one step of a sequence in each row."""

import itertools
import math

import numpy as np

from training.data.delimited import Row
from training.data.labelled.examples import Example, Labelled
from training.data.labelled.parts import part_word
from training.data.labelled.tables.columns import Chosen
from training.data.labelled.tables.table import Table
from training.data.labelled.tables.wide import LARGEST
from training.data.notes import Note
from training.errors import DataError


def read_steps(table: Table, chosen: Chosen) -> Labelled:
    """Read the sequences.

    Rows belong to the sequence that they name; within it they are sorted by the step, if there is
    a column for it, and stand together in the order of the file otherwise.

    Raises:
        DataError: a field is no number, a sequence has two labels, groups or parts, or its rows
            do not tell their order.
    """
    rows_of: dict[str, list[Row]] = {}
    last = None
    for row, name in zip(table.rows, table.column(chosen.sequence), strict=True):
        if not name:
            raise DataError(
                f"{table.path}, line {row.line}, column '{chosen.sequence}': it is empty; say "
                "which sequence the step is of"
            )
        if chosen.step is None and name in rows_of and name != last:
            raise DataError(
                f"{table.path}, line {row.line}: sequence '{name}' goes on after '{last}' began; "
                "give every sequence a name of its own, or a column that orders its steps "
                "(--step-column)"
            )
        last = name
        rows_of.setdefault(name, []).append(row)
    places = [table.header.index(name) for name in chosen.features]
    sequences = []
    moved = 0
    for name, rows in rows_of.items():
        label = _one(table, rows, name, chosen.label)
        if chosen.step is not None:
            before, rows = rows, _in_order(table, rows, name, chosen.step)
            moved += sum(row is not other for row, other in zip(rows, before, strict=True))
        values = [_numbers(table, row, places) for row in rows]
        sequences.append(
            Example(
                sequence=np.array(values, np.float32),
                label=label,
                place=f"sequence '{name}'",
                part=part_word(_one(table, rows, name, chosen.part)) if chosen.part else None,
                group=_one(table, rows, name, chosen.group) if chosen.group else "",
            )
        )
    notes: tuple[Note, ...] = ()
    if moved:
        detail = "rows that stood elsewhere in their sequence"
        notes = (Note(what=f"sorted by '{chosen.step}'", rows=moved, detail=detail),)
    return Labelled(
        examples=tuple(sequences),
        features=chosen.features,
        source=table.path.name,
        notes=notes,
    )


def _one(table: Table, rows: list[Row], name: str, column: str) -> str:
    """What all rows of a sequence say.

    Raises:
        DataError: they say different things, or nothing.
    """
    place = table.header.index(column)
    said = rows[0].fields[place]
    for row in rows:
        found = row.fields[place]
        if not found or found != said:
            raise DataError(
                f"{table.path}, line {row.line}, column '{column}': '{found}', but sequence "
                f"'{name}' is '{said}' in line {rows[0].line}; give every step of a sequence the "
                "same, or name another column of labels with --label-column"
            )
    return said


def _in_order(table: Table, rows: list[Row], name: str, column: str) -> list[Row]:
    place = table.header.index(column)
    steps = [_number(table, row, place, "--step-column") for row in rows]
    order = sorted(range(len(rows)), key=steps.__getitem__)
    for before, after in itertools.pairwise(order):
        if steps[before] == steps[after]:
            raise DataError(
                f"{table.path}, line {rows[after].line}: step {rows[after].fields[place]} of "
                f"sequence '{name}' stands in line {rows[before].line}, too; give every sequence "
                "a name of its own"
            )
    return [rows[number] for number in order]


def _numbers(table: Table, row: Row, places: list[int]) -> list[float]:
    try:
        numbers = [float(row.fields[place]) for place in places]
    except ValueError:
        numbers = [math.nan]
    if all(-LARGEST <= number <= LARGEST for number in numbers):
        return numbers
    return [_number(table, row, place, "--feature") for place in places]


def _number(table: Table, row: Row, place: int, option: str) -> float:
    field = row.fields[place]
    try:
        number = float(field)
    except ValueError:
        number = math.nan
    if not abs(number) <= LARGEST:  # nor is what is no number
        raise DataError(
            f"{table.path}, line {row.line}, column '{table.header[place]}': '{field}' is not a "
            f"finite number; mend it, or choose another column with {option}"
        )
    return number
