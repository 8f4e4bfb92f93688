"""Fields read as dates: in one form that fits nearly all of them, or not at all.

Where several forms fit, the one whose dates are in order or evenly spaced is taken and told of;
where that does not tell them apart either, the reading is refused.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellar.reading.fields.dates import (
    ORDERS,
    Layout,
    Shape,
    candidates,
    normalised,
    shape_of,
    zone_of,
)

LEAST_FIT = 0.95
"""A form is that of a column where it fits such a share of its fields."""
SAMPLED = 300
_WORTH_TRYING = 0.85
"""A form that fits fewer of the sampled fields is not that of the column."""
FEWEST_TELLING = 10
"""Fewer dates than that are in order, or evenly spaced, by accident."""
_EVEN = 4.0
"""Steps of evenly spaced dates are alike up to such a factor, but for one in twenty."""
_ALIKE, _MOST = 0.15, 0.6
"""So many of them are as long as the usual one, months and leap years allowed for."""
_FAR = 20.0
"""Not one of them is so many times as long as the usual one."""
_CENTURY = 50
"""Dates with two digits for the year end before 2050."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Fields of a column as dates."""

    stamps: pd.DatetimeIndex
    """One per field, NaT where the form does not fit; without a zone."""
    form: str
    """For people: what was read, as strptime writes it or in words."""
    zone: str = ""
    """What the file says of the zone."""
    chosen: str = ""
    """Why this form, where others fit as well."""
    has_clock: bool = False
    elapsed: bool = False
    """Times since a start that nobody knows; stamps count from 1970."""

    @property
    def fit(self) -> float:
        """The share of fields that are dates in this form."""
        return float(known(self.stamps).mean()) if len(self.stamps) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """Fields that are dates in several forms, and nothing says which is meant."""

    forms: tuple[str, ...]
    example: str


def read(texts: "pd.Series[str]", form: str | None = None) -> "Reading | Unclear | None":
    """Read fields as written dates; None where no form fits `LEAST_FIT` of them.

    ``form`` is what the user says: an order of day, month and year, or a form of strptime.
    """
    if form is not None and form not in ORDERS:
        return _told(texts, form)
    sample = sampled(texts)
    seen = Counter(shape for shape in map(shape_of, sample) if shape is not None)
    if not seen:
        return None
    by_layout: Counter[tuple[Layout, str, bool]] = Counter()
    for shape, count in seen.items():
        by_layout[shape.layout, shape.mark, shape.short_year] += count
    (layout, mark, short_year), count = by_layout.most_common(1)[0]
    if count < (LEAST_FIT - 0.05) * len(sample):
        return None
    shapes = [
        shape
        for shape, _ in seen.most_common()
        if (shape.layout, shape.mark, shape.short_year) == (layout, mark, short_year)
    ]
    return _read_layout(texts, shapes, form, "\n".join(sample))


def sampled(texts: "pd.Series[str]") -> list[str]:
    """Some fields from everywhere in a column, without the empty ones."""
    filled = [text for text in texts.iloc[:: max(1, len(texts) // SAMPLED)] if text]
    return filled or [text for text in texts if text][:SAMPLED]


def order_of(form: str) -> str:
    """Day, month or year first, of a form."""
    return next(name for name, part in ORDERS.items() if form.lower().startswith(part))


def _read_layout(
    texts: "pd.Series[str]", shapes: list[Shape], order: str | None, sample: str
) -> "Reading | Unclear | None":
    text = normalised("\n".join(texts), shapes[0].layout, sample=sample)
    zone, text = zone_of(text, shapes)
    if zone is None:
        return None
    text, extra_days = _midnights(text) if shapes[0].clock else (text, None)
    fields = text.split("\n")
    some = [field for field in fields[:: max(1, len(fields) // SAMPLED)] if field]
    found = []
    for date in candidates(shapes[0]):
        if order is not None and not date.lower().startswith(ORDERS[order]) and _has_orders(shapes):
            continue
        if known(_parse(some, date, shapes, zoned=zone == "+")).mean() < _WORTH_TRYING:
            continue
        stamps = _parse(fields, date, shapes, zoned=zone == "+")
        if shapes[0].short_year:
            stamps = _nearest_century(stamps)
        if extra_days is not None:
            stamps += pd.to_timedelta(extra_days, unit="D")
        clock = next((f" {shape.clock}" for shape in shapes if shape.clock), "")
        is_quarter = shapes[0].layout is Layout.QUARTER
        form = "quarters of years" if is_quarter else date + clock
        reading = Reading(stamps=stamps, form=form, zone=zone, has_clock=bool(clock))
        found.append(_local(reading, text))
    fitting = [reading for reading in found if reading.fit >= LEAST_FIT]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return _told_apart(fitting, texts)


def _has_orders(shapes: list[Shape]) -> bool:
    return len(candidates(shapes[0])) > 1


def _parse(fields: list[str], date: str, shapes: list[Shape], *, zoned: bool) -> pd.DatetimeIndex:
    """Read fields whose date is in one form and whose clock is in one of the shapes'."""
    texts = pd.Series(fields, dtype=object)
    offset = "%z" if zoned else ""
    if date in ("%Y-%m-%d", "%Y/%m/%d") and all(map(_is_iso, shapes)):
        stamps = _stamps(texts, "ISO8601")
        # ISO 8601 may be a year alone, which in a column of days is a mistake.
        lengths = np.fromiter(map(len, fields), np.int64, len(fields))
        return only(stamps, lengths >= len("2020-1-1"))
    forms = dict.fromkeys(date + (s.join + s.clock if s.clock else "") + offset for s in shapes)
    first, *others = forms
    stamps = _stamps(texts, first)
    for form in others:
        missing = np.flatnonzero(~known(stamps))
        if not len(missing):
            break
        filled = pd.Series(stamps)
        filled.iloc[missing] = _stamps(texts.iloc[missing], form)
        stamps = pd.DatetimeIndex(filled)
    return stamps


def _is_iso(shape: Shape) -> bool:
    """Whether ISO 8601 has such a clock."""
    return shape.clock == "" or (shape.clock[:3] == "%H:" and shape.join in ("T", "t", " "))


def known(stamps: pd.DatetimeIndex) -> NDArray[np.bool_]:
    """Where there is a time, ``(rows,)``."""
    return np.asarray(stamps.notna(), np.bool_)


def only(stamps: pd.DatetimeIndex, fits: NDArray[np.bool_]) -> pd.DatetimeIndex:
    """Times where they fit, NaT elsewhere."""
    return pd.DatetimeIndex(pd.Series(stamps).where(pd.Series(fits)))


def _stamps(texts: "pd.Series[str]", form: str) -> pd.DatetimeIndex:
    stamps = pd.to_datetime(texts, format=form, errors="coerce", utc=True)
    return pd.DatetimeIndex(stamps).tz_localize(None).as_unit("us")


def _local(reading: Reading, text: str) -> Reading:
    """Where all offsets are the same, the times are as they are written.

    So are days, each begun at the same hour by the clocks of the place: in UTC, half a year of
    them would be at another hour, and many on the day before.
    """
    if reading.zone != "+":
        return reading
    offsets = set(re.findall(r"(?m)([+-]\d{2}:?\d{2})$", text))
    if len(offsets) > 1:
        shown = ", ".join(sorted(offsets)[:3])
        written = pd.Series(text.split("\n"), dtype=object).str.extract(r"([+-]\d{2}:?\d{2})$")[0]
        away_each = {offset: _away(offset) for offset in offsets}
        local = reading.stamps + pd.TimedeltaIndex(pd.to_timedelta(written.map(away_each)))
        clocks = (local - local.normalize())[known(local)]
        if clocks.nunique() == 1:
            return replace(reading, stamps=local, zone=f"local time, of offsets {shown}")
        return replace(reading, zone=f"UTC, of offsets {shown}")
    (offset,) = offsets or {"+00:00"}
    return replace(reading, stamps=reading.stamps + _away(offset), zone=offset)


def _away(offset: str) -> pd.Timedelta:
    """What an offset like -05:00 comes to."""
    return pd.Timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[-2:]))


def _midnights(text: str) -> tuple[str, "NDArray[np.int64] | None"]:
    """24:00 of a day is 0:00 of the next one."""
    if "24:00" not in text and "24.00" not in text:
        return text, None
    form = r"(?m)(?<=[\sT])24([:.]00(?:[:.]00)?)(?=\D|$)"
    if re.search(form, text) is None:
        return text, None
    extra = [re.search(form, field) is not None for field in text.split("\n")]
    return re.sub(form, r"00\1", text), np.array(extra, np.int64)


def _nearest_century(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Years of two digits, so that they stand together and end before 2050."""
    there = stamps[known(stamps)]
    years = np.unique(there.year.to_numpy() % 100)
    if not len(years):
        return stamps
    gaps = np.diff(np.append(years, years[0] + 100))
    last = int(years[int(gaps.argmax())])
    end = last + (2000 if last < _CENTURY else 1900)
    parts = there.year.to_numpy() % 100
    wanted = end - (last - parts) % 100
    if (wanted == there.year).all():
        return stamps
    days = pd.DataFrame({"year": wanted, "month": there.month, "day": there.day})
    moved = pd.DatetimeIndex(pd.to_datetime(days, errors="coerce")).as_unit("us")
    moved += there - there.normalize()
    found = pd.Series(stamps)
    found[known(stamps)] = moved
    return pd.DatetimeIndex(found)


def _told(texts: "pd.Series[str]", form: str) -> Reading | None:
    if "%" not in form:
        return None
    stamps = _stamps(texts, form)
    has_clock = any(part in form for part in ("%H", "%I"))
    reading = Reading(stamps=stamps, form=form, has_clock=has_clock)
    return reading if reading.fit >= LEAST_FIT else None


def _told_apart(found: list[Reading], texts: "pd.Series[str]") -> Reading | Unclear:
    """Of several readings that fit, the one that is meant.

    Rows that are sorted as texts are in order by what stands first in them, be it the day.
    """
    found = sorted(found, key=lambda reading: -reading.fit)
    best = [reading for reading in found if reading.fit == found[0].fit]
    different = [best[0]]
    different += [each for each in best[1:] if not each.stamps.equals(best[0].stamps)]
    if len(different) == 1:
        return best[0] if len(best) == 1 else replace(best[0], chosen="all orders are the same")
    if int(known(best[0].stamps).sum()) >= FEWEST_TELLING:
        tests = [("evenly spaced", _is_even)]
        if not (texts.is_monotonic_increasing or texts.is_monotonic_decreasing):
            tests.insert(0, ("in order", _is_in_order))
        for why, test in tests:
            likely = [reading for reading in different if test(reading.stamps)]
            if len(likely) == 1:
                return replace(likely[0], chosen=f"so they are {why}")
            different = likely or different
    forms = tuple(reading.form for reading in different)
    return Unclear(forms=forms, example=next(text for text in texts if text))


def _is_in_order(stamps: pd.DatetimeIndex) -> bool:
    there = stamps[known(stamps)]
    return bool(there.is_monotonic_increasing or there.is_monotonic_decreasing)


def _is_even(stamps: pd.DatetimeIndex) -> bool:
    steps = np.diff(np.unique(stamps[known(stamps)].asi8)).astype(float)
    if len(steps) < 2:
        return False
    low, middle, high = np.quantile(steps, [0.05, 0.5, 0.95])
    within = high <= _EVEN * middle and middle <= _EVEN * low
    alike = (np.abs(steps - middle) <= _ALIKE * middle).mean() >= _MOST
    return bool(within and alike and steps.max() <= _FAR * middle)
