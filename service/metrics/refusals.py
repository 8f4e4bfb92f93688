"""What callers were refused, by reason."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.errors import CellarError, QuotaExceededError


class Refusals(Collector):
    """Counts refusals where they leave the server: as a call's status, or as a row's error.

    Everything that a caller is told instead of an answer passes here, faults of ours too. Counts
    only grow; they change on the event loop, and any thread may read them.

    Attributes:
        calls: calls that ended in an error, by its reason.
        rows: rows of frames, attaches and resets that were refused alone, by the reason.
        quotas: both, as far as they were over a quota, by the principal and the quota.

    Args:
        by_reason: the name and the meaning of the metric of calls and rows.
        by_quota: those of the metric of quotas.
    """

    def __init__(self, by_reason: tuple[str, str], by_quota: tuple[str, str]) -> None:
        # Each is there from the start: Prometheus sees no increase where a series begins above 0.
        reasons = dict.fromkeys(_reasons(CellarError), 0)
        self.calls: Counter[str] = Counter(reasons)
        self.rows: Counter[str] = Counter(reasons)
        self.quotas: Counter[tuple[str, str]] = Counter()
        self._by_reason = by_reason
        self._by_quota = by_quota

    def count_call(self, error: CellarError, principal: str = "") -> None:
        """Count a call of a principal's that ends in an error."""
        self.calls[error.reason] += 1
        self._count_quota(error, principal, 1)

    def count_rows(self, error: CellarError, rows: int, principal: str = "") -> None:
        """Count rows of a principal's that are refused with one error."""
        self.rows[error.reason] += rows
        self._count_quota(error, principal, rows)

    def _count_quota(self, error: CellarError, principal: str, count: int) -> None:
        if isinstance(error, QuotaExceededError):
            self.quotas[principal, error.quota] += count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Two families: by reason and kind, and by principal and quota."""
        found = CounterMetricFamily(*self._by_reason, labels=["reason", "kind"])
        for kind, counts in (("call", self.calls), ("row", self.rows)):
            for reason, count in sorted(dict(counts).items()):
                found.add_metric([reason, kind], count)
        yield found
        found = CounterMetricFamily(*self._by_quota, labels=["principal", "quota"])
        for labels, count in sorted(dict(self.quotas).items()):
            found.add_metric(labels, count)
        yield found


def _reasons(kind: type[CellarError]) -> Iterator[str]:
    """The reasons of a class of errors, and of those below it."""
    yield kind.reason
    for below in kind.__subclasses__():
        yield from _reasons(below)
