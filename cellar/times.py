"""Times of rows, as people write them into CSV files. An error names the file and the column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np

from cellar.tabular import TableError

NAMES = ("date", "datetime", "timestamp", "time", "ds", "datum", "fecha")
"""What a column of times is called."""
COUNT = "count"
"""The form of numbers that are no dates: 1, 2, 3."""
_ISO = "ISO 8601"
_EPOCH = "seconds since 1970"
_FORMS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d-%b-%Y", "%b %d, %Y", "%B %d, %Y"),
)
_DAY = 86_400.0
_EPOCHS = {1.0: (1e8, 1e10), 1e3: (1e11, 1e13), 1e6: (1e14, 1e16), 1e9: (1e17, 1e19)}


def columns_of_times(names: Sequence[str]) -> tuple[str, ...]:
    """The column that is named like a time, or those of the date and the time of day."""
    plain = {name.strip().strip("<>").lower(): name for name in reversed(names)}
    if "date" in plain and "time" in plain:
        return plain["date"], plain["time"]
    return tuple(name for name in names if name.strip().strip("<>").lower() in NAMES)[:1]


def read_times(texts: Sequence[str], place: str) -> dict[str, list[float]]:
    """Times in seconds since 1970 (rows,), or counts, by each form that fits all of them.

    There is more than one only where days and months cannot be told apart. Those without a zone are
    UTC.

    Raises:
        TableError: no form fits; ``place`` says where they stand.
    """
    readings, unfit = dict[str, list[float]](), 0
    for form in (_ISO, COUNT, *_FORMS):
        found: list[float] = []
        try:
            found.extend(_time(text, form) for text in texts)
        except ValueError:
            unfit = max(unfit, len(found))
            continue
        readings[form] = found
        if form in (_ISO, COUNT):
            break
    if COUNT in readings:
        for unit, (least, most) in _EPOCHS.items():
            if all(least <= number < most for number in readings[COUNT]):
                return {_EPOCH: [number / unit for number in readings[COUNT]]}
    if not readings:
        raise TableError(
            f"{place}: {texts[unfit]!r} and the others are no dates that order the rows; write "
            "them as 2026-12-31, or give the rows oldest first and the column another name"
        )
    return readings


def order_of(readings: Mapping[str, list[float]], texts: Sequence[str], place: str) -> list[int]:
    """The rows from the oldest on.

    Raises:
        TableError: it is not clear.
    """
    orders = []
    for times in readings.values():
        order = sorted(range(len(times)), key=times.__getitem__)
        if len(set(times)) < len(times) and order != list(range(len(times))):
            raise TableError(
                f"{place}: several rows have one time, and the file is not in order; write dates "
                "with the time of the day into it, or give the rows oldest first"
            )
        orders.append(order)
    if any(order != orders[0] for order in orders):
        raise unclear(texts, place, "the order depends on it")
    return orders[0]


def unclear(texts: Sequence[str], place: str, why: str) -> TableError:
    """Days and months cannot be told apart."""
    return TableError(
        f"{place}: {texts[0]!r} may begin with the day or the month, and {why}; write 2026-12-31"
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


def _time(text: str, form: str) -> float:
    if form == COUNT:
        if not text.replace(".", "", 1).isdigit():
            raise ValueError(text)
        return float(text)
    if form == _ISO:
        if text.isdigit() and len(text) != len("20261231"):
            raise ValueError(text)
        time = datetime.fromisoformat(text)
    else:
        time = datetime.strptime(text, form)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
