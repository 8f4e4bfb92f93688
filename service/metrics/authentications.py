"""Attempts to call with a token, or without one where it is wanted."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

PORTS = ("grpc", "http")
RESULTS = ("ok", "none", "wrong", "expired")


class Authentications(Collector):
    """Counts what became of them; each port is counted on one thread, and read on any.

    Attributes:
        counts: by port and result.
    """

    def __init__(self, name: str, meaning: str) -> None:
        self.counts: Counter[tuple[str, str]] = Counter(
            dict.fromkeys(((port, result) for port in PORTS for result in RESULTS), 0)
        )
        self._name = name
        self._meaning = meaning

    def collect(self) -> Iterator[CounterMetricFamily]:
        """One family, by port and result."""
        found = CounterMetricFamily(self._name, self._meaning, labels=["port", "result"])
        for labels, count in dict(self.counts).items():
            found.add_metric(list(labels), count)
        yield found
