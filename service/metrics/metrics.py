"""Every metric the server exports, in base units."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from service.metrics.authentications import Authentications
from service.metrics.distributions import Distribution, Distributions
from service.metrics.principals import ByPrincipal
from service.metrics.process import show_build, show_process
from service.metrics.refusals import Refusals
from service.tls.files import TlsMaterial

_SECONDS = (
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
_TIERS = ("host", "store")
_CALL_SECONDS = (*_SECONDS[:-1], 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

disable_created_metrics()  # type: ignore[no-untyped-call]  # each series would have another one that says when it was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A metric as documents have it.

    Attributes:
        name: as it is on the page, without the endings of a histogram's series.
        kind: "counter", "gauge" or "histogram".
        labels: their names.
        meaning: one sentence or two.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TierMetrics:
    """Where to note what moves between the device and the other tiers, for one model.

    Attributes:
        evictions: sessions that had to leave.
        misses: that were out when something was asked of them, by tier.
        restore_s: how long they took to come back, by tier.
    """

    evictions: Counter
    misses: Mapping[str, Counter]
    restore_s: Mapping[str, Distribution]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMetrics:
    """What is noted of each batch of one model; see `Distribution` for how.

    Attributes:
        size: time steps that ran together.
        queue_s: what its first row waited.
        run_s: what the model took.
        reply_s: what handing the answers over took.
    """

    size: Distribution
    queue_s: Distribution
    run_s: Distribution
    reply_s: Distribution

    def count_noted(self) -> None:
        """Count what was only noted so far."""
        for found in (self.size, self.queue_s, self.run_s, self.reply_s):
            found.count_noted()


class Metrics:
    """The server's metrics in a registry of their own.

    Attributes:
        registry: all of them.
        described: each of ours, in order.
        refusals: what callers were refused, by reason.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        self._show_server()
        self._show_requests()
        self._show_steps()
        self._show_sessions()
        self._show_memory()
        self._show_store()
        show_process(self.registry)

    def _show_server(self) -> None:
        self.build_info = self._gauge(
            "cellar_build_info",
            "Always 1, with the versions of the server and of what it runs on.",
            ("version", "python", "onnxruntime", "grpc"),
        )
        show_build(self.build_info)
        self.device_info = self._gauge(
            "cellar_device_info",
            "1 for each device that models run on, with ONNX Runtime's name for its provider.",
            ("device", "provider"),
        )
        self.device_fallback = self._gauge(
            "cellar_device_fallback",
            "1 where the machine has a GPU and models run on its CPU all the same; else 0.",
        )
        self.certificate_expiry = self._gauge(
            "cellar_tls_certificate_expiry_timestamp_seconds",
            "When what TLS is served with ends, in seconds since 1970: the server's certificate or "
            "one of its chain, and the last of the authorities of clients; nothing without TLS.",
            ("certificate",),
        )
        self.model_available = self._gauge(
            "cellar_model_available",
            "1 for each version of a model that is served, 0 for one that cannot be.",
            ("model",),
        )

    def show_certificates(self, material: TlsMaterial) -> None:
        """Say until when certificates are valid."""
        self.certificate_expiry.labels("server").set(material.ends.timestamp())
        if material.client_ca_ends is not None:
            self.certificate_expiry.labels("client_ca").set(material.client_ca_ends.timestamp())

    def _show_requests(self) -> None:
        self.requests = self._counter(
            "cellar_requests",
            "Calls that ended, by method and status code; a stream is one call.",
            ("method", "code"),
        )
        self._request_seconds = self._distributions(
            "cellar_request_seconds",
            "Seconds from when a call's request is read until its reply is handed to gRPC; of "
            "Generate until its last piece is. Calls that last as long as their client likes "
            "(Stream, Watch) are not in it.",
            ("method", "model", "code_class"),
        )
        self.refusals = Refusals(
            self._describe(
                "cellar_refusals_total",
                "counter",
                "Calls that ended in an error, and rows of frames, attaches and resets that were "
                "refused alone, by the reason of the error; faults of the server too.",
                ("reason", "kind"),
            ),
            self._describe(
                "cellar_quota_refusals_total",
                "counter",
                "Calls, and rows of frames, that were refused as their principal has or does as "
                "much as it may, by the quota.",
                ("principal", "quota"),
            ),
        )
        self.registry.register(self.refusals)
        self.authentications = Authentications(
            *self._describe(
                "cellar_authentications_total",
                "counter",
                "Calls and requests that wanted a token, by the port and what became of them: ok, "
                "none, wrong (unknown or revoked ones too), expired. Without --tokens none do.",
                ("port", "result"),
            )
        )
        self.registry.register(self.authentications)
        self.tokens_file_ok = self._gauge(
            "cellar_tokens_file_ok",
            "1 while the file of tokens can be used, 0 while that of before holds since it cannot; "
            "1 without --tokens.",
        )
        self.tokens_file_ok.set(1)
        self.waiting_calls = self._gauge(
            "cellar_waiting_calls", "Calls that wait inside gRPC to be accepted."
        )
        self.streams = self._gauge("cellar_streams", "Streams that are open.", ("model",))
        self.attached_channels = self._gauge(
            "cellar_attached_channels",
            "Channels of open streams that stand for sessions.",
            ("model",),
        )

    def _show_steps(self) -> None:
        self.steps = self._counter(
            "cellar_steps",
            "Time steps applied, forecast paths and whole sequences included; replayed and dry "
            "ones are not.",
            ("model",),
        )
        self.principal_steps = ByPrincipal(
            CounterMetricFamily,
            *self._describe(
                "cellar_principal_steps_total",
                "counter",
                "Time steps taken of each principal, by what counts for its quota.",
                ("principal",),
            ),
        )
        self.registry.register(self.principal_steps)
        self.principal_sessions = ByPrincipal(
            GaugeMetricFamily,
            *self._describe(
                "cellar_principal_sessions",
                "gauge",
                "Sessions that are open of each principal.",
                ("principal",),
            ),
        )
        self.registry.register(self.principal_sessions)
        self.generated_tokens = self._counter(
            "cellar_generated_tokens",
            "Time steps drawn by Generate, of series models too.",
        )
        self.replayed_steps = self._counter(
            "cellar_replayed_steps",
            "Rows (one session in one request or frame) answered with the stored reply.",
        )
        self.position_conflicts = self._counter(
            "cellar_position_conflicts",
            "Rows (one session in one request or frame) refused with POSITION_MISMATCH or "
            "STEP_CONFLICT.",
        )
        self.overloaded_steps = self._counter(
            "cellar_overloaded_steps",
            "Time steps refused with OVERLOADED, as those before them would have run too long.",
            ("model",),
        )
        self.pending_steps = self._gauge(
            "cellar_pending_steps", "Time steps queued or running.", ("model",)
        )
        self._batch_size = self._distributions(
            "cellar_batch_size", "Time steps that ran together, by batch.", ("model",)
        )
        self._step_seconds = self._distributions(
            "cellar_step_seconds",
            "Seconds of one batch by phase: its first row's wait (queue), the model (run), handing "
            "the answers over (reply).",
            ("model", "phase"),
        )
        self._batches: dict[str, BatchMetrics] = {}

    def _show_sessions(self) -> None:
        self.sessions = self._gauge(
            "cellar_sessions",
            "Sessions that hold a slot: open ones, and closed ones whose last batch still runs.",
            ("model", "tier"),
        )
        self.session_capacity = self._gauge(
            "cellar_session_capacity", "Sessions that can be open at once.", ("model",)
        )
        self.session_events = self._counter(
            "cellar_session_events",
            "Sessions that were opened, closed or upgraded, or expired.",
            ("event",),
        )
        for event in (
            "opened",
            "closed",
            "expired",
            "upgraded",
        ):  # so that the first is an increase, too
            self.session_events.labels(event)
        self.state_bytes = self._gauge(
            "cellar_state_bytes",
            "Bytes of state of the sessions in cellar_sessions.",
            ("model", "tier"),
        )
        self._tier_misses = self._counter(
            "cellar_tier_misses",
            "Sessions whose state was out of the device when something was asked of them, by where "
            "it was: host or store.",
            ("model", "tier"),
        )
        self._evictions = self._counter(
            "cellar_evictions",
            "Sessions whose state had to leave the device for others, to host memory or the store.",
            ("model",),
        )
        self._restore_seconds = self._distributions(
            "cellar_restore_seconds",
            "Seconds from when a session whose state was out was asked for until it was back, by "
            "where it was: the wait for a row on the device, and for what was to be read again.",
            ("model", "tier"),
        )

    def _show_memory(self) -> None:
        self.buffered_bytes = self._gauge(
            "cellar_buffered_bytes",
            "Bytes that callers have the server hold, by kind; --buffer-memory limits their sum.",
            ("kind",),
        )
        self.history_bytes = self._gauge(
            "cellar_history_bytes",
            "Bytes that sessions' histories take in memory; --history-memory limits them.",
        )
        self.limit_bytes = self._gauge(
            "cellar_limit_bytes",
            "Limits that were set, by the setting's name: buffer_memory, history_memory, and with "
            "a store max_undurable_bytes and journal_bytes.",
            ("setting",),
        )

    def _show_store(self) -> None:
        self.store_bytes = self._gauge(
            "cellar_store_bytes",
            "Bytes of the sessions' rows and checkpoints in the store.",
        )
        self.store_free_bytes = self._gauge(
            "cellar_store_free_bytes",
            "Bytes that are free on the store's disk, for whoever runs the server; without a "
            "store there is no series.",
            ("store",),
        )
        self.journal_bytes = self._gauge(
            "cellar_journal_bytes",
            "Bytes of the store's journal that are needed.",
        )
        self.undurable_bytes = self._gauge(
            "cellar_undurable_bytes",
            "Memory of what is not in the store's journal yet; --max-undurable-bytes limits it.",
        )
        journal_seconds = self._distributions(
            "cellar_journal_seconds",
            "Seconds that one write of the store's journal took, until it was on the disk.",
        )
        self.journal_seconds = journal_seconds.add((), _SECONDS)
        self.restored_sessions = self._gauge(
            "cellar_restored_sessions",
            "Sessions that were in the store at the start, by what has become of them: cold (not "
            "brought back yet), restored (each time counts), set_aside (could not be), other_model "
            "(its file is not served).",
            ("state",),
        )

    def batches(self, model: str) -> BatchMetrics:
        """Where to note the batches of a model, by its name and version."""
        found = self._batches.get(model)
        if found is None:
            phase = self._step_seconds.add
            found = self._batches[model] = BatchMetrics(
                size=self._batch_size.add((model,), _SIZES),
                queue_s=phase((model, "queue"), _SECONDS),
                run_s=phase((model, "run"), _SECONDS),
                reply_s=phase((model, "reply"), _SECONDS),
            )
        return found

    def tiers(self, model: str) -> TierMetrics:
        """Where to note which sessions of a model leave the device, and come back."""
        return TierMetrics(
            evictions=self._evictions.labels(model),
            misses={tier: self._tier_misses.labels(model, tier) for tier in _TIERS},
            restore_s={tier: self._restore_seconds.add((model, tier), _SECONDS) for tier in _TIERS},
        )

    def request_seconds(self, method: str, model: str, code_class: str) -> Distribution:
        """Where to note what calls take, by three labels of which there are few."""
        return self._request_seconds.add((method, model, code_class), _CALL_SECONDS)

    # -- how metrics are made -------------------------------------------------------------

    def _describe(
        self, name: str, kind: str, meaning: str, labels: tuple[str, ...]
    ) -> tuple[str, str]:
        self.described.append(Described(name=name, kind=kind, labels=labels, meaning=meaning))
        return name, meaning

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Gauge:
        self._describe(name, "gauge", meaning, labels)
        return Gauge(name, meaning, labels, registry=self.registry)

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
        self._describe(f"{name}_total", "counter", meaning, labels)
        return Counter(name, meaning, labels, registry=self.registry)

    def _distributions(
        self, name: str, meaning: str, labels: tuple[str, ...] = ()
    ) -> Distributions:
        found = Distributions(*self._describe(name, "histogram", meaning, labels), labels)
        self.registry.register(found)
        return found
