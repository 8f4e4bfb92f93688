"""Which columns are series: those that are named, or those that can be nothing else."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellar.reading.fields.kinds import Kind, kind_of
from training.data.notes import Note
from training.data.series.columns import ALL, NONE, Columns
from training.data.series.groups import Group
from training.data.series.table.column_table import ColumnTable
from training.data.series.table.layout import VALUE
from training.data.series.times.finding import Times
from training.errors import DataError, listed

_SAMPLED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The columns of values, and what else has numbers in it."""

    values: tuple[str, ...]
    others: tuple[str, ...]
    """Further columns of numbers: they tell how this file writes them."""
    notes: tuple[Note, ...] = ()
    series: tuple[str, ...] = ()
    """Of series that are told apart by a name, those that are wanted; empty: all."""

    def among(self, groups: list[Group], path: Path) -> list[Group]:
        """The groups that are wanted.

        Raises:
            DataError: there is none of that name.
        """
        names = [group.name for group in groups]
        if unknown := [name for name in self.series if name not in names]:
            raise DataError(
                f"{path}: no series '{unknown[0]}' (it has: {listed(names)}); choose one with "
                "--value"
            )
        return [group for group in groups if not self.series or group.name in self.series]


def wanted_columns(table: ColumnTable, columns: Columns, times: Times | None) -> Wanted:
    """Choose the columns to read.

    Raises:
        DataError: a column is named that is not there, or it is not clear which is meant.
    """
    dated = {*times.columns, *times.others} if times is not None else set()
    series_column = columns.series_column or table.series_column
    excluded = {*dated, *columns.feature, series_column}
    numeric = tuple(
        name
        for place, name in enumerate(table.names)
        if name not in excluded and is_numeric(table.frame.iloc[:, place])
    )
    if table.rows_are_series:
        return _rows(table, columns)
    if columns.value and columns.value != (ALL,):
        for name in columns.value:
            if name == ALL and ALL not in table.names:
                raise DataError(
                    f"{table.path}: --value {ALL} stands for every column: give it alone"
                )
        others = tuple(name for name in numeric if name not in columns.value)
        return Wanted(values=columns.value, others=_once(table, others))
    if columns.value and ALL in table.names:
        return Wanted(values=(ALL,), others=_once(table, numeric))
    likely = _once(table, numeric)
    if not table.has_header or columns.value:
        values, notes = _varying(table, likely)
        left = [name for name in table.names if name not in {*values, *excluded, *likely}]
        if left:
            detail = f"no numbers in {listed(left)}"
            notes.append(Note(what="not series: columns of text", rows=len(left), detail=detail))
        if times is not None and times.others:
            detail = listed(times.others)
            notes.append(
                Note(what="not series: columns of times", rows=len(times.others), detail=detail)
            )
        if not values:
            raise _unclear(table)
        return Wanted(values=values, others=likely, notes=tuple(notes))
    if len(likely) > 1:
        likely = tuple(name for name in likely if not _is_count(table.column(name, "--value")))
    if len(likely) != 1:
        raise _unclear(table)
    return Wanted(values=likely, others=_once(table, numeric))


def check_names(table: ColumnTable, columns: Columns) -> None:
    """Refuse columns that are not there, before anything is made of the others.

    Raises:
        DataError: a column is named that is not there, or is there twice.
    """
    if not table.rows_are_series:
        for name in columns.value:
            if name != ALL:
                table.column(name, "--value")
    for name in columns.feature:
        table.column(name, "--feature")
    for given, option in ((columns.date, "--date"), (columns.series_column, "--series-column")):
        if given is not None and (given != NONE or NONE in table.names):
            table.column(given, option)


def is_numeric(texts: "pd.Series[str]") -> bool:
    """Whether the fields of a column are numbers, as far as some of them tell."""
    sample = [*texts.iloc[:50], *texts.iloc[:: max(1, len(texts) // _SAMPLED)]]
    kinds = [kind_of(text) for text in sample]
    numbers = kinds.count(Kind.NUMBER)
    return numbers > 0 and numbers + kinds.count(Kind.MISSING) >= 0.95 * len(kinds)


def _rows(table: ColumnTable, columns: Columns) -> Wanted:
    """Each row is a series."""
    if columns.feature:
        raise DataError(
            f"{table.path}: --feature is a column, and here each row is a series; say --layout "
            "columns where rows are steps"
        )
    chosen = () if columns.value == (ALL,) else columns.value
    return Wanted(values=(VALUE,), others=(), series=chosen)


def _once(table: ColumnTable, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if table.names.count(name) == 1)


def _varying(table: ColumnTable, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[Note]]:
    """Columns without those that are all the same or count rows."""
    constant, counts, values = [], [], []
    for name in names:
        texts = table.column(name, "--value")
        if len(texts) > 1 and bool((texts == texts.iloc[0]).all()):
            constant.append(name)
        elif len(names) > 1 and _may_count(table, name) and _is_count(texts):
            counts.append(name)
        else:
            values.append(name)
    notes = [
        Note(what=what, rows=len(found), detail=f"columns {listed(found)}")
        for what, found in (
            ("not series: one value in all rows", constant),
            ("not series: numbers of the rows", counts),
        )
        if found
    ]
    return tuple(values), notes


def _may_count(table: ColumnTable, name: str) -> bool:
    """Whether nobody gave a column a name that says what is in it."""
    return not table.has_header or name.startswith("Unnamed: ")


def _is_count(texts: "pd.Series[str]") -> bool:
    """Whether a column numbers the rows: 0, 1, 2, … or from another whole number on."""
    if len(texts) < 3:
        return False
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    steps = np.diff(numbers)
    return bool(np.isfinite(numbers).all() and (np.abs(steps) == 1).all() and np.ptp(steps) == 0)


def _unclear(table: ColumnTable) -> DataError:
    return DataError(
        f"{table.path}: which column is to be predicted (it has: {table.shown})? "
        f"name it with --value, repeatedly for several series, or --value {ALL}"
    )
