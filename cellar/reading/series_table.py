"""CSV files of a series and of the features beside it: which rows are the past, which the future.

Columns are chosen by name. Rows are put in order of their times where a column is named like one,
and what was understood is told in notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from cellar.reading import times as times_
from cellar.reading.errors import TableError
from cellar.reading.finding import find_times
from cellar.reading.one_series import check_one_series, each_time_once
from cellar.reading.options import ReadingOptions
from cellar.reading.tables.table import Table, read_table
from cellar.reading.times import Times, date_of
from cellar.reading.values import read_numbers
from cellar.values.model_info import ModelInfo

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


def read_past(
    path: Path, value: str | None, model: ModelInfo, options: ReadingOptions | None = None
) -> SeriesTable:
    """Read the series so far, (rows, model.width): the value, then what is read beside it.

    Rows that lack one of these are left out.

    Args:
        path: the file, with a header.
        value: the value's column; None takes the one of the model's name for it, or the only one.
        model: which columns are wanted.
        options: what is said of the file.

    Raises:
        TableError: there is no such column, no row, or something that is no number; or training
            might read it otherwise.
        OSError: the file cannot be read.
    """
    options = options or ReadingOptions()
    if value is None:
        value = _value_of(read_table(path, options.encoding), model, options)
    table = _read(path, (value, *model.beside), options, ends_open=True)
    if not table.rows:
        raise TableError(f"{path}: no rows")
    if model.features and value != model.features[0]:
        table.notes.append(f"{path}: {value!r} is read as the model's {model.features[0]!r}")
    return table


def read_future(
    path: Path,
    model: ModelInfo,
    *,
    past: SeriesTable | None,
    horizon: int,
    options: ReadingOptions | None = None,
) -> SeriesTable:
    """Read what is beside the value at the steps ahead, (horizon or horizon - 1, columns).

    These are the first rows behind the last date of the past where both have dates, and the first
    ones of the file where not.

    Raises:
        TableError: there is no such column, a row that is not a number, not enough rows, or the
            dates do not go on as those of the past do.
        OSError: the file cannot be read.
    """
    table = _read(path, model.beside, options or ReadingOptions(), ends_open=False)
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


def _value_of(table: Table, model: ModelInfo, options: ReadingOptions) -> str:
    """The column of values, where nobody names it: the model's, or the only one of numbers."""
    if model.features and model.features[0] in table.names:
        return model.features[0]
    found = None if len(table.names) == 1 else find_times(table, model.beside, options)
    dated = () if found is None else (*found.columns, *found.others)
    left = [name for name in table.names if name not in (*dated, *model.beside)]
    if len(left) != 1:
        raise TableError(f"{table.path}: choose a column with --value: {', '.join(table.names)}")
    return left[0]


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


def _read(
    path: Path, names: Sequence[str], options: ReadingOptions, *, ends_open: bool
) -> SeriesTable:
    """Some columns of a file in order of time; with ``ends_open`` without rows that lack one."""
    table = read_table(path, options.encoding)
    of_date = [name for name in names if name not in table.names and name in _OF_DATE]
    wanted = [name for name in names if name not in of_date]
    for name in wanted:
        table.fields(name)
    found = find_times(table, wanted, options)
    if of_date and found is None:
        raise TableError(
            f"{path}: no column {of_date[0]!r}, nor one of dates, only {', '.join(table.names)}"
        )
    numbers, notes = read_numbers(
        table, wanted, () if found is None else (*found.columns, *found.others), options
    )
    order = list(range(len(table.rows)))
    times: dict[str, list[float]] = {}
    if found is None:
        notes.append(f"{path}: no times found, rows are taken in the file's order")
    else:
        times = dict(found.times.readings)
        place = f"{path}, column {found.name}"
        texts = table.fields(found.columns[0])
        order = times_.order_of(found.times, texts, place)
        if order != sorted(order):
            backwards = order == sorted(order, reverse=True)
            how = "it was newest first" if backwards else "it was not"
            notes.append(f"{path}: put in order of {found.columns[0]!r}: {how}")
        if of_date:
            _check_dates(found.times, of_date[0], texts, place)
            notes.append(f"{path}: {', '.join(of_date)} as {found.columns[0]!r} has it")
    check_one_series(table, wanted, found)
    first = next(iter(times.values()), [])
    if ends_open:  # what is ahead is held against the past's steps instead
        order = each_time_once(order, first, numbers.get(names[0], []), path, notes)

    def value(row: int, name: str) -> float:
        return numbers[name][row] if name in numbers else float(_OF_DATE[name](date_of(first[row])))

    rows = [[value(row, name) for name in names] for row in order]
    if ends_open:
        end = _ends(rows)
        if end < len(order):
            notes.append(
                f"{path}: {len(order) - end} rows at the end have no {names[0]!r}, and are not of "
                "the past"
            )
        order, rows = order[:end], rows[:end]
        _check_known(table, names, order[-1:], rows[-1:], "the series ends there")
        kept = [place for place, row in enumerate(rows) if all(map(_is_known, row))]
        if len(kept) < end:
            notes.append(f"{path}: {end - len(kept)} rows left out: no value")
        order, rows = [order[place] for place in kept], [rows[place] for place in kept]
    else:
        _check_known(table, names, order, rows, "what is ahead has to be known")
    return SeriesTable(
        path=path,
        rows=rows,
        lines=[table.lines[row] for row in order],
        times={form: [own[row] for row in order] for form, own in times.items()},
        notes=notes,
    )


def _check_dates(times: Times, name: str, texts: Sequence[str], place: str) -> None:
    """Check that a step's date is known for sure.

    Raises:
        TableError: it is not.
    """
    if times_.COUNT in times.readings or not times_.is_one_reading(times.readings.values()):
        raise times_.unclear(texts, place, f"{name} depends on it")
    if not times.is_local:
        raise TableError(
            f"{place}: times of several offsets, and {name} depends on them; write the times of "
            "the place, without offsets"
        )


def _ends(rows: Sequence[Sequence[float]]) -> int:
    """Behind the last row that has a value."""
    return next((end for end in range(len(rows), 0, -1) if _is_known(rows[end - 1][0])), 0)


def _is_known(number: float) -> bool:
    return number == number  # no NaN


def _check_known(
    table: Table,
    names: Sequence[str],
    order: Sequence[int],
    rows: Sequence[Sequence[float]],
    why: str,
) -> None:
    """Check that rows lack nothing.

    Raises:
        TableError: one does.
    """
    for row, numbers in zip(order, rows, strict=True):
        for name, number in zip(names, numbers, strict=True):
            if not _is_known(number):
                raise TableError(
                    f"{table.path}, line {table.lines[row]}, column {name!r}: "
                    f"{table.fields(name)[row]!r} is not a number; {why}"
                )
