"""How many connections there may be, and how long one may say nothing that is a call."""

from collections.abc import Sequence

_OTHERS = 512  # descriptors for everything else: HTTP has 128 connections, the store and models


def connection_options(
    most: int, *, handshake_timeout_s: float, max_idle_s: float
) -> Sequence[tuple[str, int]]:
    """The options of gRPC's servers for peers that connect and do nothing.

    Args:
        most: connections at once; gRPC closes new ones beyond them.
        handshake_timeout_s: for the handshakes of TLS and HTTP/2, the answer to our settings too.
        max_idle_s: a connection without a call is ended after it.
    """
    handshake_ms = max(1, round(1000 * handshake_timeout_s))
    return (
        ("grpc.max_allowed_incoming_connections", most),
        ("grpc.server_handshake_timeout_ms", handshake_ms),
        ("grpc.http2.settings_timeout", handshake_ms),
        ("grpc.max_connection_idle_ms", max(1, round(1000 * max_idle_s))),
    )


def most_connections(wanted: int, descriptors: int | None) -> int:
    """How many connections there is room for, where a process may have so many descriptors.

    Without one gRPC takes no connection at all, and nobody else can open a file.
    """
    if descriptors is None:
        return wanted
    return max(1, min(wanted, max(descriptors - _OTHERS, descriptors // 4)))
