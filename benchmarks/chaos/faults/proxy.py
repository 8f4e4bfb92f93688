"""A TCP proxy between callers and the server, which cuts, delays and swallows."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

_AT_ONCE = 65_536


@dataclass(eq=False, slots=True)
class Link:
    """One connection of a caller's, and its twin to the server.

    Attributes:
        passes: cleared while bytes wait; they are delivered late, even to a caller who has gone.
        is_hole: what is sent is swallowed.
    """

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    passes: asyncio.Event = field(default_factory=asyncio.Event)
    is_hole: bool = False

    def cut(self) -> None:
        """Break it, with a reset."""
        for writer in self.writers:
            writer.transport.abort()
        self.passes.set()


class Proxy:
    """Passes bytes on until it is told otherwise.

    Args:
        chance: which connections are hit.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""
        self.target = 0
        """The port of the server, which may be down."""

    async def start(self, target: int) -> None:
        """Listen; ``target`` is the server's port."""
        self.target = target
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, limit=_AT_ONCE)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Break some connections."""
        for link in self._some():
            link.cut()

    async def delay(self, seconds: float) -> None:
        """Let what some connections say arrive so much later."""
        links = self._some()
        for link in links:
            link.passes.clear()
        await asyncio.sleep(seconds)
        for link in links:
            link.passes.set()

    async def swallow(self, seconds: float) -> None:
        """Let some connections fall silent, and break them then: they have holes."""
        links = self._some()
        for link in links:
            link.is_hole = True
        await asyncio.sleep(seconds)
        for link in links:
            link.cut()

    async def close(self) -> None:
        """Break everything, and take no more."""
        if self._server is not None:
            self._server.close()
        for link in self._links:
            link.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _some(self) -> list[Link]:
        links = list(self._links)
        hit = [link for link in links if self._chance.random() < 0.4]
        return hit or self._chance.sample(links, min(1, len(links)))

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, up: asyncio.StreamReader, caller: asyncio.StreamWriter) -> None:
        try:
            down, server = await asyncio.open_connection("127.0.0.1", self.target, limit=_AT_ONCE)
        except OSError:
            caller.transport.abort()
            return
        link = Link((caller, server))
        link.passes.set()
        self._links.add(link)
        try:
            await asyncio.gather(self._pass(link, up, server), self._pass(link, down, caller))
        finally:
            self._links.discard(link)
            link.cut()

    async def _pass(
        self, link: Link, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await source.read(_AT_ONCE):
                await link.passes.wait()
                if not link.is_hole:
                    target.write(data)
                    await target.drain()
        with suppress(OSError, RuntimeError):
            await link.passes.wait()
            target.write_eof()


__all__ = ["Proxy"]
