"""A TCP proxy that breaks connections when told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes bytes on between clients and one server.

    Attributes:
        address: host:port, for clients.
        up: False swallows what clients send.
        down: False swallows what the server answers.
        passed: bytes that came through so far, both ways.
        broken: connections that were broken.
    """

    def __init__(self, port: int) -> None:
        """Listens; ``port`` is the server's."""
        self.up = True
        self.down = True
        self.passed = 0
        self.broken = 0
        self._port = port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._traffic = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def cut(self) -> None:
        """Breaks all connections; new ones pass everything."""
        with self._lock:
            self.up = self.down = True
            pairs, self._pairs = self._pairs, []
            self.broken += len(pairs)
        for pair in pairs:
            for each in pair:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def wait_for(self, passed: int, timeout_s: float) -> bool:
        """Waits until so many bytes have come through; False when they do not."""
        with self._traffic:
            return self._traffic.wait_for(lambda: self.passed >= passed, timeout_s)

    def close(self) -> None:
        """Breaks all connections, and takes no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            self._start(self._pass, client, server, "up")
            self._start(self._pass, server, client, "down")

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                with self._lock:
                    passes = self.up if way == "up" else self.down
                if passes:
                    target.sendall(data)
                with self._traffic:
                    self.passed += len(data)
                    self._traffic.notify_all()
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        if way == "down":  # both ways have ended, or do now
            for each in (source, target):
                each.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """A proxy for the length of a block."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
