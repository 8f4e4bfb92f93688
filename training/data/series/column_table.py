"""A file of columns, as text: CSV with a header, or plain columns of numbers; packed or not."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.data.delimited import first_line, place_of, read_delimited, rows_of
from training.data.notes import Note
from training.data.series.dates import is_date
from training.data.series.numbers import is_number
from training.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnTable:
    """Fields as text, stripped; the index is each row's line in the file."""

    path: Path
    frame: pd.DataFrame
    has_header: bool

    @property
    def notes(self) -> tuple[Note, ...]:
        """What a user must know of the columns."""
        if self.has_header:
            return ()
        names = f"1 to {len(self.frame.columns)}"
        return (Note(what="no header", rows=len(self.frame), detail=f"columns are named {names}"),)

    def column(self, name: str, option: str) -> "pd.Series[str]":
        """The fields of a column.

        Raises:
            DataError: there is none of that name.
        """
        place = place_of(name, tuple(self.frame.columns), path=self.path, option=option)
        return self.frame.iloc[:, place]


def read_columns(path: Path) -> ColumnTable:
    """Read a file; rows that are short are filled up, and blank lines are rows.

    Raises:
        DataError: it is missing, empty, broken, or not UTF-8.
    """
    text = read_delimited(path)
    first = first_line(text)
    if not first.strip():
        raise DataError(f"{path}: the file is empty; give a CSV file with a header")
    separator = _separator(first)
    has_header = not _is_data(first.strip().split(separator))
    rows = rows_of(text, separator, path=path, strict=False)
    head = next(row for row in rows if row.fields)
    if has_header:
        names = _names(head.fields, path)
    else:
        names = [str(number) for number in range(1, len(head.fields) + 1)]
        rows = itertools.chain([head], rows)
    lines: list[int] = []
    found: list[tuple[str, ...]] = []
    for row in rows:
        if len(row.fields) > len(names):
            if has_header and not lines:
                raise DataError(
                    f"{path}, line {row.line}: more fields than the header has; a number with a "
                    'comma in it wants quotes ("1,234.50"), or another separator between the fields'
                )
            raise DataError(
                f"{path}: broken CSV: Expected {len(names)} fields in line {row.line}, saw "
                f"{len(row.fields)}; mend that line"
            )
        lines.append(row.line)
        found.append(row.fields + ("",) * (len(names) - len(row.fields)))
    frame = pd.DataFrame(found, index=lines, columns=names, dtype=str)
    return ColumnTable(path=path, frame=frame, has_header=has_header)


def _is_data(fields: list[str]) -> bool:
    """Whether a first line is a row, and not the names of columns."""
    numbers = [is_number(field) for field in fields]
    return any(numbers) and all(
        number or is_date(field.strip()) for number, field in zip(numbers, fields, strict=True)
    )


def _names(header: tuple[str, ...], path: Path) -> list[str]:
    """The names of the columns; one without a name has its place for one."""
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{path}: two columns are named '{twice[0]}'; rename one")
    return [name or f"Unnamed: {place}" for place, name in enumerate(header)]


def _separator(first: str) -> str | None:
    """What stands between the fields of a line; None: whitespace."""
    best = max(";\t,|", key=first.count)  # of equals the first: 1,5;2,5 has a semicolon
    plain = all(is_number(field) for field in first.split())
    if first.count(best) or not plain or len(first.split()) < 2:
        return best if first.count(best) else ","
    return None
