"""Histograms whose values are noted on the hot path, and counted later."""

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

COUNTED_AT_ONCE = 1024
"""Whoever notes a value counts them when there are so many."""


class Distribution:
    """A histogram whose values are noted on the hot path, and counted later.

    The library's own takes a lock and a walk over the buckets for every value, which adds up to a
    tenth of what a single step costs.

    Attributes:
        noted: values that are not counted yet: append to it. Any thread may; whoever appends calls
            `count_noted` now and then.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.noted: deque[float] = deque()
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._counting = threading.Lock()

    def count_noted(self) -> None:
        """Count the values that were only noted so far."""
        with self._counting:
            self._count_noted()

    def _count_noted(self) -> None:
        for _ in range(len(self.noted)):
            value = self.noted.popleft()
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    @property
    def count(self) -> int:
        """Values counted."""
        self.count_noted()
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Their sum."""
        self.count_noted()
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """How many values are at most each bound."""
        return self.snapshot()[0]

    def snapshot(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets, and the sum of what is in them."""
        with self._counting:
            self._count_noted()
            counts, total = tuple(self._counts), self._sum
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(counts)), strict=True)), total


class Distributions(Collector):
    """Shows distributions to Prometheus as one histogram.

    Attributes:
        by_labels: each distribution, by the values of the labels. They are added from one thread.
    """

    def __init__(self, name: str, meaning: str, labels: Sequence[str]) -> None:
        self.by_labels: dict[tuple[str, ...], Distribution] = {}
        self._name = name
        self._meaning = meaning
        self._labels = labels

    def add(self, values: tuple[str, ...], bounds: Sequence[float]) -> Distribution:
        """The distribution with these values of the labels; it is made where there is none."""
        found = self.by_labels.get(values)
        if found is None:
            found = self.by_labels[values] = Distribution(bounds)
        return found

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """One family; what is in it was noted before."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        shown: Mapping[tuple[str, ...], Distribution] = self.by_labels.copy()
        for values, distribution in shown.items():
            buckets, total = distribution.snapshot()
            family.add_metric(values, buckets, total)
        yield family
