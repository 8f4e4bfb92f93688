"""A file of columns, as text: CSV with a header, or plain columns of numbers; packed or not."""

import csv
import gzip
import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.data.files import decode, read_bytes
from training.data.notes import Note
from training.data.series.dates import is_date
from training.data.series.numbers import is_number
from training.errors import DataError

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Fields as text, stripped; the index counts rows from 0."""

    path: Path
    frame: pd.DataFrame
    has_header: bool

    @property
    def first_line(self) -> int:
        """The line of the first row."""
        return 2 if self.has_header else 1

    @property
    def notes(self) -> tuple[Note, ...]:
        """What a user must know of the columns."""
        if self.has_header:
            return ()
        names = f"1 to {len(self.frame.columns)}"
        return (Note(what="no header", rows=len(self.frame), detail=f"columns are named {names}"),)

    def line(self, row: int) -> str:
        """Where a row is in the file."""
        return f"line {row + self.first_line}"

    def column(self, name: str, option: str) -> "pd.Series[str]":
        """The fields of a column.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.frame.columns:
            known = ", ".join(map(str, self.frame.columns))
            raise DataError(
                f"{self.path}: no column '{name}' (it has: {known}); choose one with {option}"
            )
        return self.frame[name]


def read_table(path: Path) -> Table:
    """Read a file.

    Raises:
        DataError: it is missing, empty, broken, or not UTF-8.
    """
    data = read_bytes(path)
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: broken gzip file: {error}; fetch it again") from error
    text = decode(data, path)
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    if not first.strip():
        raise DataError(f"{path}: the file is empty; give a CSV file with a header")
    separator = _separator(first)
    has_header = not _is_data(re.split(separator, first.strip()))
    if has_header:
        _check_names(first, separator, path)
    try:
        with warnings.catch_warnings():
            # pandas cuts a first row that is too long, and only warns: numbers would be wrong.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                header=0 if has_header else None,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
                skipinitialspace=True,
            )
    except pd.errors.ParserWarning as error:
        raise DataError(
            f"{path}, line 2: more fields than the header has; a number with a comma in it wants "
            'quotes ("1,234.50"), or another separator between the fields'
        ) from error
    except pd.errors.ParserError as error:
        reason = str(error).replace("Error tokenizing data. C error: ", "").strip()
        raise DataError(f"{path}: broken CSV: {reason}; mend that line") from error
    frame = frame.fillna("")
    if not has_header:
        frame.columns = pd.Index([str(number + 1) for number in range(len(frame.columns))])
    frame.columns = frame.columns.str.strip()
    return Table(
        path=path, frame=frame.apply(lambda column: column.str.strip()), has_header=has_header
    )


def _is_data(fields: list[str]) -> bool:
    """Whether a first line is a row, and not the names of columns."""
    numbers = [is_number(field) for field in fields]
    return any(numbers) and all(
        number or is_date(field.strip()) for number, field in zip(numbers, fields, strict=True)
    )


def _check_names(first: str, separator: str, path: Path) -> None:
    names = [name.strip() for name in next(csv.reader([first], delimiter=separator[-1]))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are named '{twice[0]}'; rename one")


def _separator(first: str) -> str:
    """What stands between the fields of a line, as a pattern."""
    best = max(";\t,|", key=first.count)  # of equals the first: 1,5;2,5 has a semicolon
    if first.count(best):
        return "\\|" if best == "|" else best
    plain = all(is_number(field) for field in first.split())
    return r"\s+" if plain and len(first.split()) > 1 else ","
