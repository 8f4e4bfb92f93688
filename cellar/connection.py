"""What every connection to a server has: where the server is, gRPC's options, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Metadata = Sequence[tuple[str, str]]
WireMetadata = tuple[tuple[str, str | bytes], ...]
Options = Sequence[tuple[str, Any]]

DEFAULT_SERVER = "localhost:8001"

CHANNEL_OPTIONS: Options = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Room for large frames; and a lost server is looked for often, since retries are bounded."""


def call_metadata(metadata: Metadata, session_id: str = "") -> WireMetadata:
    """The metadata of a call; a proxy may route by the session's id."""
    return (*metadata, ("x-session-id", session_id)) if session_id else tuple(metadata)
