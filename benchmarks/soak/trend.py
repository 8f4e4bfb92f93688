"""Whether something grows: a line through what was measured, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WINDOWS = 40
_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per second, with its 95 % interval."""

    value: float
    low: float
    high: float


def slope(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The Theil-Sen line through the medians of up to 40 stretches of time.

    The interval is Sen's (1968), by the variance of Kendall's statistic. A stretch's median is
    free of what comes and goes within it. With fewer than 4 values anything may be.
    """
    times, heights = _medians(np.array(times_s), np.array(values, np.float64))
    count = len(times)
    if count < 4:
        return Slope(0.0, -math.inf, math.inf)
    first, second = np.triu_indices(count, 1)
    slopes = np.sort((heights[second] - heights[first]) / (times[second] - times[first]))
    spread = _NORMAL_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Slope(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def _medians(
    times: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pieces = [
        (np.median(some), np.median(values[at]))
        for at in np.array_split(np.arange(len(times)), _WINDOWS)
        if len(some := times[at])
    ]
    found = np.array(pieces, np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def grows(found: Slope, seconds: float, tolerance: float) -> bool:
    """Whether it surely rises, and by more in that time than comes and goes."""
    return found.low > 0 and found.value * seconds > tolerance


__all__ = ["Slope", "grows", "slope"]
