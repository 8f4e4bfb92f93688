"""Dates of rows: read in the forms people write, sorted, and searched for gaps."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series.columns import TimeFeature
from training.errors import DataError

NAMES = {"date", "datetime", "timestamp", "time", "day", "ds"}
_DAYS = ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%b-%Y", "%b %d, %Y", "%Y%m%d")
_MONTH_FIRST, _DAY_FIRST = _DAYS[:2]
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p")
FORMATS = ("ISO8601", *(day + clock for day in _DAYS for clock in _CLOCKS))
_EPOCHS = {"s": (1e8, 1e10), "ms": (1e11, 1e13), "us": (1e14, 1e16), "ns": (1e17, 1e19)}
WEEKEND_SHARE = 0.05
"""Fewer rows at weekends than this share of them: the calendar has five days a week."""
MOST_FILLED = 10
"""Filling may make a series so many times as long."""


def find_columns(names: list[str]) -> tuple[str, ...]:
    """The column of dates by its name, or those of the date and the time of day; else none."""
    plain = {name.strip().strip("<>").lower(): name for name in reversed(names)}
    if "date" in plain and "time" in plain:
        return plain["date"], plain["time"]
    found = [name for name in names if name.strip().strip("<>").lower() in NAMES]
    return tuple(found[:1])


def parse(texts: "pd.Series[str]") -> tuple["pd.Series[pd.Timestamp]", str]:
    """Read dates in the form that fits most rows; what does not fit is NaT. Says the form."""
    numbers = pd.to_numeric(texts, errors="coerce")
    for unit, (least, most) in _EPOCHS.items():
        if len(texts) and bool(((numbers >= least) & (numbers < most)).all()):
            return pd.to_datetime(numbers, unit=unit, utc=True), f"{unit} since 1970"  # type: ignore[call-overload]
    best, form = _read(texts, FORMATS[0]), FORMATS[0]
    for other in FORMATS[1:]:
        if best.notna().all():
            break
        found = _read(texts, other)
        if found.notna().sum() > best.notna().sum():
            best, form = found, other
    if form.startswith(_MONTH_FIRST):
        other = form.replace(_MONTH_FIRST, _DAY_FIRST)
        found = _read(texts, other)
        # Both fit where no day is above 12: months begin on these days, or quarters.
        if found.notna().sum() == best.notna().sum() and _shortest(found) > _shortest(best):
            best, form = found, other
    return best, form


def is_date(text: str) -> bool:
    """Whether a field is a date in one of the known forms."""
    stamps, _ = parse(pd.Series([text]))
    return bool(stamps.notna().all())


def order_note(texts: "pd.Series[str]", form: str) -> Note | None:
    """Tell how days and months were told apart, where both orders would do."""
    if not form.startswith((_MONTH_FIRST, _DAY_FIRST)):
        return None
    swapped = {_MONTH_FIRST: _DAY_FIRST, _DAY_FIRST: _MONTH_FIRST}
    other = swapped[form[: len(_DAY_FIRST)]] + form[len(_DAY_FIRST) :]
    if _read(texts, other).isna().any():
        return None
    order = "the month" if form.startswith(_MONTH_FIRST) else "the day"
    return Note(
        what=f"dates read with {order} first",
        rows=len(texts),
        detail=f"'{texts.iloc[0]}': both orders fit every row; write 2020-12-31 to be sure",
    )


def _read(texts: "pd.Series[str]", form: str) -> "pd.Series[pd.Timestamp]":
    return pd.to_datetime(texts, format=form, errors="coerce", utc=True)


def _shortest(stamps: "pd.Series[pd.Timestamp]") -> float:
    """The shortest step between rows, in seconds."""
    steps = stamps.dropna().sort_values().diff().dt.total_seconds()
    return float(steps[steps > 0].min()) if bool((steps > 0).any()) else 0.0


def shown(dates: pd.DatetimeIndex) -> tuple[str, ...]:
    """Dates for people: without the time of day where it is always midnight."""
    whole_days = bool((dates == dates.normalize()).all())
    return tuple(dates.strftime("%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M:%S"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The usual step between rows."""

    step: pd.Timedelta
    five_days: bool

    @classmethod
    def of(cls, dates: pd.DatetimeIndex) -> "Calendar | None":
        """The calendar of sorted, distinct dates; None where there are too few."""
        if len(dates) < 3:
            return None
        steps = pd.Series(np.diff(dates.asi8))
        day = pd.Timedelta(1, "D")
        step = pd.Timedelta(int(steps.mode().iloc[0]), dates.unit)
        weekends = float((dates.day_of_week >= 5).mean())
        return cls(step=step, five_days=step == day and weekends < WEEKEND_SHARE)

    def missing(self, dates: pd.DatetimeIndex) -> NDArray[np.int64]:
        """Steps left out before each date but the first, ``(rows - 1,)``."""
        if self.five_days:
            days = dates.tz_localize(None).to_numpy().astype("datetime64[D]")
            between = np.busday_count(days[:-1] + 1, days[1:])
            return np.maximum(np.asarray(between, np.int64), 0)
        steps = np.diff(dates.asi8) / (self.step / pd.Timedelta(1, dates.unit))
        return np.maximum(np.rint(steps).astype(np.int64) - 1, 0)

    def filled(self, dates: pd.DatetimeIndex, *, where: str) -> pd.DatetimeIndex:
        """The dates with those left out between them.

        Raises:
            DataError: there would be too many.
        """
        missing = int(self.missing(dates).sum())
        if missing + len(dates) > MOST_FILLED * len(dates):
            raise DataError(
                f"{where}: filling every step of {self.step} would make {missing + len(dates):,} "
                f"rows of {len(dates):,}; use --fill none"
            )
        if self.five_days:
            every = pd.bdate_range(dates[0], dates[-1])
        else:
            every = pd.date_range(dates[0], dates[-1], freq=self.step)
        return every.union(dates)


def gap_note(calendar: Calendar, dates: pd.DatetimeIndex) -> Note | None:
    """Tell of steps that have no row."""
    missing = calendar.missing(dates)
    if not missing.any():
        return None
    place = int(missing.argmax())
    stamps = shown(dates)
    kind = "weekdays" if calendar.five_days else f"steps of {calendar.step}"
    return Note(
        what="not there: each gap is taken as one step",
        rows=int(missing.sum()),
        detail=f"{kind}; most: {missing[place]} after {stamps[place]}; "
        "--fill forward repeats the last value",
    )


def time_columns(
    dates: pd.DatetimeIndex, wanted: tuple[TimeFeature, ...]
) -> list[NDArray[np.float64]]:
    """What is known of each date, ``(rows,)`` each."""
    columns = {
        TimeFeature.HOUR: dates.hour,
        TimeFeature.WEEKDAY: dates.day_of_week,
        TimeFeature.MONTHDAY: dates.day,
        TimeFeature.MONTH: dates.month,
    }
    return [columns[feature].to_numpy(np.float64) for feature in wanted]
