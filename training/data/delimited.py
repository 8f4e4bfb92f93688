"""Files of fields between separators, read so that every row knows its line.

Knows nothing of what the fields mean, nor of which columns a reader wants.
"""

import csv
import gc
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.errors import DataError, listed

_LONGEST_FIELD = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a file."""

    line: int
    """Where it ends in the file, counted from 1."""
    fields: tuple[str, ...]
    """Stripped."""


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]


def rows_of(text: str, separator: str | None, *, path: Path, strict: bool) -> Iterator[Row]:
    """The rows of a text, blank ones included; without a separator they are cut at whitespace.

    ``strict`` refuses text between a closing quote and the separator. Otherwise it belongs to the
    field, and spaces before an opening quote do not.

    Raises:
        DataError: a quote is not closed, or is where it must not be.
    """
    is_read = False

    def lines() -> Iterator[str]:
        nonlocal is_read
        yield from io.StringIO(text, newline="")
        is_read = True

    if separator is None:
        for number, line in enumerate(lines(), start=1):
            yield Row(line=number, fields=tuple(line.split()))
        return
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines(), delimiter=separator, strict=strict, skipinitialspace=not strict)
    try:
        for fields in reader:
            if is_read:  # the last row asked for more: only a strict reader minds by itself
                raise csv.Error("unexpected end of data")
            yield Row(line=reader.line_num, fields=tuple(field.strip() for field in fields))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; mend the quotes") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """All rows of a file."""

    fields: list[list[str]]
    """Of each row; not stripped."""
    lines: Sequence[int]
    """Where each ends in the file, counted from 1."""


def all_rows_of(text: str, separator: str | None, *, path: Path) -> Rows:
    """What `rows_of` reads, not strictly, all at once and some times as fast.

    Raises:
        DataError: a quote is not closed.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    numbers = range(1, len(lines) + 1)
    with _no_collection():
        if separator is None:
            return Rows(fields=[line.split() for line in lines], lines=numbers)
        if '"' not in text:
            return Rows(
                fields=[line.split(separator) if line else [] for line in lines], lines=numbers
            )
        csv.field_size_limit(_LONGEST_FIELD)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        fields = list(reader)
        if len(fields) == len(lines) and lines[-1].count('"') % 2 == 0:
            return Rows(fields=fields, lines=numbers)
    rows = list(rows_of(text, separator, path=path, strict=False))
    return Rows(fields=[list(row.fields) for row in rows], lines=[row.line for row in rows])


@contextmanager
def _no_collection() -> Iterator[None]:
    """A million lists are not worth being searched for circles again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def place_of(name: str, header: Sequence[str], *, path: Path, option: str) -> int:
    """The number of a column.

    Raises:
        DataError: there is none of that name; ``option`` is what to choose one with.
    """
    if name not in header:
        known = listed(header)
        raise DataError(f"{path}: no column '{name}' (it has: {known}); choose one with {option}")
    return list(header).index(name)
