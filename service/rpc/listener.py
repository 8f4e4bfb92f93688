"""The port or socket, and the gRPC server that serves it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import structlog

from service.endpoint import Endpoint
from service.rpc.strays import Answer, make_server

_log = structlog.get_logger("cellar")
_LOGGER = logging.getLogger("grpc._cython.cygrpc")
_LOOK_S = 0.01  # gRPC's server tells that it fell when somebody has waited that long for its end
_AGAIN_S = 0.01
_PATIENCE_S = 7 * 24 * 3600.0  # for what runs on one that fell
_GONE_S = 2.0  # within that, gRPC removes the socket file of a server that is stopped
_CLOSE_S = 0.3  # beyond the grace; gRPC tells when the last connection is closed, we do not wait


def keepalive_options(keepalive_s: float, min_ping_s: float) -> Sequence[tuple[str, int]]:
    """The options of gRPC's servers for peers that say nothing.

    Args:
        keepalive_s: a connection that was silent for so long is asked whether it is there, with or
            without calls, and ended when it does not answer for as long again.
        min_ping_s: clients may ping as often, with or without calls.
    """
    silent_ms = max(1, round(1000 * keepalive_s))
    return (
        ("grpc.keepalive_time_ms", silent_ms),
        ("grpc.keepalive_timeout_ms", silent_ms),
        ("grpc.http2.ping_timeout_ms", silent_ms),  # the answer to any other ping: a minute else
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # no end to asking
        ("grpc.http2.min_ping_interval_without_data_ms", round(1000 * min_ping_s)),
    )


class Listener:
    """Serves on one port or socket file until it is stopped.

    Where gRPC's Python server falls, see `strays`, it takes no connection any more, and says so in
    nobody's call; another one then takes the port over. What runs on the one that fell is finished
    there.

    Args:
        options: of gRPC's servers.
        add: registers the services with a server.
        stray: ends calls of paths that nobody serves.
        credentials: for each that takes the port, what TLS is served with; ``None`` for no TLS.
    """

    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        add: Callable[[grpc.aio.Server], None],
        *,
        stray: Answer,
        credentials: Callable[[], grpc.ServerCredentials] | None = None,
    ) -> None:
        self._options = options
        self._stray = stray
        self._add = add
        self._credentials = credentials
        self._server = self._make()
        self._fallen: dict[grpc.aio.Server, asyncio.Task[None]] = {}  # with what ends them
        self._watch: asyncio.Task[None] | None = None
        self._endpoint: Endpoint | None = None
        self._file: int | None = None
        self._complaints: _Complaints | None = None

    async def start(self, endpoint: Endpoint) -> int:
        """Listen; returns the port, 0 for a socket file.

        Raises:
            OSError: the port or the file cannot be had.
        """
        endpoint.check_free()
        try:
            port = self._bind(endpoint)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {endpoint}") from error
        await self._server.start()
        if endpoint.path is None:
            endpoint = Endpoint(endpoint.host, port)
        self._endpoint = endpoint
        self._complaints = _Complaints(asyncio.get_running_loop())
        _LOGGER.addHandler(self._complaints)
        self._watch = asyncio.create_task(self._keep(endpoint, self._complaints))
        return endpoint.port if endpoint.path is None else 0

    async def stop(self, grace_s: float) -> None:
        """Take no calls any more, and close every connection, in little more than the grace.

        Clients that end theirs well make it shorter; nobody makes it longer.
        """
        if self._complaints is not None:
            _LOGGER.removeHandler(self._complaints)
        for task in (self._watch, *self._fallen.values()):
            if task is not None:
                task.cancel()
        servers = [self._server, *self._fallen]
        stops = [asyncio.create_task(server.stop(grace_s)) for server in servers]
        await asyncio.wait(stops, timeout=grace_s + _CLOSE_S)
        if self._endpoint is not None:
            self._endpoint.remove(self._file)

    def _make(self) -> grpc.aio.Server:
        server = make_server(self._options, self._stray)
        self._add(server)
        return server

    def _bind(self, endpoint: Endpoint) -> int:
        with endpoint.binding():
            if self._credentials is None:
                port: int = self._server.add_insecure_port(str(endpoint))
            else:
                port = self._server.add_secure_port(str(endpoint), self._credentials())
        self._file = endpoint.id_of_file()
        return port

    async def _keep(self, endpoint: Endpoint, complaints: "_Complaints") -> None:
        while True:
            await complaints.wait()
            try:
                await self._server.wait_for_termination(_LOOK_S)
            except Exception as fault:
                _log.error("the server fell, and another takes over", error=type(fault).__name__)
                await self._replace(endpoint)

    async def _replace(self, endpoint: Endpoint) -> None:
        fallen = self._server
        self._fallen[fallen] = asyncio.create_task(self._bury(fallen))
        # gRPC removes a socket file by its name: the new one must not be there yet.
        for _ in range(round(_GONE_S / _AGAIN_S)):
            if endpoint.id_of_file() is None:
                break
            await asyncio.sleep(_AGAIN_S)
        while True:
            self._server = self._make()
            try:
                self._bind(endpoint)
            except RuntimeError:  # it is not free yet
                await asyncio.sleep(_AGAIN_S)
            else:
                await self._server.start()
                return

    async def _bury(self, fallen: grpc.aio.Server) -> None:
        await fallen.stop(_PATIENCE_S)
        del self._fallen[fallen]


class _Complaints(logging.Handler):
    """Hears what gRPC's server has to say: that it fell, it says in its log alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.ERROR)
        self._loop = loop
        self._heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        self._loop.call_soon_threadsafe(self._heard.set)

    async def wait(self) -> None:
        """Wait until something is said."""
        await self._heard.wait()
        self._heard.clear()
