"""Numbers read as times: since 1970, since a start, or the digits of a date.

Numbers are no times by accident: a column has to be named like one, or to leave no doubt.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.series.dates.reading import FEWEST_TELLING, LEAST_FIT, Reading, only

_EPOCHS = {"s": (3e8, 4.2e9), "ms": (3e11, 4.2e12), "us": (3e14, 4.2e15), "ns": (3e17, 4.2e18)}
_DIGITS = {
    14: "%Y%m%d%H%M%S",
    12: "%Y%m%d%H%M",
    10: "%Y%m%d%H",
    8: "%Y%m%d",
    6: "%Y%m",
}
_WEEKS = 6
"""Digits of a year and a week of it, where the last two are no months."""
_YEARS = (1500, 2200)
_USUAL = 0.3
_DAYS = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def read_numbers(texts: "pd.Series[str]", *, named: bool) -> Reading | None:
    """Read numbers as dates; None where they are none, or may well be something else.

    ``named`` says that the column is named like a date.
    """
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    known = np.isfinite(numbers)
    if known.mean() < LEAST_FIT:
        return None
    digits = _digits(texts, numbers, known, named=named)
    if digits is not None:
        return digits
    for unit, (least, most) in _EPOCHS.items():
        fits = known & (numbers >= least) & (numbers < most)
        if fits.mean() >= LEAST_FIT and (named or _is_no_accident(numbers[fits], unit)):
            exact = pd.to_numeric(texts.where(fits, None), errors="coerce")
            stamps = pd.DatetimeIndex(pd.to_datetime(exact, unit=unit, errors="coerce"))  # type: ignore[call-overload]
            form = f"{unit} since 1970"
            return Reading(stamps=stamps, form=form, zone="UTC", has_clock=True)
    return _years(numbers, known) if named else None


def read_elapsed(texts: "pd.Series[str]") -> Reading | None:
    """Read numbers that count from a start: 0, 0.5, 1, … or 1, 2, 3, …."""
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    known = np.isfinite(numbers)
    if known.mean() < LEAST_FIT or len(np.unique(numbers[known])) < 2:
        return None
    steps = np.diff(np.unique(numbers[known]))
    if not 0 <= numbers[known].min() <= max(1.0, 2 * float(np.median(steps))):
        return None
    if numbers[known].max() > 1e9:
        return None
    stamps = pd.DatetimeIndex(pd.to_datetime(numbers, unit="s", errors="coerce"))
    return Reading(stamps=stamps, form="counted from the start", has_clock=True, elapsed=True)


def _digits(
    texts: "pd.Series[str]", numbers: NDArray[np.float64], known: NDArray[np.bool_], *, named: bool
) -> Reading | None:
    """The digits of dates, 20201231 and the like."""
    lengths = np.fromiter(map(len, texts), int, len(texts))
    usual = int(np.bincount(lengths[known]).argmax()) if known.any() else 0
    if usual not in _DIGITS or (usual == 6 and not named):
        return None
    fits = known & (lengths == usual)
    if fits.mean() < LEAST_FIT:
        return None
    reading = _of_form(texts.where(fits, ""), _DIGITS[usual])
    if reading.fit < LEAST_FIT and usual == _WEEKS:
        monday = texts.where(fits, "") + "1"
        reading = replace(_of_form(monday, "%G%V%u"), form="%G%V: the ISO year and its week")
    if reading.fit < LEAST_FIT:
        return None
    if not named and not (reading.fit == 1 and len(numbers) >= FEWEST_TELLING):
        return None
    return reading


def _of_form(texts: "pd.Series[str]", form: str) -> Reading:
    stamps = pd.DatetimeIndex(pd.to_datetime(texts, format=form, errors="coerce")).as_unit("us")
    stamps = only(stamps, np.asarray((stamps.year >= _YEARS[0]) & (stamps.year < _YEARS[1])))
    return Reading(stamps=stamps, form=form, has_clock="%H" in form)


def _years(numbers: NDArray[np.float64], known: NDArray[np.bool_]) -> Reading | None:
    """Years, each once and as far apart as the others."""
    years = numbers[known]
    if not known.all() or (years % 1 != 0).any():
        return None
    if years.min() < _YEARS[0] or years.max() >= _YEARS[1]:
        return None
    steps = np.diff(np.sort(years))
    if len(steps) and (steps.min() < 0 or np.unique(steps[steps > 0]).size > 1):
        return None
    days = pd.DataFrame({"year": years.astype(int), "month": 1, "day": 1})
    return Reading(stamps=pd.DatetimeIndex(pd.to_datetime(days)).as_unit("us"), form="%Y")


def _is_no_accident(numbers: NDArray[np.float64], unit: str) -> bool:
    """Whether numbers of a column without a telling name are times: whole and evenly spaced."""
    if len(numbers) < FEWEST_TELLING or (numbers % 1 != 0).any():
        return False
    steps = np.diff(np.unique(numbers))
    if not len(steps):
        return False
    usual = np.unique(steps, return_counts=True)[1].max() / len(steps)
    in_order = bool((np.diff(numbers) >= 0).all() or (np.diff(numbers) <= 0).all())
    return bool(usual > _USUAL or (in_order and unit != "s") or (steps % _DAYS[unit] == 0).all())
