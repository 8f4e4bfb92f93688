"""A table of text with a header, read so that every row knows its line."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.files import read_text
from training.errors import DataError

_LONGEST_FIELD = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table."""

    line: int
    """Where it ends in the file, counted from 1."""
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows with as many fields as the header has names."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]

    def place(self, name: str, option: str) -> int:
        """The number of a column.

        Raises:
            DataError: there is none of that name; ``option`` is what to choose one with.
        """
        if name not in self.header:
            known = ", ".join(self.header)
            raise DataError(
                f"{self.path}: no column '{name}' (it has: {known}); choose one with {option}"
            )
        return self.header.index(name)

    def named(self, names: Sequence[str]) -> str | None:
        """The first column with one of these names, whatever its capitals."""
        known = {name.strip().lower().replace(" ", "_"): name for name in reversed(self.header)}
        return next((known[name] for name in names if name in known), None)


def read_table(path: Path) -> Table:
    """Read a file with a header and fields between commas, semicolons or tabs.

    Raises:
        DataError: it is missing, empty, not UTF-8, or a row has another number of fields.
    """
    text = read_text(path)
    first = text.lstrip("\r\n").partition("\n")[0]
    separator = max(",;\t", key=first.count)
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: tuple[str, ...] = ()
    rows = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if not header:
                header = tuple(field.strip() for field in fields)
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the header names "
                    f"{len(header)}; put fields that hold a '{separator}' in quotes"
                )
            rows.append(Row(line=reader.line_num, fields=tuple(fields)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; mend the quotes") from error
    if not header or not rows:
        raise DataError(f"{path}: no rows; give a table with a header and a row for each sequence")
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: the header names '{twice}' twice; give each column its own name")
    return Table(path=path, header=header, rows=tuple(rows))
