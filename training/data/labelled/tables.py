"""Labelled sequences in tables: a row for each text, or a row for each step of numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.data.delimited import Row, first_line, place_of, read_delimited, rows_of
from training.data.labelled.examples import Example, Labelled
from training.data.notes import Note
from training.errors import DataError

TEXT_NAMES = ("text", "sentence", "string", "message", "review", "content", "name", "title")
LABEL_NAMES = ("label", "class", "category", "target", "language", "y")
SEQUENCE_NAMES = ("sequence", "sequence_id", "series", "series_id", "sample_id", "case", "id")
STEP_NAMES = ("step", "time_step", "timestep", "frame", "position", "time", "t")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows with as many fields as the header has names."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]

    def place(self, name: str, option: str) -> int:
        """The number of a column; ``option`` is what to choose one with.

        Raises:
            DataError: there is none of that name.
        """
        return place_of(name, self.header, path=self.path, option=option)

    def named(self, names: Sequence[str]) -> str | None:
        """The first column with one of these names, whatever its capitals."""
        known = {name.lower().replace(" ", "_"): name for name in reversed(self.header)}
        return next((known[name] for name in names if name in known), None)


def read_table(path: Path) -> Table:
    """Read a file with a header and fields between commas, semicolons or tabs; blank rows are none.

    Raises:
        DataError: it is missing, empty, not UTF-8, or a row has another number of fields.
    """
    text = read_delimited(path)
    separator = max(",;\t", key=first_line(text).count)
    header: tuple[str, ...] = ()
    rows = []
    for row in rows_of(text, separator, path=path, strict=True):
        if not any(row.fields):
            continue
        if not header:
            header = row.fields
        elif len(row.fields) != len(header):
            raise DataError(
                f"{path}, line {row.line}: {len(row.fields)} fields, but the header names "
                f"{len(header)}; put fields that hold a '{separator}' in quotes"
            )
        else:
            rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows; give a table with a header and a row for each sequence")
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: the header names '{twice}' twice; give each column its own name")
    return Table(path=path, header=header, rows=tuple(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of a table's columns; those not given are found by their usual names."""

    text: str | None = None
    label: str | None = None
    sequence: str | None = None
    step: str | None = None
    features: tuple[str, ...] = ()

    @property
    def given(self) -> str | None:
        """An option that was given; None if there is none."""
        options = {
            "--text-column": self.text,
            "--label-column": self.label,
            "--sequence-column": self.sequence,
            "--step-column": self.step,
            "--feature": self.features,
        }
        return next((option for option, value in options.items() if value), None)

    def found_in(self, table: Table) -> "Columns":
        """The columns of a table: ``text`` is set for a table of texts, ``sequence`` otherwise.

        Raises:
            DataError: a column is missing, or it is not clear which ones to take.
        """
        label = self.label or table.named(LABEL_NAMES)
        if label is None:
            raise _unclear(table, "label", "--label-column")
        table.place(label, "--label-column")
        if self.sequence is None and not self.features:
            text = self.text or table.named([name for name in TEXT_NAMES if name != label.lower()])
            if text is None and self.step is None and len(table.header) == 2:
                text = next(name for name in table.header if name != label)
            if text is not None:
                table.place(text, "--text-column")
                return replace(self, label=label, text=text)
        sequence = self.sequence or table.named(SEQUENCE_NAMES)
        if sequence is None:
            raise _unclear(
                table, "text or of the sequence a step is of", "--text-column or --sequence-column"
            )
        table.place(sequence, "--sequence-column")
        step = self.step or table.named(STEP_NAMES)
        taken = {label, sequence, step}
        features = self.features or tuple(name for name in table.header if name not in taken)
        for name in (*features, *([step] if step else [])):
            table.place(name, "--feature" if name in features else "--step-column")
        if not features:
            raise DataError(f"{table.path}: no column is left for the numbers of a step")
        return Columns(label=label, sequence=sequence, step=step, features=features)


def read_texts(table: Table, columns: Columns) -> Labelled:
    """Read a table with a text and its label in each row; rows that lack either are dropped."""
    text_place = table.place(columns.text or "", "--text-column")
    label_place = table.place(columns.label or "", "--label-column")
    texts, dropped = [], []
    for row in table.rows:
        text, label = row.fields[text_place], row.fields[label_place]
        place = f"line {row.line}"
        if text and label:
            texts.append(Example(sequence=text, label=label, place=place))
        else:
            dropped.append(place)
    notes: tuple[Note, ...] = ()
    if dropped:
        notes = (
            Note(
                what="dropped: no text or no label",
                rows=len(dropped),
                detail=f"first: {dropped[0]}",
            ),
        )
    return Labelled(examples=tuple(texts), source=table.path.name, notes=notes)


def read_sequences(table: Table, columns: Columns) -> Labelled:
    """Read a table with the numbers of one step in each row.

    Rows belong to the sequence that they name; within it they are sorted by the step, if there is
    a column for it, and stand as they are in the file otherwise.

    Raises:
        DataError: a field is no number, or a sequence has two labels.
    """
    sequence_place = table.place(columns.sequence or "", "--sequence-column")
    label_place = table.place(columns.label or "", "--label-column")
    rows_of: dict[str, list[Row]] = {}
    for row in table.rows:
        name = row.fields[sequence_place]
        if not name:
            raise DataError(
                f"{table.path}, line {row.line}, column '{columns.sequence}': it is empty; say "
                "which sequence the step is of"
            )
        rows_of.setdefault(name, []).append(row)
    places = {name: table.header.index(name) for name in columns.features}
    sequences = []
    moved = 0
    for name, rows in rows_of.items():
        label = rows[0].fields[label_place]
        for row in rows:
            found = row.fields[label_place]
            if not found or found != label:
                raise DataError(
                    f"{table.path}, line {row.line}, column '{columns.label}': '{found}', but "
                    f"sequence '{name}' is '{label}' in line {rows[0].line}; give every step of a "
                    "sequence the same label"
                )
        if columns.step is not None:
            step_place = table.header.index(columns.step)
            steps = [_number(table, row, step_place, "--step-column") for row in rows]
            order = sorted(range(len(rows)), key=steps.__getitem__)
            moved += sum(place != number for number, place in enumerate(order))
            rows = [rows[place] for place in order]
        values = [
            [_number(table, row, place, "--feature") for place in places.values()] for row in rows
        ]
        sequences.append(
            Example(sequence=np.array(values, np.float32), label=label, place=f"sequence '{name}'")
        )
    notes: tuple[Note, ...] = ()
    if moved:
        notes = (
            Note(
                what=f"sorted by '{columns.step}'",
                rows=moved,
                detail="rows that stood elsewhere in their sequence",
            ),
        )
    return Labelled(
        examples=tuple(sequences),
        features=columns.features,
        source=table.path.name,
        notes=notes,
    )


def _number(table: Table, row: Row, place: int, option: str) -> float:
    field = row.fields[place]
    try:
        number = float(field)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
        raise DataError(
            f"{table.path}, line {row.line}, column '{table.header[place]}': '{field}' is not a "
            f"finite number; mend it, or choose another column with {option}"
        )
    return number


def _unclear(table: Table, what: str, option: str) -> DataError:
    known = ", ".join(table.header)
    return DataError(
        f"{table.path}: which column is the {what}? (it has: {known}); say so with {option}"
    )
