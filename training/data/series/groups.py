"""Which rows belong to which series; and rows that hold several, unnoticed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellar.reading.fields.kinds import Kind, kind_of
from cellar.reading.fields.names import is_naming as is_naming_column
from training.data.notes import Note
from training.data.series.columns import NONE, Columns
from training.data.series.dates.reading import known
from training.data.series.table.column_table import ColumnTable
from training.data.series.times.finding import Times
from training.errors import DataError

MOST_TWICE = 0.05
"""With more times than this share seen twice, a file holds more than one series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rows of one series, in the file's order."""

    name: str
    """Empty: the file is one series."""
    rows: NDArray[np.int64]
    """Their places in the table."""


def groups_of(
    table: ColumnTable, columns: Columns, times: Times | None
) -> tuple[list[Group], list[Note]]:
    """Tell series apart; rows without a time are left to the caller.

    Raises:
        DataError: rows look like several series, and no column tells them apart.
    """
    name = columns.series_column or table.series_column
    every = np.arange(len(table.frame))
    if name is None or (name == NONE and NONE not in table.names):
        if name is None:
            _refuse_several(table, columns, times)
        return [Group(name="", rows=every)], []
    keys = table.column(name, "--series-column").reset_index(drop=True)
    unnamed = keys == ""
    notes = []
    if unnamed.any():
        line = table.frame.index[int(unnamed.to_numpy().argmax())]
        notes.append(
            Note(
                what=f"dropped: no '{name}'", rows=int(unnamed.sum()), detail=f"first: line {line}"
            )
        )
    by_key = keys[~unnamed].groupby(keys[~unnamed], sort=False).indices
    places = np.flatnonzero(~unnamed.to_numpy())
    groups = [Group(name=str(key), rows=places[found]) for key, found in by_key.items()]
    notes.append(
        Note(
            what=f"series told apart by '{name}'", rows=len(keys), detail=f"{len(groups):,} series"
        )
    )
    return groups, notes


def refuse_twice(table: ColumnTable, times: Times, group: Group) -> None:
    """Refuse a series most of whose times are there twice.

    Raises:
        DataError: they are.
    """
    stamps = times.reading.stamps[group.rows]
    twice = stamps[known(stamps)].duplicated()
    if twice.sum() <= max(1, MOST_TWICE * len(twice)):
        return
    where = f", series '{group.name}'" if group.name else ""
    raise DataError(
        f"{table.path}{where}: {int(twice.sum()):,} of {len(twice):,} times in '{times.name}' are "
        "there before: are these several series? name the column that tells them apart with "
        "--series-column, the column of times with --date, or take the rows as they come with "
        f"--date {NONE}"
    )


def _refuse_several(table: ColumnTable, columns: Columns, times: Times | None) -> None:
    """Refuse rows of several series that nobody told apart.

    Raises:
        DataError: a column names them.
    """
    taken = {*columns.value, *columns.feature, *(times.columns if times else ())}
    taken |= set(times.others) if times else set()
    stamps = None if times is None else times.reading.stamps
    twice = None if stamps is None else stamps.duplicated(keep=False) & known(stamps)
    for place, name in enumerate(table.names):
        texts = table.frame.iloc[:, place]
        if name in taken or len(texts) < 2:
            continue
        is_naming = is_naming_column(name) and table.has_header
        is_text = _is_text(texts)
        if not is_text and not (is_naming or (twice is not None and twice.any())):
            continue
        codes, names = pd.factorize(texts)
        if not 1 < len(names) <= len(texts) / 2:
            continue
        if _tells_apart(codes, len(names), stamps, twice, is_text=is_text, is_naming=is_naming):
            raise DataError(
                f"{table.path}: column '{name}' names {len(names):,} series ('{names[0]}', "
                f"'{names[1]}', …) whose rows would be taken for one; say --series-column "
                f"{_quoted(name)}, or --series-column {NONE} if it is one series"
            )


def _tells_apart(
    codes: NDArray[np.int64],
    count: int,
    stamps: pd.DatetimeIndex | None,
    twice: NDArray[np.bool_] | None,
    *,
    is_text: bool,
    is_naming: bool,
) -> bool:
    """Whether a column's names are those of series."""
    if is_naming:
        return True
    if stamps is None or twice is None:
        # Without times: each name in one block of rows.
        return is_text and int((np.diff(codes) != 0).sum()) == count - 1
    if not twice.any():
        return False
    pairs = pd.DataFrame({"time": np.asarray(stamps.asi8), "name": codes})[twice]
    left = int(pairs.duplicated().sum())
    solved = left <= MOST_TWICE * len(pairs)
    return solved and (is_text or int(twice.sum()) > MOST_TWICE * len(codes))


def _is_text(texts: "pd.Series[str]") -> bool:
    sample = [kind_of(text) for text in texts.iloc[:: max(1, len(texts) // 100)]]
    told = [kind for kind in sample if kind is not Kind.MISSING]
    return bool(told) and told.count(Kind.TEXT) > len(told) / 2


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
