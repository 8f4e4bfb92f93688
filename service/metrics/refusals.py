"""What callers were refused, by reason."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.errors import CellarError


class Refusals(Collector):
    """Counts refusals where they leave the server: as a call's status, or as a row's error.

    Everything that a caller is told instead of an answer passes here, faults of ours too. Counts
    only grow; they change on the event loop, and any thread may read them.

    Attributes:
        calls: calls that ended in an error, by its reason.
        rows: rows of frames, attaches and resets that were refused alone, by the reason.
    """

    def __init__(self, name: str, meaning: str) -> None:
        # Each is there from the start: Prometheus sees no increase where a series begins above 0.
        reasons = dict.fromkeys(_reasons(CellarError), 0)
        self.calls: Counter[str] = Counter(reasons)
        self.rows: Counter[str] = Counter(reasons)
        self._name = name
        self._meaning = meaning

    def count_call(self, error: CellarError) -> None:
        """Count a call that ends in an error."""
        self.calls[error.reason] += 1

    def count_rows(self, error: CellarError, rows: int) -> None:
        """Count rows that are refused with one error."""
        self.rows[error.reason] += rows

    def collect(self) -> Iterator[CounterMetricFamily]:
        """One family, by reason and kind."""
        found = CounterMetricFamily(self._name, self._meaning, labels=["reason", "kind"])
        for kind, counts in (("call", self.calls), ("row", self.rows)):
            for reason, count in sorted(dict(counts).items()):
                found.add_metric([reason, kind], count)
        yield found


def _reasons(kind: type[CellarError]) -> Iterator[str]:
    """The reasons of a class of errors, and of those below it."""
    yield kind.reason
    for below in kind.__subclasses__():
        yield from _reasons(below)
