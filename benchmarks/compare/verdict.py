"""When a difference counts: the commit against itself says how much means nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median, and where it lies with a probability of ``LEVEL``."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """The percentile bootstrap of the median (Efron, 1979); the same for the same values."""
        found = np.asarray(values, np.float64)  # (rounds,)
        noise = np.random.default_rng(0)
        drawn = noise.choice(found, size=(RESAMPLES, len(found)))  # (resamples, rounds)
        outside = (1 - LEVEL) / 2
        low, high = np.quantile(np.median(drawn, axis=1), (outside, 1 - outside))
        return cls(median=float(np.median(found)), low=float(low), high=float(high))


class Verdict(StrEnum):
    """What a comparison says of the new code."""

    WORSE = "worse"
    NO_WORSE = "no worse"
    BETTER = "better"


def tolerance(itself: Interval) -> float:
    """The ratio up to which a difference means nothing, at least 1.

    What the same code did to itself, dearer or cheaper: that one process of two comes off a little
    better is chance, and chance has no side.
    """
    return max(itself.high, 1 / itself.low)


def judge(ratio: Interval, itself: Interval) -> Verdict:
    """Compare a ratio of costs, new over base, with that of the base over itself."""
    allowed = tolerance(itself)
    if ratio.low > allowed:
        return Verdict.WORSE
    if ratio.high < 1 / allowed:
        return Verdict.BETTER
    return Verdict.NO_WORSE


__all__ = ["Interval", "Verdict", "judge", "tolerance"]
