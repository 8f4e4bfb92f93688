"""What is read beside the value after a series' end: from a file, or by the calendar."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series.columns import Columns, Fill
from training.data.series.dates.calendar import Calendar, shown, time_columns
from training.data.series.panel import Panel, Series
from training.data.series.reading import read_panel
from training.errors import DataError

_COMMA = "read with a decimal comma"


@dataclass(frozen=True, slots=True, kw_only=True)
class Future:
    """What stands beside the steps ahead."""

    beside: tuple[NDArray[np.float64], ...]
    """Of each series, (horizon or horizon - 1, features), as `Series.beside` is."""
    notes: tuple[Note, ...]


def read_future(path: Path, panel: Panel, columns: Columns, *, horizon: int) -> Future:
    """Read the features at the steps after the end of each series.

    These are the first rows behind the series' last date where both have dates, and the first rows
    of the file where not. Values that are several series read the same features.

    Raises:
        DataError: the file cannot be read, has too few rows, lacks a series or a number, or its
            dates do not go on in steps that the series has had.
    """
    first, *others = columns.feature
    # A file of few rows may not tell what its commas mean: they mean what they do in the series.
    comma = columns.decimal_comma or any(note.what == _COMMA for note in panel.notes)
    wanted = replace(
        columns, value=(first,), feature=tuple(others), fill=Fill.NONE, decimal_comma=comma
    )
    found = read_panel(path, wanted)
    by_name = {series.name: series for series in found.series}
    beside, notes = [], [replace(note, what=f"future: {note.what}") for note in found.notes]
    for series in panel.series:
        own = by_name.get(series.name) if columns.series_column else found.series[0]
        if own is None:
            raise DataError(f"{path}: no rows of series '{series.name}', whose future is wanted")
        named = f", series '{series.name}'" if len(panel.series) > 1 else ""
        rows = _rows_ahead(own, series, horizon=horizon, where=f"{path}{named}")
        beside.append(np.column_stack([own.values, own.beside])[rows])
        labels = own.labels[rows]
        if len(labels) and (len(beside) == 1 or columns.series_column):
            detail = f"{labels[0]} to {labels[-1]} of {path.name}{named}"
            what = f"future of {', '.join((*panel.features, *panel.times))}"
            notes.append(Note(what=what, rows=len(labels), detail=detail))
    return Future(beside=tuple(beside), notes=tuple(notes))


def calendar_future(panel: Panel, *, horizon: int) -> Future | None:
    """The times at the steps after the end of each series; ``None`` where they are not clear.

    They are where the dates are without gaps, or those of five days a week.
    """
    beside, notes = [], []
    for series in panel.series:
        ahead = _dates_after(series, horizon)
        if ahead is None:
            return None
        beside.append(np.stack(time_columns(ahead, panel.times), axis=1))
        labels = shown(ahead)
        detail = f"{labels[0]} to {labels[-1]}, as the calendar goes on after {series.name}"
        what = f"future of {', '.join(panel.times)}"
        notes.append(Note(what=what, rows=len(labels), detail=detail))
    return Future(beside=tuple(beside), notes=tuple(notes[:1]))


def _rows_ahead(found: Series, series: Series, *, horizon: int, where: str) -> slice:
    """Which rows of a file follow the end of a series."""
    past, dates = _dates_of(series.labels), _dates_of(found.labels)
    if past is None or dates is None:
        start, behind = 0, "in it"
        _check_lines(found.labels[:horizon], where)
    else:
        start, behind = int((dates <= past[-1]).sum()), f"behind {series.labels[-1]}"
    rows = slice(start, start + horizon)
    count = len(found.values[rows])
    if count < horizon - 1:
        raise DataError(
            f"{where}: {count} rows {behind}, but --horizon {horizon} needs {horizon - 1} with all "
            "features: give more rows, or a smaller --horizon"
        )
    if past is not None and dates is not None and len(past) > 1:
        calendar = Calendar.of(past)
        weekdays = calendar is not None and calendar.five_days
        steps = _steps_between(past, weekdays=weekdays)
        ahead = _steps_between(pd.DatetimeIndex(past[-1:].append(dates[rows])), weekdays=weekdays)
        odd = np.flatnonzero((ahead < steps.min()) | (ahead > steps.max()))
        if len(odd):
            least, most, own = (
                pd.Timedelta(step) for step in (steps.min(), steps.max(), ahead[odd[0]])
            )
            between = f"{least}" if least == most else f"{least} to {most}"
            raise DataError(
                f"{where}, {found.labels[start + int(odd[0])]}: {own} after the row before, but "
                f"rows of the series are {between} apart: give a row, with all features, for every "
                "step"
            )
    return rows


def _steps_between(dates: pd.DatetimeIndex, *, weekdays: bool) -> NDArray[np.timedelta64]:
    """The spans between dates ``(rows - 1,)``; with ``weekdays`` a weekend is none."""
    stamps = dates.tz_localize(None).to_numpy()
    if not weekdays:
        return np.diff(stamps)
    days = stamps.astype("datetime64[D]")
    return np.busday_count(days[:-1], days[1:]) * np.timedelta64(1, "D")


def _check_lines(labels: Sequence[str], where: str) -> None:
    """Check that no row was left out between others, where rows are named by their lines."""
    numbers = [int(label.removeprefix("line ")) for label in labels if label.startswith("line ")]
    if len(numbers) == len(labels) > 1 and (gaps := np.flatnonzero(np.diff(numbers) != 1)).size:
        raise DataError(
            f"{where}, line {numbers[int(gaps[0])] + 1}: a feature has no value; give a row, with "
            "all features, for every step"
        )


def _dates_of(labels: Sequence[str]) -> pd.DatetimeIndex | None:
    """The dates that name rows; None: lines name them."""
    stamps = pd.to_datetime(pd.Series(list(labels)), errors="coerce", utc=True, format="ISO8601")
    if not len(stamps) or stamps.isna().any():
        return None
    return pd.DatetimeIndex(stamps).as_unit("s")


def _dates_after(series: Series, steps: int) -> pd.DatetimeIndex | None:
    """The dates of the steps after the last row; None where they are not clear."""
    past = _dates_of(series.labels)
    calendar = None if past is None else Calendar.of(past)
    if past is None or calendar is None:
        return None
    frequency = "B" if calendar.five_days else pd.DatetimeIndex(past, freq="infer").freq
    if frequency is None:
        return None
    ahead = pd.date_range(past[-1], periods=steps + 1, freq=frequency)
    return ahead[ahead > past[-1]][:steps]  # five days a week may have ended on a sixth
