"""Health, whose watchers hear the last word and do not hold up the server's end."""

import asyncio
from typing import Any

from grpc_health.v1.health import aio as health_aio

_LAST_WORD_S = 0.5  # for the message that says NOT_SERVING


class HealthServicer(health_aio.HealthServicer):  # type: ignore[misc]
    """``grpc.health.v1`` whose ``Watch`` calls, endless otherwise, end when told to."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    def end_watches(self) -> None:
        """Let every watcher hear the latest status, and end its call."""
        self._ending.set()

    async def Watch(self, request: Any, context: Any) -> None:
        """See the service's definition."""
        await context.send_initial_metadata(())  # so that the call can end, whatever it reads
        whole = _WholeWrites(context)
        watch = asyncio.create_task(super().Watch(request, whole))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((watch, ending), return_when=asyncio.FIRST_COMPLETED)
            if not watch.done():
                await asyncio.wait((watch,), timeout=_LAST_WORD_S)
        finally:
            ending.cancel()
            watch.cancel()
            await asyncio.gather(watch, ending, return_exceptions=True)
            await whole.end()


class _WholeWrites:
    """A call whose messages are written to their end, though whoever writes them is cancelled."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._writing: asyncio.Future[None] | None = None

    async def write(self, message: Any) -> None:
        """Write a message."""
        self._writing = asyncio.ensure_future(self._context.write(message))
        await asyncio.shield(self._writing)

    async def end(self) -> None:
        """Wait for the write under way, if the client reads."""
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=_LAST_WORD_S)
            self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())
