"""How long something takes, over and over."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def median_us(work: Callable[[], object], times: int) -> float:
    """Median microseconds of several runs, after one that does not count."""
    work()
    found = [timed(work)[1] for _ in range(times)]
    return round(statistics.median(found) * 1e6, 1)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What it returns, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


__all__ = ["median_us", "timed"]
