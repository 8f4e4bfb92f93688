"""HTTP/2 as strangers speak it: frames by hand, for peers that no client library would be."""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4


def connect(port: int, *, window: int | None = None) -> socket.socket:
    """A connection that never answers anything; ``window`` is how much it lets a call send it."""
    settings = b"" if window is None else struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))
    return peer


def call(peer: socket.socket, path: bytes, message: bytes = b"") -> None:
    """The first call on a connection, with its message."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"stranger",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in headers.items()
    )
    data = b"\x00" + struct.pack(">I", len(message)) + message
    peer.sendall(_frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, data))


def ping(peer: socket.socket) -> None:
    """Asks whether the other side is there."""
    peer.sendall(_frame(_PING, 0, 0, bytes(8)))


def go_away(peer: socket.socket, reason: bytes) -> None:
    """The end of a connection, for a reason."""
    peer.sendall(_frame(_GOAWAY, 0, 0, struct.pack(">II", 0, 2) + reason))


def heard(peer: socket.socket) -> bytes:
    """Waits for whatever comes next."""
    return peer.recv(65_536)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload
