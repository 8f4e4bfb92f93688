"""An HTTP server on a thread and an event loop of its own.

So whoever asks holds up no step, and is answered where the server's own event loop is stuck.
Knows nothing of what its pages say.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ssl import SSLContext

from service.endpoint import Endpoint
from service.http.connection import Connection, Limits, Waits
from service.http.messages import Page
from service.http.streams import PlainStream, Stream, TlsStream

_BACKLOG = 1024
_LAST_WORDS_S = 0.3  # for answers that are under way at the end
_AGAIN_S = 0.02


class HttpServer:
    """Answers GET and HEAD requests, until it is closed.

    Attributes:
        port: where it listens; ``None`` on a Unix socket.

    Args:
        answer: the page of all paths; called on the server's thread, one request at a time.
        endpoint: where to listen.
        limits: what one who asks may take.
        tls: what TLS is served with, asked for each connection; ``None`` for no TLS.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(
        self,
        answer: Page,
        endpoint: Endpoint,
        *,
        limits: Limits | None = None,
        tls: Callable[[], SSLContext | None] = lambda: None,
    ) -> None:
        self._answer = answer
        self._tls = tls
        self._limits = limits or Limits()
        self._endpoint = endpoint
        self._socket = _listen(endpoint)
        self._file = endpoint.id_of_file()
        self.port: int | None = None if endpoint.path else self._socket.getsockname()[1]
        self._socket.setblocking(False)
        # The connections; and in the order of their waiting, those that wait for their peer.
        self._open: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], Waits] = {}
        self._closing = asyncio.Event()
        self._loop = asyncio.SelectorEventLoop()  # on Windows, the one with readers
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end every connection; returns when the thread has ended, soon."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._endpoint.remove(self._file)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._listen()
        await self._closing.wait()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for task, what in self._waiting.items():
            if what is not Waits.TO_BE_READ:
                task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=_LAST_WORDS_S)
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def _listen(self) -> None:
        if not self._closing.is_set():
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Take one connection; not by asyncio's server, which may lose one when it is closed."""
        try:
            peer, _ = self._socket.accept()
        except OSError:  # it is gone already, or the process has no descriptor left
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_AGAIN_S, self._listen)
            return
        if not self._has_room():
            peer.close()
            return
        task = asyncio.create_task(self._talk(peer))
        self._open.add(task)
        self._waiting[task] = Waits.TO_BE_ASKED
        task.add_done_callback(self._forget)
        task.add_done_callback(partial(_close, peer))

    def _has_room(self) -> bool:
        """Whether there is room for another connection, if need be that of who waits longest."""
        if len(self._open) < self._limits.connections:
            return True
        slowest = next(iter(self._waiting), None)
        if slowest is None:
            return False
        slowest.cancel()
        self._forget(slowest)
        return True

    async def _talk(self, peer: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=peer)
        task = asyncio.current_task()
        assert task is not None, "a connection is a task"

        def waits(what: Waits) -> None:
            if self._waiting.get(task) is what:  # since it was accepted: it keeps its place
                return
            self._waiting.pop(task, None)
            if what is not Waits.FOR_US and task in self._open:
                self._waiting[task] = what

        stream: Stream = PlainStream(reader, writer)
        context = self._tls()
        if context is not None:
            stream = TlsStream(stream, context)
        connection = Connection(stream, answer=self._answer, limits=self._limits, waits=waits)
        await connection.run()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._waiting.pop(task, None)


def _close(peer: socket.socket, task: asyncio.Task[None]) -> None:  # noqa: ARG001
    peer.close()


def _listen(endpoint: Endpoint) -> socket.socket:
    endpoint.check_free()
    if endpoint.path is None:
        host, port = endpoint.host, endpoint.port
        (family, *_), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::"
        )
    listener = socket.socket(socket.AF_UNIX)
    try:
        with endpoint.binding():
            listener.bind(os.fspath(endpoint.path))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
