"""HTTP/2 as strangers speak it: frames by hand, for peers that no client library would be."""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4


def connect(port: int, *, window: int | None = None) -> socket.socket:
    """A connection that never answers anything; ``window`` is how much it lets a call send it."""
    settings = b"" if window is None else struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))
    return peer


def call(
    peer: socket.socket, path: bytes, message: bytes = b"", *, authorization: bytes | None = None
) -> None:
    """The first call on a connection, with its message."""
    data = b"\x00" + struct.pack(">I", len(message)) + message
    peer.sendall(_head(path, authorization) + _frame(_DATA, _END_STREAM, 1, data))


def half_call(peer: socket.socket, path: bytes, *, length: int, sent: bytes = b"") -> None:
    """The first call on a connection, whose message of a length does not come to its end."""
    more(peer, b"", _head(path))
    more(peer, b"\x00" + struct.pack(">I", length) + sent)


def more(peer: socket.socket, data: bytes, before: bytes = b"") -> None:
    """What comes next of the message of the first call."""
    peer.sendall(before + (_frame(_DATA, 0, 1, data) if data else b""))


def settle(peer: socket.socket) -> None:
    """The answer to the settings of the other side."""
    peer.sendall(_frame(_SETTINGS, _ACK, 0, b""))


def _head(path: bytes, authorization: bytes | None = None) -> bytes:
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"stranger",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    if authorization is not None:
        headers[b"authorization"] = authorization
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in headers.items()
    )
    return _frame(_HEADERS, _END_HEADERS, 1, block)


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
