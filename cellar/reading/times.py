"""Times of rows, as people write them into CSV files. An error names the file and the column.

Whatever is read is read as training reads it; what could be read otherwise is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np

from cellar.reading.errors import TableError
from cellar.reading.fields.dates import ORDERS, Shape, candidates, normalised, shape_of, zone_of
from cellar.reading.fields.kinds import Kind, kind_of

COUNT = "count"
"""The form of numbers that are no dates: 1, 2, 3."""
_EPOCHS = {1.0: (3e8, 4.2e9), 1e3: (3e11, 4.2e12), 1e6: (3e14, 4.2e15), 1e9: (3e17, 4.2e18)}
_DIGITS = {14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 10: "%Y%m%d%H", 8: "%Y%m%d", 6: "%Y%m"}
_YEARS = (1500, 2200)
_SURE, _LIKELY = 0.9, 0.5
_CENTURY = 2050
_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When each row is.

    Attributes:
        readings: times in seconds since 1970 (rows,), or counts, by each form that fits all of
            them. There is more than one only where days and months cannot be told apart.
        has_clock: whether they have a time of the day.
        is_local: whether the hours are those that are written.
    """

    readings: Mapping[str, list[float]]
    has_clock: bool = False
    is_local: bool = True


def read_times(
    texts: Sequence[str], place: str, *, form: str | None = None, is_named: bool = True
) -> Times | None:
    """The times of rows; None: surely they are none.

    Args:
        texts: a field of each row.
        place: the file and the column, for messages.
        form: one of ``ORDERS``, or a form as strptime takes it; None: as it looks.
        is_named: whether the column is named like times, or named by somebody.

    Raises:
        TableError: some are times, and some are not.
    """
    filled = [text for text in texts if text]
    if not filled:
        return None
    kinds = [kind_of(text) for text in filled]
    if form is None and kinds.count(Kind.NUMBER) >= _SURE * len(kinds):
        return _read_numbers(texts, is_named=is_named)
    if form is not None and form not in ORDERS:
        return Times(
            readings={form: _told(texts, form, place)}, has_clock="%H" in form or "%I" in form
        )
    return _read_written(texts, place, order=form)


def _told(texts: Sequence[str], form: str, place: str) -> list[float]:
    found = _parsed(texts, [form] * len(texts))
    if found is None:
        wrong = next(text for text in texts if _parsed([text], [form]) is None)
        raise TableError(f"{place}: {wrong!r} is not written as --date-form {form} says")
    return found


def _read_written(texts: Sequence[str], place: str, *, order: str | None) -> Times | None:
    shapes = [shape_of(text) for text in texts]
    seen = [shape for shape in shapes if shape is not None]
    if len(seen) < _LIKELY * len(texts):
        return None
    first = seen[0]
    alike = [
        shape is not None
        and (shape.layout, shape.mark, shape.short_year)
        == (first.layout, first.mark, first.short_year)
        for shape in shapes
    ]
    if not all(alike):
        raise _no_date(texts[alike.index(False)], place)
    joined = "\n".join(texts)
    zone, text = zone_of(normalised(joined, first.layout, sample=joined), seen)
    if zone is None:
        raise TableError(f"{place}: some times have a zone, and some have not; write all alike")
    fields = text.split("\n")
    offsets = set(re.findall(r"(?m)([+-]\d{2}:?\d{2})$", text)) if zone == "+" else set()
    readings: dict[str, list[float]] = {}
    dates = candidates(first)
    for date in dates:
        if order is not None and len(dates) > 1 and not date.lower().startswith(ORDERS[order]):
            continue
        forms = [_form(date, shape, zoned=zone == "+") for shape in seen]
        found = _parsed(fields, forms, as_written=len(offsets) == 1)
        if found is not None:
            readings[date] = found
    if not readings:
        raise _no_date(texts[0], place)
    if first.short_year:
        _check_centuries(readings, place)
    return Times(
        readings=readings,
        has_clock=any(shape.clock for shape in seen),
        is_local=len(offsets) < 2,
    )


def _form(date: str, shape: Shape, *, zoned: bool) -> str:
    clock = shape.join + shape.clock if shape.clock else ""
    return date + clock + ("%z" if zoned else "")


def _parsed(
    texts: Sequence[str], forms: Sequence[str], *, as_written: bool = False
) -> list[float] | None:
    """Times by a form each; None: one does not fit. ``as_written`` leaves zones out."""
    found = []
    for text, form in zip(texts, forms, strict=True):
        try:
            time = datetime.strptime(text, form)
        except ValueError:
            return None
        if as_written or time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        found.append(time.timestamp())
    return found


def _no_date(text: str, place: str) -> TableError:
    return TableError(
        f"{place}: {text!r} and the others are no dates that order the rows; write them as "
        "2026-12-31, say how they are written with --date-form (%d.%m.%Y), or take the rows as "
        "they come with --date none"
    )


def _check_centuries(readings: Mapping[str, list[float]], place: str) -> None:
    """Refuse years of two digits that may be those of another century."""
    for times in readings.values():
        first, last = date_of(min(times)).year, date_of(max(times)).year
        if last >= _CENTURY or last - first >= 50:
            raise TableError(f"{place}: years of two digits from {first} to {last}; write four")


def _read_numbers(texts: Sequence[str], *, is_named: bool) -> Times | None:
    """Numbers as dates; None where they are none, or may well be something else."""
    numbers = numbers_of(texts)
    if numbers is None:
        return None
    lengths = set(map(len, texts))
    if len(lengths) == 1 and all(text.isascii() and text.isdigit() for text in texts):
        form = _DIGITS.get(lengths.pop())
        found = (
            _parsed(texts, [form] * len(texts)) if form and (is_named or form != "%Y%m") else None
        )
        if found is not None and form is not None:
            years = [date_of(time).year for time in (min(found), max(found))]
            if _YEARS[0] <= years[0] and years[1] < _YEARS[1]:
                return Times(readings={form: found}, has_clock="%H" in form)
    for unit, (least, most) in _EPOCHS.items():
        if all(least <= number < most for number in numbers):
            found = [number / unit for number in numbers]
            return Times(readings={"seconds since 1970": found}, has_clock=True)
    return None


def numbers_of(texts: Sequence[str]) -> list[float] | None:
    """Plain numbers; None: one is none."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def read_elapsed(texts: Sequence[str]) -> Times | None:
    """Numbers that count from a start: 0, 0.5, 1, … or 1, 2, 3, …."""
    numbers = numbers_of(texts)
    if numbers is None or len(set(numbers)) < 2:
        return None
    steps = np.diff(np.unique(numbers))
    if not 0 <= min(numbers) <= max(1.0, 2 * float(np.median(steps))) or max(numbers) > 1e9:
        return None
    return Times(readings={COUNT: numbers}, has_clock=True)


def order_of(times: Times, texts: Sequence[str], place: str) -> list[int]:
    """The rows from the oldest on; those of one time in the file's order.

    Raises:
        TableError: it is not clear.
    """
    orders = [sorted(range(len(each)), key=each.__getitem__) for each in times.readings.values()]
    if any(order != orders[0] for order in orders):
        raise unclear(texts, place, "the order depends on it")
    return orders[0]


def unclear(texts: Sequence[str], place: str, why: str) -> TableError:
    """Days and months cannot be told apart."""
    return TableError(
        f"{place}: {texts[0]!r} may begin with the day or the month, and {why}; say so with "
        "--date-form day-first or month-first, or write 2026-12-31"
    )


def date_of(time: float) -> datetime:
    """The date of a time."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time)


def shown(time: float, form: str) -> str:
    """A time for people: without the time of day at midnight."""
    if form == COUNT:
        return f"{time:g}"
    text = date_of(time).replace(tzinfo=None).isoformat(" ")
    return text.removesuffix(" 00:00:00")


def span(seconds: float, form: str) -> str:
    """A span of time for people."""
    if form == COUNT:
        return f"{seconds:g}"
    return str(timedelta(seconds=seconds)).removesuffix(", 0:00:00")


def steps_between(times: Sequence[float], form: str, *, weekdays: bool) -> list[float]:
    """The spans between times (rows - 1,); with ``weekdays`` a weekend is none."""
    if not weekdays or form == COUNT:
        return [after - before for before, after in pairwise(times)]
    days = np.array([date_of(time).date() for time in times], "datetime64[D]")
    return [_DAY * float(count) for count in np.busday_count(days[:-1], days[1:])]


def are_weekdays(times: Sequence[float], form: str) -> bool:
    """Whether times are days without weekends, and more than a week of them."""
    if form == COUNT or times[-1] - times[0] < 7 * _DAY:
        return False
    steps = steps_between(times, form, weekdays=False)
    return all(step % _DAY == 0 for step in steps) and all(
        date_of(time).weekday() < 5 for time in times
    )


def is_one_reading(readings: Iterable[Sequence[float]]) -> bool:
    """Whether all readings are the same times."""
    return len({tuple(times) for times in readings}) == 1
