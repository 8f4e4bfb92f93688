"""Every metric the server exports, in base units, and the page they are read from."""

import socket
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_SECONDS = (
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
_POLL_S = 0.05  # how long ending the page takes at most


class Metrics:
    """The server's metrics in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sessions = Gauge(
            "cellar_sessions",
            "Sessions that hold a slot: open ones, and closed ones whose last batch still runs.",
            ["model", "tier"],
            registry=registry,
        )
        self.session_capacity = Gauge(
            "cellar_session_capacity",
            "Sessions that can be open at once.",
            ["model"],
            registry=registry,
        )
        self.session_events = Counter(
            "cellar_session_events",
            "Sessions that were opened, closed or expired.",
            ["event"],
            registry=registry,
        )
        self.state_bytes = Gauge(
            "cellar_state_bytes",
            "Bytes of state of the sessions in cellar_sessions.",
            ["model", "tier"],
            registry=registry,
        )
        self.steps = Counter(
            "cellar_steps",
            "Time steps applied, forecast paths included; replayed and dry ones are not.",
            ["model"],
            registry=registry,
        )
        self.replayed_steps = Counter(
            "cellar_replayed_steps",
            "Rows (one session in one request or frame) answered with the stored reply.",
            registry=registry,
        )
        self.position_conflicts = Counter(
            "cellar_position_conflicts",
            "Rows (one session in one request or frame) refused with POSITION_MISMATCH or "
            "STEP_CONFLICT.",
            registry=registry,
        )
        self.batch_size = Histogram(
            "cellar_batch_size",
            "Time steps that ran together, by batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.step_seconds = Histogram(
            "cellar_step_seconds",
            "Seconds of one batch by phase: its first row's wait (queue), the model (run), handing "
            "the answers over (reply).",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.pending_steps = Gauge(
            "cellar_pending_steps", "Time steps queued or running.", ["model"], registry=registry
        )
        self.requests = Counter(
            "cellar_requests",
            "Calls that ended, by method and status code; a stream is one call.",
            ["method", "code"],
            registry=registry,
        )
        self.generated_tokens = Counter(
            "cellar_generated_tokens",
            "Time steps drawn by Generate, of series models too.",
            registry=registry,
        )


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
        class Web(ThreadingWSGIServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._web = make_server(host, port, make_wsgi_app(metrics.registry), Web, _SilentHandler)
        self._thread = threading.Thread(
            target=self._web.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._web.server_port

    def close(self) -> None:
        """Stop listening; returns when the thread has ended."""
        self._web.shutdown()
        self._thread.join()
        self._web.server_close()


class _SilentHandler(WSGIRequestHandler):
    """Writes no line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
