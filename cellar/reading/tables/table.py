"""A file as a table: a header, and rows of fields. What is no step in each row is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cellar.reading.errors import TableError
from cellar.reading.fields.commas import Column
from cellar.reading.fields.kinds import Kind, kind_of
from cellar.reading.tables.headers import Tickers, merged_header
from cellar.reading.tables.outline import outline_of
from cellar.reading.tables.separators import separator_of, told_separator
from cellar.reading.times import read_times

_PACKED = (b"\x1f\x8b", b"PK\x03\x04")
_NUMBERED = re.compile(r"\D*?(\d+)")
_FEWEST_STEPS = 20  # columns named V1, V2, … are the steps of a series where there are so many
_SAMPLED = 100
_NUMERIC = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Fields as text, stripped.

    Attributes:
        path: the file.
        names: of the columns.
        rows: their fields (rows, columns).
        lines: where each row stands in the file (rows,).
        separator: what stands between fields; None: whitespace.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    separator: str | None

    def fields(self, name: str) -> list[str]:
        """The fields of a column (rows,).

        Raises:
            TableError: there is none of that name, or there are two.
        """
        if name not in self.names:
            raise TableError(f"{self.path}: no column {name!r}, only {', '.join(self.names)}")
        if self.names.count(name) > 1:
            raise TableError(f"{self.path}: two columns are named {name!r}; rename one")
        place = self.names.index(name)
        return [row[place] for row in self.rows]

    def column(self, name: str) -> Column:
        """A column, with where its fields stand."""
        return Column(name=name, lines=self.lines, fields=self.fields(name))

    def is_numeric(self, name: str) -> bool:
        """Whether the fields of a column are numbers, as far as some of them tell."""
        fields = self.fields(name)
        kinds = [kind_of(text) for text in sampled(fields)]
        numbers = kinds.count(Kind.NUMBER)
        return numbers > 0 and numbers + kinds.count(Kind.MISSING) >= _NUMERIC * len(kinds)

    def is_text(self, name: str) -> bool:
        """Whether most fields of a column are neither numbers nor times."""
        told = [
            kind for kind in map(kind_of, sampled(self.fields(name))) if kind is not Kind.MISSING
        ]
        return bool(told) and told.count(Kind.TEXT) > len(told) / 2


def sampled(fields: Sequence[str]) -> list[str]:
    """Some fields, from everywhere in a column."""
    return [*fields[:50], *fields[:: max(1, len(fields) // _SAMPLED)]]


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Read a file with a header; lines before and after the table are left out.

    Raises:
        TableError: it is packed or no text in that encoding, has no header, or is no table.
        OSError: it cannot be read.
    """
    text = _text(path, encoding)
    first = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if not first.strip():
        raise TableError(f"{path}: no rows: the file is empty; give a CSV file with a header")
    separator = told_separator(first) or separator_of(text, path)
    every, lines = _rows(text, separator, path)
    outline = outline_of(every, _are_times)
    header, start = merged_header(every, outline)
    if header is None:
        raise TableError(
            f"{path}: no header: {', '.join(every[outline.first])[:60]!r}; put the names of the "
            "columns into the first row"
        )
    header = [name.strip() for name in header]
    rows, lines = every[start : outline.end], lines[start : outline.end]
    _check(path, header, rows, lines)
    width = len(header)
    if width > 1:
        filled = [place for place, row in enumerate(rows) if any(row)]
        rows, lines = [rows[place] for place in filled], [lines[place] for place in filled]
    kept = [
        place
        for place, name in enumerate(header)
        if name or any(len(row) > place and row[place] for row in rows)
    ]
    return Table(
        path=path,
        names=tuple(header[place] or f"Unnamed: {place}" for place in kept),
        rows=[[(row + [""] * width)[place].strip() for place in kept] for row in rows],
        lines=lines,
        separator=separator,
    )


def _are_times(numbers: list[str]) -> bool:
    times = read_times(numbers, "")
    return times is not None and all(
        before <= after
        for reading in times.readings.values()
        for before, after in pairwise(reading)
    )


def _text(path: Path, encoding: str | None) -> str:
    data = path.read_bytes()
    if data.startswith(_PACKED):
        raise TableError(f"{path}: it is packed, or a workbook; unpack it, or save it as CSV")
    try:
        text = data.decode(encoding or "utf-8")
    except LookupError:
        raise TableError(f"{path}: there is no encoding {encoding!r}") from None
    except UnicodeError as error:
        raise TableError(
            f"{path}: not {encoding or 'UTF-8'}: {error}; say what it is with --encoding"
        ) from None
    if "\0" in text:
        raise TableError(f"{path}: every other byte is 0; say what it is with --encoding utf-16")
    return text.removeprefix("\ufeff")


def _rows(text: str, separator: str | None, path: Path) -> tuple[list[list[str]], list[int]]:
    """The rows, empty ones as well, and the line where each ends."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if separator is None:
        return [line.split() for line in lines], list(range(1, len(lines) + 1))
    reader = csv.reader([f"{line}\n" for line in lines], delimiter=separator, skipinitialspace=True)
    rows, ends = [], []
    try:
        for row in reader:
            rows.append(row)
            ends.append(reader.line_num)
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}; mend the quotes") from None
    if rows and any(field.endswith("\n") for field in rows[-1]):
        raise TableError(f"{path}, line {ends[-1]}: a quote is not closed; mend it")
    return rows, ends


def _check(path: Path, header: list[str], rows: list[list[str]], lines: list[int]) -> None:
    """Refuse what training reads, and what is no step in each row.

    Raises:
        TableError: rows are wider than the header, or are series.
    """
    for row, line in zip(rows, lines, strict=True):
        if any(field.strip() for field in row[len(header) :]):
            raise TableError(
                f"{path}, line {line}: more fields than the header has; quote numbers with a comma "
                "in them, or write another separator between the fields"
            )
    typed = [name for name in header if name and kind_of(name) in (Kind.NUMBER, Kind.TIME)]
    numbers = [int(found[1]) for name in header[1:] if (found := _NUMBERED.fullmatch(name))]
    if typed or len(numbers) >= max(_FEWEST_STEPS, len(header) - 3):
        raise TableError(f"{path}: it may have a series in each row; put a step into each row")
    if any(Tickers.of(name) for name in header):
        raise TableError(f"{path}: prices of several tickers; give those of one")
