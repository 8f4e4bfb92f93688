"""What each principal has, and has taken."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


def _none() -> Mapping[str, int]:
    return {}


class ByPrincipal(Collector):
    """Numbers by principal, as whoever counts them knows them.

    Attributes:
        read: returns them, by the principal's name; any thread may call it.

    Args:
        family: what they are, a counter or a gauge.
        name: of the metric.
        meaning: of it.
    """

    def __init__(
        self, family: type[CounterMetricFamily | GaugeMetricFamily], name: str, meaning: str
    ) -> None:
        self.read: Callable[[], Mapping[str, int]] = _none
        self._family = family
        self._name = name
        self._meaning = meaning

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """One family."""
        found = self._family(self._name, self._meaning, labels=["principal"])
        for principal, number in sorted(self.read().items()):
            found.add_metric([principal], number)
        yield found
