"""Columns as numbers, with one meaning of commas for all; NaN where there is none."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from cellar.reading.errors import TableError
from cellar.reading.fields.commas import Column, meaning_of_commas
from cellar.reading.fields.marks import is_mark
from cellar.reading.fields.written import Number, number_of
from cellar.reading.options import ReadingOptions
from cellar.reading.tables.table import Table


def read_numbers(
    table: Table, wanted: Sequence[str], dated: Collection[str], options: ReadingOptions
) -> tuple[dict[str, list[float]], list[str]]:
    """The numbers of the wanted columns (rows,) by name, and what was understood, for people.

    Args:
        table: the file.
        wanted: columns.
        dated: those of times, which say nothing of how numbers are written.
        options: what a caller says of the file.

    Raises:
        TableError: a field is no number, or may be meant in two ways.
    """
    columns = {name: table.column(name) for name in wanted}
    there = {
        name: [not _is_missing(text, options.missing) for text in column.fields]
        for name, column in columns.items()
    }
    others = [
        table.column(name)
        for name in table.names
        if name not in wanted
        and name not in dated
        and table.names.count(name) == 1
        and table.is_numeric(name)
    ]
    known = {name: _chosen(column, there[name]) for name, column in columns.items()}
    meaning = meaning_of_commas(
        list(known.values()),
        others,
        told=options.decimal_comma,
        separator=table.separator,
        path=str(table.path),
    )
    notes = [f"{table.path}: {meaning.note}, as in {meaning.example!r}"] if meaning.note else []
    found = {}
    for name, column in known.items():
        numbers = iter(_read(column, decimal_comma=meaning.is_decimal, path=str(table.path)))
        found[name] = [next(numbers) if is_there else math.nan for is_there in there[name]]
    return found, notes


def _chosen(column: Column, there: Sequence[bool]) -> Column:
    rows = [row for row, is_there in enumerate(there) if is_there]
    return Column(
        name=column.name,
        lines=[column.lines[row] for row in rows],
        fields=[column.fields[row] for row in rows],
    )


def _is_missing(text: str, told: Sequence[str]) -> bool:
    if is_mark(text) or text in told:
        return True
    if not told:
        return False
    number = _plain(text)
    return number is not None and number in [_plain(mark) for mark in told]


def _plain(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None


def _read(column: Column, *, decimal_comma: bool, path: str) -> list[float]:
    found: list[Number] = []
    for line, text in zip(column.lines, column.fields, strict=True):
        number = number_of(text, decimal_comma=decimal_comma)
        if number is None or not math.isfinite(number.value):
            raise TableError(
                f"{path}, line {line}, column {column.name!r}: {text[:60]!r} is not a number; mend "
                f"it, or leave the field empty, or say --missing {text[:60]!r}"
            )
        found.append(number)
    in_per_cent = [number.unit == "%" for number in found]
    if any(in_per_cent) and not all(in_per_cent):
        raise TableError(f"{path}, column {column.name!r}: some are in per cent, and some are not")
    if len({number.currency for number in found if number.currency}) > 1:
        raise TableError(f"{path}, column {column.name!r}: more than one currency; keep one")
    return [number.value for number in found]
