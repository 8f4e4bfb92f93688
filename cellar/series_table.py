"""CSV files of a series and of the features beside it: which rows are the past, which the future.

Columns are chosen by name. Rows are put in order of their times where a column is named like one,
and what was understood is told in notes.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from cellar import times as times_
from cellar.model_info import ModelInfo
from cellar.tabular import TableError, parse_number

_OF_DATE: Mapping[str, Callable[[datetime], int]] = {
    "hour": lambda date: date.hour,
    "weekday": lambda date: date.weekday(),  # 0: Monday
    "monthday": lambda date: date.day,
    "month": lambda date: date.month,
}
"""What a model may read of a step's date, as `cellar-train series --time-feature` has it."""


@dataclass(kw_only=True)
class SeriesTable:
    """Rows of a file in order of time.

    Attributes:
        path: the file.
        rows: the numbers of the columns that were asked for (rows, columns).
        lines: where each row ends in the file (rows,).
        times: the time of each row (rows,), by the forms that it may be written in: see
            ``read_times``; empty where there are none.
        notes: what was understood, in sentences for people.
    """

    path: Path
    rows: list[list[float]]
    lines: list[int]
    times: dict[str, list[float]]
    notes: list[str] = field(default_factory=list)

    def cut(self, start: int, stop: int) -> SeriesTable:
        """Some of its rows."""
        return replace(
            self,
            rows=self.rows[start:stop],
            lines=self.lines[start:stop],
            times={form: own[start:stop] for form, own in self.times.items()},
        )

    def name(self, row: int) -> str:
        """A row for people: its time, or its line."""
        for form, own in self.times.items():
            return times_.shown(own[row], form)
        return f"line {self.lines[row]}"


def read_past(path: Path, value: str | None, model: ModelInfo) -> SeriesTable:
    """Read the series so far, (rows, model.width): the value, then what is read beside it.

    Where something is read beside it, rows at the end that have no value are left out.

    Args:
        path: the file, in UTF-8, with a header.
        value: the value's column; None takes the one of the model's name for it, or the only one.
        model: which columns are wanted.

    Raises:
        TableError: there is no such column, no row, or a row that is not a number.
        OSError: the file cannot be read.
    """
    file = _File.read(path)
    if value is None and model.features[0] in file.columns:
        value = model.features[0]
    if value is None and len(file.columns) != 1:
        names = ", ".join(file.columns)
        raise TableError(f"{path}: choose a column with --value: {names}")
    value = file.columns[0] if value is None else value
    table = file.table((value, *model.beside), ends_open=bool(model.beside))
    if not table.rows:
        raise TableError(f"{path}: no rows")
    return table


def read_future(
    path: Path, model: ModelInfo, *, past: SeriesTable | None, horizon: int
) -> SeriesTable:
    """Read what is beside the value at the steps ahead, (horizon or horizon - 1, columns).

    These are the first rows behind the last date of the past where both have dates, and the first
    ones of the file where not.

    Raises:
        TableError: there is no such column, a row that is not a number, not enough rows, or the
            dates do not go on as those of the past do.
        OSError: the file cannot be read.
    """
    table = _File.read(path).table(model.beside)
    start, where = 0, "in it"
    dated = past is not None and past.rows and past.times and table.times
    if past is not None and dated:
        form = _common_form(past, table)
        last = past.times[form][-1]
        start = sum(time <= last for time in table.times[form])
        where = f"after {times_.shown(last, form)}, where the series ends"
    found = table.cut(start, start + horizon)
    if len(found.rows) < horizon - 1:
        raise TableError(
            f"{path}: {len(found.rows)} rows {where}, but --horizon {horizon} needs "
            f"{horizon - 1}: give more rows, or a smaller --horizon"
        )
    if not found.rows:
        return found
    if past is not None and dated:
        found.notes += _going_on(past.times[form], found, form)
    elif past is not None:
        found.notes.append(f"{path}: not held against the times of the series: some have none")
    left = len(table.rows) - start - len(found.rows)
    found.notes.append(
        f"{path}: the future of {', '.join(model.beside)} is {len(found.rows)} rows, "
        f"{found.name(0)} to {found.name(-1)}"
        + (f"; {start} before them" if start else "")
        + (f"; {left} behind them are not read" if left else "")
    )
    return found


def _common_form(past: SeriesTable, future: SeriesTable) -> str:
    """How the times of both are written."""
    both = [form for form in past.times if form in future.times]
    place = f"{future.path}, line {future.lines[0]}"
    if not both:
        raise TableError(
            f"{place}: times are not written as in {past.path}, where the series ends on "
            f"{past.name(-1)}; write both alike"
        )
    if not times_.is_one_reading([*past.times[form], *future.times[form]] for form in both):
        why = "so may those of the series"
        raise times_.unclear([future.name(0)], place, why)
    return both[0]


def _going_on(past: Sequence[float], future: SeriesTable, form: str) -> list[str]:
    """Check that times go on in steps that the past has had, and tell of uncommon ones."""
    weekdays = times_.are_weekdays(past, form)
    steps = Counter(times_.steps_between(past, form, weekdays=weekdays))
    if not steps:
        return [f"{future.path}: times are not checked: the series has one row"]
    least, most, usual = min(steps), max(steps), steps.most_common(1)[0][0]
    kind = " without weekends" if weekdays else ""
    between = times_.span(least, form)
    if most > least:
        between += f" to {times_.span(most, form)}"
    uncommon, every = 0, [past[-1], *future.times[form]]
    for row, step in enumerate(times_.steps_between(every, form, weekdays=weekdays)):
        if not least <= step <= most:
            before, time = (times_.shown(each, form) for each in every[row : row + 2])
            raise TableError(
                f"{future.path}, line {future.lines[row]}: {time} is {times_.span(step, form)}"
                f"{kind} after {before}, but rows of the series are {between} apart: give a row "
                "for every step"
            )
        uncommon += step != usual
    if not uncommon:
        return []
    note = (
        f"{future.path}: {uncommon} of its steps are not the usual {times_.span(usual, form)}; the "
        f"series has had steps of {between}, and each counts as one"
    )
    return [note]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The fields of a CSV file with a header."""

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path) -> _File:
        """Read it; a field that a row lacks is empty."""
        rows, lines = [], []
        with path.open(newline="", encoding="utf-8-sig") as file:
            try:
                reader = csv.DictReader(file, restval="")
                columns = tuple(reader.fieldnames or ())
                for row in reader:
                    rows.append({name: (row[name] or "").strip() for name in columns})
                    lines.append(reader.line_num)
            except (csv.Error, UnicodeDecodeError) as error:
                raise TableError(f"{path}: {error}") from error
        return cls(path=path, columns=columns, rows=rows, lines=lines)

    def table(self, names: Sequence[str], *, ends_open: bool = False) -> SeriesTable:
        """The numbers of some columns; with ``ends_open`` up to the last row with a first one."""
        named = times_.columns_of_times([name for name in self.columns if name not in names])
        of_date = [name for name in names if name not in self.columns and name in _OF_DATE]
        for name in names:
            if name not in self.columns and not (name in of_date and named):
                hint = ", nor one of dates" if name in _OF_DATE else ""
                raise TableError(
                    f"{self.path}: no column {name!r}{hint}, only {', '.join(self.columns)}"
                )
        order, times, notes = list(range(len(self.rows))), {}, []
        if named and self.rows:
            place = f"{self.path}, column {' and '.join(map(repr, named))}"
            texts = [" ".join(row[name] for name in named).strip() for row in self.rows]
            times = times_.read_times(texts, place)
            order = times_.order_of(times, texts, place)
            if order != sorted(order):
                backwards = order == sorted(order, reverse=True)
                how = "it was newest first" if backwards else "it was not"
                notes.append(f"{self.path}: put in order of {named[0]!r}: {how}")
            if of_date and (times_.COUNT in times or not times_.is_one_reading(times.values())):
                raise times_.unclear(texts, place, f"{of_date[0]} depends on it")
        else:
            notes.append(f"{self.path}: no times found, rows are taken in the file's order")
        if of_date:
            notes.append(f"{self.path}: {', '.join(of_date)} as {named[0]!r} has it, in UTC")
        if ends_open:
            count = len(order)
            while order and not self.rows[order[-1]][names[0]]:
                order.pop()
            if len(order) < count:
                notes.append(
                    f"{self.path}: {count - len(order)} rows at the end have no {names[0]!r}, and "
                    "are not of the past"
                )
        first = next(iter(times.values()), [])
        return SeriesTable(
            path=self.path,
            rows=[[self._number(row, name, names, first) for name in names] for row in order],
            lines=[self.lines[row] for row in order],
            times={form: [own[row] for row in order] for form, own in times.items()},
            notes=notes,
        )

    def _number(self, row: int, name: str, names: Sequence[str], times: Sequence[float]) -> float:
        if name not in self.columns:
            return float(_OF_DATE[name](times_.date_of(times[row])))
        place = f"{self.path}, line {self.lines[row]}"
        if len(names) > 1:
            place += f", column {name!r}"
        return parse_number(self.rows[row][name], place)
