"""Calls of paths that nobody serves, kept away from gRPC's own loop.

gRPC's Python server (1.85) falls when the path of a call is no UTF-8: it takes no connection any
more, and ends those that it has. Anybody can send such a path, without any token. Its loop decodes
the paths of methods alone that are not registered with it; so all that are served are registered,
and the others are taken here, where nobody looks at their paths.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import grpc

Answer = Callable[[Any], Awaitable[None]]
"""Ends a call of a path that nobody serves, of which it is given the context."""

try:
    cygrpc: Any = import_module("grpc._cython.cygrpc")
    _servers: Any = import_module("grpc.aio._server")
    _Core: Any = cygrpc.AioServer
    _is_known = hasattr(_Core, "_make_request_call_future") and hasattr(_Core, "_request_call")
except (ImportError, AttributeError):  # another build of gRPC: `Listener` replaces what falls
    _is_known = False


def make_server(options: Sequence[tuple[str, Any]], answer: Answer) -> grpc.aio.Server:
    """A server whose strays are answered so, where that can be; else gRPC's own."""
    if not _is_known:
        return grpc.aio.server(options=options)
    server: grpc.aio.Server = _server(options, answer)
    return server


def _server(options: Sequence[tuple[str, Any]], answer: Answer) -> Any:
    class Core(_Core):  # type: ignore[misc]
        """gRPC's server, whose loop hears of registered methods alone."""

        def _make_request_call_future(self, method: bytes | None) -> Any:
            if method is not None:
                return super()._make_request_call_future(method)
            return asyncio.get_running_loop().create_task(self._take_strays())

        async def _take_strays(self) -> None:
            """Never ends but by gRPC's own error, which its loop knows."""
            loop, answering = asyncio.get_running_loop(), set[asyncio.Task[None]]()
            while True:
                context = cygrpc._ServicerContext(await self._request_call(), None, None, loop)
                task = loop.create_task(_end(context))
                answering.add(task)
                task.add_done_callback(answering.discard)

    async def _end(context: Any) -> None:
        with suppress(Exception):  # how `abort` ends; or the client is gone
            await answer(context)

    class Server(_servers.Server):  # type: ignore[misc]
        """gRPC's, around that core."""

        def __init__(self) -> None:
            self._loop = cygrpc.get_working_loop()
            self._server = Core(self._loop, None, (), (), tuple(options), None)

    return Server()
