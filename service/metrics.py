"""Every metric the server exports, in base units."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip


class Metrics:
    """The server's metrics in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sessions = Gauge(
            "cellar_sessions", "Open sessions.", ["model", "tier"], registry=registry
        )
        self.session_capacity = Gauge(
            "cellar_session_capacity", "Session slots.", ["model"], registry=registry
        )
        self.session_events = Counter(
            "cellar_session_events",
            "Sessions by what became of them.",
            ["event"],
            registry=registry,
        )
        self.state_bytes = Gauge(
            "cellar_state_bytes", "State of open sessions.", ["model", "tier"], registry=registry
        )
        self.steps = Counter(
            "cellar_steps", "Steps applied, forecast paths included.", ["model"], registry=registry
        )
        self.replayed_steps = Counter(
            "cellar_replayed_steps", "Requests answered with the stored reply.", registry=registry
        )
        self.position_conflicts = Counter(
            "cellar_position_conflicts", "Requests for another position.", registry=registry
        )
        self.batch_size = Histogram(
            "cellar_batch_size",
            "Steps that ran together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.step_seconds = Histogram(
            "cellar_step_seconds", "Time by phase.", ["phase"], buckets=_SECONDS, registry=registry
        )
        self.pending_steps = Gauge(
            "cellar_pending_steps", "Steps queued or running.", ["model"], registry=registry
        )
        self.requests = Counter(
            "cellar_requests", "Calls by method and code.", ["method", "code"], registry=registry
        )
        self.generated_tokens = Counter(
            "cellar_generated_tokens", "Steps generated on the server.", registry=registry
        )
