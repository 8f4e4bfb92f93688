"""What stands at an address: a server, or one of the things that are there by mistake."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Act = Callable[["Front", socket.socket], None]
# What OpenSSL says to a client that speaks no TLS.
_ALERT = bytes.fromhex("15030100020246")


class Front:
    """Takes connections, and does with each what it is told.

    Attributes:
        port: where it listens; address: host:port.
        act: what becomes of connections from now on.
        lives_for: bytes from clients that ``dies`` lets through.
    """

    def __init__(self, port: int) -> None:
        """Passes connections on to a server's port, until told otherwise."""
        self.act: Act = passes
        self.lives_for = 600
        self.passes = True
        self._server = port
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def turn(self, act: Act | None) -> None:
        """Breaks what there is; ``None`` listens no more."""
        if act is None:
            self._stop_listening()
        else:
            self.act = act
        found, self._open = self._open, []
        for each in found:
            _end(each)

    def vanish(self) -> None:
        """Swallow all that comes, and end nothing: a cable that was cut."""
        self.passes = False

    def connect(self, client: socket.socket) -> socket.socket:
        """A connection to the server, and what it answers passed on."""
        server = socket.create_connection(("127.0.0.1", self._server))
        self.keep(server)
        threading.Thread(target=_pass, args=(self, server, client), daemon=True).start()
        return server

    def keep(self, connection: socket.socket) -> None:
        """It is broken when there is a turn."""
        self._open.append(connection)

    def close(self) -> None:
        """Ends everything."""
        self.turn(None)

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.keep(connection)
                threading.Thread(target=self._begin, args=(connection,), daemon=True).start()

    def _begin(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self.act(self, connection)


def passes(front: Front, client: socket.socket) -> None:
    """A server."""
    _pass(front, client, front.connect(client))


def dies(front: Front, client: socket.socket) -> None:
    """A server that dies in the middle."""
    server, passed = front.connect(client), 0
    while data := client.recv(65_536):
        passed += len(data)
        server.sendall(data)
        if passed > front.lives_for:
            break
    _end(client)
    _end(server)


def is_silent(front: Front, client: socket.socket) -> None:
    """Takes everything, and says nothing."""
    while client.recv(65_536):
        pass


def is_web_server(front: Front, client: socket.socket) -> None:
    """Speaks HTTP/1.1."""
    client.recv(65_536)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    _end(client)


def wants_tls(front: Front, client: socket.socket) -> None:
    """Speaks TLS."""
    client.recv(65_536)
    client.sendall(_ALERT)
    _end(client)


def closes(front: Front, client: socket.socket) -> None:
    """Closes at once."""
    _end(client)


@contextmanager
def front_of(port: int) -> Iterator[Front]:
    """One for the length of a block."""
    front = Front(port)
    try:
        yield front
    finally:
        front.close()


def _pass(front: Front, source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            if front.passes:
                target.sendall(data)
    if not front.passes:
        return
    _end(source)
    _end(target)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
