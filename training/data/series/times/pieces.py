"""Times put together from several columns: a date and a clock, or year, month, day and hour."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellar.reading.fields.dates import month_of
from cellar.reading.fields.kinds import CLOCK
from training.data.series.dates.reading import LEAST_FIT, Reading, sampled
from training.data.series.table.column_table import ColumnTable

_RANGES = {
    "year": (1500, 2200),
    "month": (1, 12),
    "day": (1, 31),
    "doy": (1, 366),
    "quarter": (1, 4),
    "week": (1, 53),
    "hour": (0, 24),
    "minute": (0, 59),
    "second": (0, 59),
}


def read_parts(table: ColumnTable, parts: dict[str, str]) -> tuple[Reading, tuple[str, ...]] | None:
    """Read dates whose parts are columns; also says which of them. None where they are none."""
    numbers: dict[str, NDArray[np.float64]] = {}
    for part, name in parts.items():
        found = _whole(table.column(name, "--date"), part)
        if found is not None:
            numbers[part] = found
    if "year" not in numbers or len(numbers) < 2:
        return None
    size = len(table.frame)
    ones = np.ones(size)
    month, day = numbers.get("month", ones), numbers.get("day", ones)
    used = ["year"]
    if "month" in numbers:
        used += ["month", *(["day"] if "day" in numbers else [])]
    elif "doy" in numbers:
        used.append("doy")
        day = ones
    elif "quarter" in numbers:
        used.append("quarter")
        month, day = 3 * numbers["quarter"] - 2, ones
    elif "week" in numbers:
        return _weeks(numbers, parts)
    else:
        return None
    frame = pd.DataFrame({"year": numbers["year"], "month": month, "day": day})
    stamps = pd.DatetimeIndex(pd.to_datetime(frame, errors="coerce")).as_unit("us")
    if "doy" in used:
        stamps += pd.to_timedelta(numbers["doy"] - 1, unit="D")
    if used[-1] in ("day", "doy"):
        for part, seconds in (("hour", 3600), ("minute", 60), ("second", 1)):
            if part not in numbers:
                break
            stamps += pd.to_timedelta(numbers[part] * seconds, unit="s")
            used.append(part)
    names = tuple(parts[part] for part in used)
    reading = Reading(
        stamps=pd.DatetimeIndex(stamps), form=" ".join(used), has_clock="hour" in used
    )
    return (reading, names) if reading.fit >= LEAST_FIT else None


def _weeks(
    numbers: dict[str, NDArray[np.float64]], parts: dict[str, str]
) -> tuple[Reading, tuple[str, ...]] | None:
    pairs = zip(numbers["year"], numbers["week"], strict=True)
    texts = [f"{year:.0f}-W{week:02.0f}-1" if year == year else "" for year, week in pairs]
    stamps = pd.to_datetime(pd.Series(texts, dtype=object), format="%G-W%V-%u", errors="coerce")
    reading = Reading(stamps=pd.DatetimeIndex(stamps).as_unit("us"), form="year week")
    return (reading, (parts["year"], parts["week"])) if reading.fit >= LEAST_FIT else None


def _whole(texts: "pd.Series[str]", part: str) -> NDArray[np.float64] | None:
    """A column's whole numbers in the range of a part; None where they are not that."""
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64).copy()
    if part == "month" and np.isnan(numbers).all():
        known = {text: month_of(text) for text in set(texts)}
        order = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
        numbers = np.array(
            [order.index(known[t] or "") + 1.0 if known[t] else np.nan for t in texts], np.float64
        )
    least, most = _RANGES[part]
    fits = (numbers >= least) & (numbers <= most) & (numbers % 1 == 0)
    if fits.mean() < LEAST_FIT:
        return None
    return np.where(fits, numbers, np.nan)


def clock_texts(
    texts: "pd.Series[str]", *, is_hour: bool, is_named: bool
) -> "pd.Series[str] | None":
    """Times of the day in a form that can stand behind a date; None where they are none.

    Numbers are hours, or 1530 and 153000, where the column is named like a clock.
    """
    sample = sampled(texts)
    if not sample or not (is_named or all(":" in text for text in sample)):
        return None
    if np.mean([CLOCK.fullmatch(text) is not None for text in sample]) >= LEAST_FIT:
        return texts
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    known = numbers[np.isfinite(numbers)]
    if len(known) < LEAST_FIT * len(numbers) or (known % 1 != 0).any() or (known < 0).any():
        return None
    if known.max() <= 24 and is_hour:
        hours, minutes, seconds = numbers, numbers * 0, numbers * 0
    elif known.max() <= 2400 and (known % 100 < 60).all() and known.max() > 24:
        hours, minutes, seconds = numbers // 100, numbers % 100, numbers * 0
    elif known.max() <= 240000 and known.max() > 2400 and (known // 100 % 100 < 60).all():
        hours, minutes, seconds = numbers // 10000, numbers // 100 % 100, numbers % 100
    else:
        return None
    parts = zip(hours, minutes, seconds, strict=True)
    clocks = ["" if h != h else f"{h:02.0f}:{m:02.0f}:{s:02.0f}" for h, m, s in parts]
    return pd.Series(clocks, index=texts.index, dtype=object)
