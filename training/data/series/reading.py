"""A file read as series: its text, rows, table, layout, times, groups and numbers, in this order.

Each of them says what it understood, and refuses what it does not.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series.choosing import Wanted, check_names, wanted_columns
from training.data.series.cleaning import (
    Floats,
    Rows,
    complete,
    in_order,
    merged,
    note_lines,
    oddities,
)
from training.data.series.columns import NONE, Columns, Fill
from training.data.series.dates.calendar import time_columns
from training.data.series.dates.reading import known
from training.data.series.groups import Group, groups_of, refuse_twice
from training.data.series.numbers.commas import meaning_of_commas
from training.data.series.numbers.fields import numbers_of
from training.data.series.numbers.missing import is_missing, marks_note, unlikely_note
from training.data.series.panel import Panel, Series
from training.data.series.table.column_table import ColumnTable, read_columns
from training.data.series.table.layout import laid_out
from training.data.series.times.finding import Times, find_times
from training.errors import DataError


def read_panel(path: Path, columns: Columns) -> Panel:
    """Read series from a file; `Panel.notes` tells what was understood, dropped, filled or is odd.

    Several value columns are several series; so are the groups of ``series_column``. Rows without
    a value are dropped, or filled with the last one; where times are found rows are sorted by them.

    Raises:
        DataError: no such file or column, a broken file, a field that is no number, or something
            that may be meant in several ways.
    """
    table = laid_out(read_columns(path, columns.encoding), columns.layout)
    notes = list(table.notes)
    check_names(table, columns)
    times = find_times(table, columns)
    notes.append(_times_note(table, times, columns))
    wanted = wanted_columns(table, columns, times)
    notes += wanted.notes
    groups, found = groups_of(table, columns, times)
    notes += found
    numbers = _numbers(table, columns, wanted, notes)
    reader = _Reader(table, columns, times)
    every: list[Series] = []
    for group in wanted.among(groups, table.path):
        rows = reader.rows_of(group, notes)
        for value in wanted.values:
            taken = [numbers[name] for name in (value, *columns.feature)]
            name = group.name or value
            if group.name and len(wanted.values) > 1:
                name = f"{group.name} {value}"
            is_one = len(groups) * len(wanted.values) == 1
            where = "" if is_one else name
            every.append(reader.series(name, taken, rows, where, notes))
    return Panel(
        series=tuple(every),
        source=path.name,
        features=columns.feature,
        times=columns.time_feature,
        notes=merged(notes),
    )


def _times_note(table: ColumnTable, times: Times | None, columns: Columns) -> Note:
    """What was understood of times.

    Raises:
        DataError: there are none, and something was asked for that needs them.
    """
    if times is not None:
        if columns.time_feature and times.reading.elapsed:
            raise DataError(
                f"{table.path}: time features need dates, and '{times.name}' counts from a start; "
                "name a column of dates with --date"
            )
        return times.note
    if columns.time_feature:
        raise DataError(
            f"{table.path}: time features need dates, and no column has any; name it with --date"
        )
    if columns.fill is not Fill.NONE:
        raise DataError(
            f"{table.path}: --fill {columns.fill} needs dates, and no column has any: name it with "
            "--date, or use --fill none"
        )
    detail = "--date none" if columns.date == NONE else "--date names the column of dates"
    return Note(what="no dates found, file order taken", rows=len(table.frame), detail=detail)


def _numbers(
    table: ColumnTable, columns: Columns, wanted: Wanted, notes: list[Note]
) -> dict[str, Floats]:
    """The numbers ``(rows,)`` of each wanted column, NaN where there is none."""
    names = (*wanted.values, *columns.feature)
    texts = {name: table.column(name, "--value") for name in names}
    missing = {name: is_missing(fields, columns.missing) for name, fields in texts.items()}
    others = [table.column(name, "--value") for name in wanted.others]
    comma, found = meaning_of_commas(
        [fields[~missing[name]] for name, fields in texts.items()],
        others,
        told=columns.told_comma,
        separator=table.separator,
        path=str(table.path),
    )
    notes += found
    numbers = {}
    for name, fields in texts.items():
        there = ~missing[name]
        known, found = numbers_of(
            fields[there], column=name, path=str(table.path), decimal_comma=comma
        )
        notes += found
        numbers[name] = np.full(len(fields), np.nan)
        numbers[name][there] = known
        where = f"'{name}': " if len(names) > 1 else ""
        unlikely = unlikely_note(numbers[name], where=where)
        notes += [unlikely] if unlikely is not None else []
        marks = marks_note(fields[~there].tolist(), where=where)
        notes += [marks] if marks is not None else []
    _note_unseen(columns.missing, texts, notes)
    return numbers


def _note_unseen(
    marks: tuple[str, ...], texts: "dict[str, pd.Series[str]]", notes: list[Note]
) -> None:
    """Tell of marks that stand nowhere."""
    for mark in marks:
        if not any(bool(is_missing(fields, (mark,)).any()) for fields in texts.values()):
            detail = f"no field of {', '.join(texts)[:60]} is '{mark}'"
            notes.append(Note(what=f"--missing {mark}: found nowhere", rows=0, detail=detail))


class _Reader:
    """Makes one series after the other of a table's rows."""

    def __init__(self, table: ColumnTable, columns: Columns, times: Times | None) -> None:
        self._table = table
        self._columns = columns
        self._times = times
        self._lines = table.frame.index.to_numpy(np.int64)

    def rows_of(self, group: Group, notes: list[Note]) -> NDArray[np.int64]:
        """The rows of a series that have a time."""
        if self._times is None:
            return group.rows
        refuse_twice(self._table, self._times, group)
        undated = ~known(self._times.reading.stamps[group.rows])
        texts = self._table.column(self._times.columns[0], "--date").iloc[group.rows]
        note_lines(notes, "dropped: no date", undated, self._lines[group.rows], texts)
        return group.rows[~undated]

    def series(
        self,
        name: str,
        numbers: list[Floats],
        rows: NDArray[np.int64],
        where: str,
        notes: list[Note],
    ) -> Series:
        """Make one series; ``where`` names it in messages where there are several."""
        times = self._times
        found = Rows(
            numbers=np.stack([column[rows] for column in numbers], axis=1),
            lines=self._lines[rows],
            stamps=None if times is None else times.reading.stamps[rows],
            elapsed=times is not None and times.reading.elapsed,
            steps=np.arange(1, len(rows) + 1) if self._table.rows_are_series else None,
        )
        if times is not None:
            found = in_order(found, notes, by=times.name)
        place = f"{self._table.path}{f', series {where!r}' if where else ''}"
        found = complete(found, notes, fill=self._columns.fill, where=place)
        values, labels = found.numbers[:, 0].copy(), found.labels
        notes += oddities(values, labels)
        beside = [found.numbers[:, 1:]]
        if found.stamps is not None and self._columns.time_feature:
            beside.append(np.stack(time_columns(found.stamps, self._columns.time_feature), axis=1))
        return Series(
            name=name, values=values, beside=np.concatenate(beside, axis=1), labels=labels
        )
