"""Every metric the server exports, in base units, and the page they are read from."""

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_SECONDS = (
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip


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
        self.count_noted()
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


class _Distributions(Collector):
    """Shows them to Prometheus."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """One family per histogram."""
        metrics = self._metrics
        size = metrics.batch_size
        yield HistogramMetricFamily(
            "cellar_batch_size",
            "Time steps that ran together, by batch.",
            buckets=size.buckets(),
            sum_value=size.sum,
        )
        seconds = HistogramMetricFamily(
            "cellar_step_seconds",
            "Seconds of one batch by phase: its first row's wait (queue), the model (run), handing "
            "the answers over (reply).",
            labels=["phase"],
        )
        for phase, found in (
            ("queue", metrics.queue_seconds),
            ("run", metrics.run_seconds),
            ("reply", metrics.reply_seconds),
        ):
            seconds.add_metric([phase], found.buckets(), found.sum)
        yield seconds
        journal = metrics.journal_seconds
        yield HistogramMetricFamily(
            "cellar_journal_seconds",
            "Seconds that one write of the store's journal took, until it was on the disk.",
            buckets=journal.buckets(),
            sum_value=journal.sum,
        )


class Metrics:
    """The server's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge = partial(Gauge, registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        self.device_info = gauge(
            "cellar_device_info",
            "1 for each device that models run on, with ONNX Runtime's name for its provider.",
            ["device", "provider"],
        )
        self.model_available = gauge(
            "cellar_model_available",
            "1 for each version of a model that is served, 0 for one that cannot be.",
            ["model"],
        )
        self.sessions = gauge(
            "cellar_sessions",
            "Sessions that hold a slot: open ones, and closed ones whose last batch still runs.",
            ["model", "tier"],
        )
        self.session_capacity = gauge(
            "cellar_session_capacity",
            "Sessions that can be open at once.",
            ["model"],
        )
        self.session_events = counter(
            "cellar_session_events",
            "Sessions that were opened, closed or expired.",
            ["event"],
        )
        self.store_bytes = gauge(
            "cellar_store_bytes",
            "Bytes of the sessions' rows and checkpoints in the store.",
        )
        self.journal_bytes = gauge(
            "cellar_journal_bytes",
            "Bytes of the store's journal that are needed.",
        )
        self.undurable_bytes = gauge(
            "cellar_undurable_bytes",
            "Memory of what is not in the store's journal yet; --max-undurable-bytes limits it.",
            [],
        )
        self.restored_sessions = gauge(
            "cellar_restored_sessions",
            "Sessions that were in the store at the start, by what has become of them: cold (not "
            "brought back yet), restored (each time counts), set_aside (could not be), other_model "
            "(its file is not served).",
            ["state"],
        )
        self.state_bytes = gauge(
            "cellar_state_bytes",
            "Bytes of state of the sessions in cellar_sessions.",
            ["model", "tier"],
        )
        self.steps = counter(
            "cellar_steps",
            "Time steps applied, forecast paths and whole sequences included; replayed and dry "
            "ones are not.",
            ["model"],
        )
        self.replayed_steps = counter(
            "cellar_replayed_steps",
            "Rows (one session in one request or frame) answered with the stored reply.",
        )
        self.position_conflicts = counter(
            "cellar_position_conflicts",
            "Rows (one session in one request or frame) refused with POSITION_MISMATCH or "
            "STEP_CONFLICT.",
        )
        self.batch_size = Distribution((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024))
        self.queue_seconds = Distribution(_SECONDS)
        self.run_seconds = Distribution(_SECONDS)
        self.reply_seconds = Distribution(_SECONDS)
        self.journal_seconds = Distribution(_SECONDS)
        self.registry.register(_Distributions(self))
        self.pending_steps = gauge(
            "cellar_pending_steps", "Time steps queued or running.", ["model"]
        )
        self.overloaded_steps = counter(
            "cellar_overloaded_steps",
            "Time steps refused with OVERLOADED, as those before them would have run too long.",
            ["model"],
        )
        self.waiting_calls = gauge(
            "cellar_waiting_calls", "Calls that wait inside gRPC to be accepted.", []
        )
        self.buffered_bytes = gauge(
            "cellar_buffered_bytes",
            "Bytes that callers have the server hold, by kind; --buffer-memory limits their sum.",
            ["kind"],
        )
        self.requests = counter(
            "cellar_requests",
            "Calls that ended, by method and status code; a stream is one call.",
            ["method", "code"],
        )
        self.generated_tokens = counter(
            "cellar_generated_tokens",
            "Time steps drawn by Generate, of series models too.",
        )

    def count_noted(self) -> None:
        """Count what was only noted so far."""
        for found in (
            self.batch_size,
            self.queue_seconds,
            self.run_seconds,
            self.reply_seconds,
            self.journal_seconds,
        ):
            found.count_noted()


class MetricsPage:
    """Serves the metrics to Prometheus from a thread of its own.

    Args:
        metrics: what to serve.
        host: where to listen.
        port: where to listen; 0 lets the system choose.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._web, self._thread = start_http_server(port, host, metrics.registry)
        self._thread.name = "metrics"
        self.port = self._web.server_port

    def close(self) -> None:
        """Stop listening; returns when the thread has ended, in half a second at most."""
        self._web.shutdown()
        self._thread.join()
        self._web.server_close()
