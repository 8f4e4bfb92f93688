"""Every setting and every limit, once. Where they are read from is not known here."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

import models
from service.settings.values import Level, OrNone, OrZero, Seconds, Size, Word, is_nothing

MOST_SESSIONS = 50_000_000
STOCK_MESSAGE_BYTES = 4 * 2**20
"""What a gRPC client takes in one message unless it is told otherwise."""
ZOO = Path(models.__file__).parent / "zoo"


class Durability(StrEnum):
    """What a reply to a step promises, where there is a store."""

    NONE = "none"
    INTERVAL = "interval"
    COMMIT = "commit"


class EngineSettings(BaseModel):
    """Limits of the engine."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    max_sessions: int = Field(default=100_000, ge=1, le=MOST_SESSIONS)
    """Sessions per model whose state is on the device at once; idle ones make room for others, see
    host_memory. Memory is taken as sessions are opened, not in advance."""
    state_memory: Annotated[Annotated[Size, Field(ge=1)] | None, OrNone] = None
    """Memory on the device for the state of each model's sessions, such as 4GiB; sets max_sessions
    by it."""
    host_memory: Annotated[Size, OrZero] = Field(default=256 * 2**20, ge=0)
    """Memory of the host for the state of each model's sessions that are idle while the device has
    no room, such as 4GiB. Without a store, so many more can be open; with one, their states go
    there when it is full. 0: they leave the device for the store alone."""
    max_open_sessions: int = Field(default=1_000_000, ge=1, le=MOST_SESSIONS)
    """Sessions per model that can be open, wherever their state is; at least max_sessions."""
    spare_slots: int = Field(default=2048, ge=1)
    """Rows borrowed by the sampled paths of forecasts in progress."""
    max_batch: int = Field(default=512, ge=1, le=8192)
    """Steps that run together at most."""
    chunk_steps: int = Field(default=16, ge=1)
    """Time steps of one session that run together at most; a longer request is cut."""
    max_pending_steps: int = Field(default=200_000, ge=1)
    """Steps queued per shard of a model, or for its whole sequences; beyond it requests are refused
    with RESOURCE_EXHAUSTED. Of models that predict many numbers fewer, so that they fit into a half
    of the buffer memory."""
    max_queue_s: Seconds = Field(default=0.25, gt=0)
    """The longest that steps may be expected to wait for others; who has queued more than that is
    refused with RESOURCE_EXHAUSTED, and told when to try again."""
    max_request_steps: int = Field(default=10_000, ge=1)
    """Time steps of one session, or of one whole sequence, in one request."""
    max_frame_steps: int = Field(default=65_536, ge=1)
    """Steps of all sessions in one frame, or of all sequences in one prediction."""
    max_attach_sessions: int = Field(default=65_536, ge=1)
    """Sessions attached to a stream, or reset on one, by one message."""
    max_channels: int = Field(default=2**20, ge=1, le=2**20)
    """Channel numbers of a stream are below this."""
    max_stream_steps: int = Field(default=16_384, ge=1)
    """Steps a stream may have answered that are not sent, before reading from it stops."""
    max_id_length: int = Field(default=128, ge=32, le=1024)
    """Characters of a session's id."""
    buffer_memory: Size = Field(default=512 * 2**20, ge=2**20)
    """Memory for what callers have the server hold, such as 4GiB: queued requests, replies that are
    not read or may be repeated, channel tables. One connection holds a half at most; beyond all of
    it the stream that holds most is ended, and requests are refused with RESOURCE_EXHAUSTED."""
    max_history_bytes: Size = Field(default=256 * 2**20, ge=0)
    """Of the buffer memory, for replies of several predictions, until their sessions go on."""
    history_steps: Annotated[int, OrZero] = Field(default=0, ge=0)
    """What a session keeps of what it read, in steps, so that it can be rewound and forked there,
    where it does not say itself; 0 keeps nothing."""
    history_memory: Size = Field(default=256 * 2**20, ge=0)
    """Memory for what sessions keep of what they read; beyond it none begins to keep any, and those
    that do take no steps, with RESOURCE_EXHAUSTED."""
    max_levels: int = Field(default=100, ge=1, le=2**14)
    """Quantile levels in one request."""
    max_message_bytes: Size = Field(default=16 * 2**20, ge=1024)
    """The largest message accepted or sent. Stock gRPC clients take 4 MiB unless told otherwise;
    what can come in several messages comes in such."""
    max_generate_steps: int = Field(default=100_000, ge=1)
    """Steps of one generation."""
    max_stop_strings: int = Field(default=16, ge=0)
    """Stop strings of one generation: each is looked for after every step."""
    max_stop_length: int = Field(default=256, ge=1)
    """Characters of a stop string."""
    max_horizon: int = Field(default=10_000, ge=1)
    """Steps ahead of one forecast."""
    max_paths: int = Field(default=1000, ge=1)
    """Sampled paths of one forecast."""
    default_paths: int = Field(default=200, ge=1)
    """Sampled paths of a forecast that does not say how many."""
    idle_timeout_s: Seconds = Field(default=3600.0, gt=0)
    """A session that is idle for longer expires."""
    max_idle_timeout_s: Seconds = Field(default=7 * 24 * 3600.0, gt=0)
    """The longest idle timeout a caller may ask for."""
    ephemeral_grace_s: Seconds = Field(default=10.0, gt=0)
    """An ephemeral session that is on no stream ends when it has been idle for longer."""
    remembered_sessions: int = Field(default=100_000, ge=0)
    """Closed and expired ids that are told from unknown ones."""
    durability: Annotated[Durability, Word] = Durability.COMMIT
    """With a store: "commit" answers a step when it is on the disk; "interval" answers at once, and
    what the last moments brought may be lost in a crash; "none" keeps sessions when the server is
    stopped, and what came since then is lost in a crash."""
    max_undurable_bytes: Size = Field(default=64 * 2**20, ge=2**16)
    """Of what waits to be written to the store; beyond it steps are refused with
    RESOURCE_EXHAUSTED."""
    store_timeout_s: Seconds = Field(default=2.0, gt=0)
    """Steps are refused with UNAVAILABLE when the store has not answered for so long."""
    checkpoint_steps: int = Field(default=1024, ge=1)
    """A session that has read so many steps since its checkpoint gets a new one: what the first
    touch after a crash may cost."""
    recovery_s: Seconds = Field(default=30.0, gt=0)
    """How long it may take to read again what came after the checkpoints, of one shard."""
    journal_bytes: Size = Field(default=2**30, ge=2**20)
    """The journal may take so much of the disk; checkpoints are written to keep it so."""
    checkpoint_share: float = Field(default=0.05, gt=0, le=1)
    """Of a core, for checkpoints; the limit of the journal goes before it."""
    erase_s: Annotated[Seconds, OrZero] = Field(default=3600.0, ge=0)
    """What a session has read is in no file of the store so long after its end, and the time that
    writing the files anew takes; 0 leaves it there until its room is used again."""
    strict_replay: bool = False
    """Refuse to start where what sessions have read would be read again with another arithmetic,
    such as on another device; else their last replies are not repeated, and it is logged."""
    inline_run_s: Seconds = Field(default=0.0025, ge=0)
    """Batches expected to run for less than this run on the event loop, without a thread hop."""

    @property
    def part_bytes(self) -> int:
        """The largest message that is sent where several would do."""
        return min(self.max_message_bytes, STOCK_MESSAGE_BYTES)

    @model_validator(mode="after")
    def _fits(self) -> "EngineSettings":
        if self.chunk_steps > self.max_batch:
            raise ValueError("chunk_steps must not exceed max_batch: lower it or raise max_batch")
        if self.max_paths > self.spare_slots:
            raise ValueError("max_paths must not exceed spare_slots: each path borrows a slot")
        if self.default_paths > self.max_paths:
            raise ValueError("default_paths must not exceed max_paths")
        if self.idle_timeout_s > self.max_idle_timeout_s:
            raise ValueError("idle_timeout_s must not exceed max_idle_timeout_s: raise that too")
        return self


class Settings(EngineSettings):
    """All that can be set of a server."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    config: Path | None = None
    """A TOML file with any of these settings."""
    models: Path = ZOO
    """The model repository: <models>/<name>/<version>/model.onnx."""
    strict: bool = False
    """Refuse to start where a model in the repository cannot be served; else it is listed as
    unavailable, with its reason, and the others are served."""
    load_timeout_s: Seconds = Field(default=120.0, gt=0)
    """How long it may take to load a model file that did not come with Cellar, and to run it once,
    in a process of its own; a file that takes longer is unavailable."""
    load_memory: Size = Field(default=4 * 2**30, ge=2**28)
    """Memory that this may take; a file that takes more is unavailable."""
    max_model_bytes: Size = Field(default=2**30, ge=2**10, lt=2**31)
    """The largest model, with the weights that it keeps in other files."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 or :: for all, unix:PATH for a socket file."""
    port: int = Field(default=8001, ge=0, le=65535)
    """gRPC port; 0 lets the system choose. A socket file has none."""
    metrics_port: Annotated[Annotated[int, Field(ge=0, le=65535)] | None, OrNone] = 9090
    """HTTP port, for /metrics, /livez and /readyz; 0 lets the system choose, "off" serves none."""
    metrics_host: str | None = None
    """Address of the HTTP port, or unix:PATH for a socket; that of gRPC unless told otherwise."""
    tokens: Path | None = None
    """The file of tokens, see cellar-serve token: every call needs one, but for health. It is read
    again when it changes."""
    snapshot_key: Path | None = None
    """A file with a key of 32 bytes or more: sessions' snapshots are signed with it, and only such
    are imported. It is read again when it changes."""
    require_auth: bool = False
    """Refuse to start where other machines can reach the server without a token, or would send
    theirs as plain text."""
    store: str = "memory"
    """Where what sessions have read is kept: "memory", so that they end with the process, or
    "lmdb:PATH", a folder, so that they outlive it."""
    precision: Annotated[Literal["fp32", "int8"], Word] = "fp32"
    """Arithmetic of the recurrent products; int8 is faster and costs a little accuracy, which is
    logged when a model is loaded."""
    shards: Annotated[Annotated[int, Field(ge=1, le=1024)] | Literal["auto"], Word] = "auto"
    """Parts a model's sessions are spread over, each with an arena and a worker thread of its own;
    "auto" takes one per core for models that keep a core busy, else one."""
    device: str = "auto"
    """Where models run: "cpu", "cuda:N", or several as "cuda:0,cuda:1" with the sessions spread
    over them; "auto" takes the first GPU that ONNX Runtime can use, else the CPU."""
    deterministic: bool = False
    """On GPUs, run every batch at its largest size, so that a session's numbers do not depend on
    how many others run with it. On the CPU they never do."""
    tf32: bool = False
    """On GPUs, let products round their factors to 10 bits: faster, and less exact."""
    tls_cert: Path | None = None
    """Serve TLS with this certificate, PEM, with those between it and its authority; it is read
    again when it changes, and so are the other two. TLS 1.2 and newer, on the HTTP port too."""
    tls_key: Path | None = None
    """The key of the certificate: PEM, not encrypted."""
    tls_client_ca: Path | None = None
    """Clients of gRPC must show a certificate of one of the authorities in this file, PEM; the HTTP
    port never asks for one."""
    max_connections: int = Field(default=10_000, ge=1)
    """Connections to the gRPC port at once, of those that have not said anything yet too; beyond
    them, or what the limit of descriptors has room for, new ones are closed at once."""
    handshake_timeout_s: Seconds = Field(default=10.0, gt=0, le=3600)
    """How long a new connection may take for the handshakes of TLS and HTTP/2."""
    max_connection_idle_s: Seconds = Field(default=300.0, gt=0, le=86_400)
    """A connection that has had no call for so long is ended; clients connect anew."""
    receive_timeout_s: Seconds = Field(default=60.0, gt=0, le=86_400)
    """How long a request may take to come, from its first byte on, and the first of a stream."""
    max_connection_calls: int = Field(default=1000, ge=1)
    """Concurrent calls per connection, streams included; more of them wait in the client, which is
    the one place where they cost the server nothing."""
    keepalive_s: Seconds = Field(default=20.0, gt=0, le=86_400)
    """A connection that was silent for so long is asked whether its client is there; without an
    answer for as long again it ends, and its calls with it."""
    min_ping_s: Seconds = Field(default=5.0, ge=0, le=86_400)
    """Clients may ping so often, also without calls; a connection that pings more often ends."""
    drain_timeout_s: Seconds = Field(default=20.0, ge=0)
    """After SIGTERM, how long running calls may take to finish."""
    drain_delay_s: Annotated[Seconds, OrZero] = Field(default=0.0, ge=0)
    """After SIGTERM, how long new calls are refused, and told so, before the port is closed: the
    time that load balancers take to notice."""
    reflection: bool = True
    """Serve gRPC reflection."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Level] = "info"
    """The least severe log entries that are written."""
    log_format: Annotated[Literal["console", "json"], Word] = "console"
    """Log entries for people or for machines."""
    access_log: bool = False
    """Write an entry at the end of each call: method, code, seconds, caller, session, bytes."""

    @field_validator("store", mode="before")
    @classmethod
    def _nowhere(cls, value: object) -> object:
        return "memory" if is_nothing(value) else value

    @field_validator("store")
    @classmethod
    def _somewhere(cls, value: str) -> str:
        kind, _, path = value.partition(":")
        if value == "memory" or (kind == "lmdb" and path):
            return value
        raise ValueError('say "memory", or "lmdb:PATH" with the path of a folder')

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        value = value.strip().lower()
        if value in ("auto", "cpu"):
            return value
        names = value.split(",")
        if not all(re.fullmatch(r"cuda(:\d{1,4})?", name) for name in names):
            raise ValueError('say "auto", "cpu", "cuda:0", or several as "cuda:0,cuda:1"')
        if len(names) > len({name.removesuffix(":0") for name in names}):
            raise ValueError("name each GPU once")
        return value

    @field_validator("host", "metrics_host")
    @classmethod
    def _bare(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value.startswith("unix:"):
            if value.rstrip("/") == "unix:" or not value.isprintable():
                raise ValueError("name the file of the socket, such as unix:/run/cellar.sock")
            return value
        host = value.removeprefix("[").removesuffix("]")
        if not host:
            raise ValueError("name an address; 0.0.0.0 or :: for all")
        return host
