"""Rows that are one series: each time once, and no names that tell several apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

from cellar.reading.errors import TableError
from cellar.reading.fields import names
from cellar.reading.finding import Found
from cellar.reading.tables.table import Table

_MOST_TWICE = 0.05
"""With more times than this share seen twice, a file holds more than one series."""


def check_one_series(table: Table, wanted: Collection[str], found: Found | None) -> None:
    """Refuse rows of several series.

    Raises:
        TableError: a column names them.
    """
    dated = () if found is None else (*found.columns, *found.others)
    readings = [] if found is None else list(found.times.readings.values())
    has_twice = any(len(set(times)) < len(times) for times in readings)
    for name in table.names:
        if name in wanted or name in dated or table.names.count(name) > 1 or len(table.rows) < 2:
            continue
        is_text, is_naming = table.is_text(name), names.is_naming(name)
        texts = table.fields(name)
        if not 1 < len(set(texts)) <= len(texts) / 2 or not (is_text or is_naming or has_twice):
            continue
        changes = sum(before != after for before, after in pairwise(texts))
        in_blocks = found is None and is_text and changes == len(set(texts)) - 1
        if is_naming or has_twice or in_blocks:
            raise TableError(
                f"{table.path}: column {name!r} may name {len(set(texts))} series, whose rows "
                "would be taken for one; give the rows of one of them"
            )


def each_time_once(
    order: list[int],
    times: Sequence[float],
    values: Sequence[float],
    path: Path,
    notes: list[str],
) -> list[int]:
    """Rows in order without those whose time comes again later, with a value.

    Raises:
        TableError: there are many.
    """
    if not times:
        return order
    count = len(order) - len(set(times))
    if count > max(1, _MOST_TWICE * len(order)):
        raise TableError(
            f"{path}: several rows have one time, {count} of {len(order)}; write dates with the "
            "time of the day into it, or take the rows as they come with --date none"
        )
    if not count:
        return order
    at: dict[float, list[int]] = {}
    for row in order:
        at.setdefault(times[row], []).append(row)
    kept = []
    for rows in at.values():
        known = [row for row in rows if not values or values[row] == values[row]]
        kept += known[-1:] if len(rows) > 1 else rows
    notes.append(f"{path}: {count} rows left out: time seen twice, the later row is kept")
    return kept
