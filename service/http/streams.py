"""Bytes to and from a peer: as they are, or by TLS. One is like the other to who reads."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")

_READ_BYTES = 16_384
_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 38\r\nConnection: close\r\n\r\nthis port speaks TLS: ask it by https\n"
)


class Stream(Protocol):
    """What a connection reads from and writes to. It has no times of its own."""

    async def open(self) -> None:
        """Whatever has to be before the first byte.

        Raises:
            OSError: the peer is gone, or does not speak as it has to.
        """

    async def read(self) -> bytes:
        """What comes next, some kilobytes at most; nothing at the end."""

    async def send(self, data: bytes) -> None:
        """Write, and wait until all of it has left."""

    async def end(self) -> None:
        """Say that no more is written."""

    def abort(self) -> None:
        """End it at once, in both directions."""


class PlainStream:
    """Bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # What was sent has left when all of it has: what lies in a buffer has not.
        writer.transport.set_write_buffer_limits(high=0)

    async def open(self) -> None:
        """See `Stream`: nothing."""

    async def read(self) -> bytes:
        """See `Stream`."""
        return await self._reader.read(_READ_BYTES)

    async def send(self, data: bytes) -> None:
        """See `Stream`."""
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        """See `Stream`."""
        self._writer.write_eof()

    def abort(self) -> None:
        """See `Stream`."""
        self._writer.transport.abort()


class TlsStream:
    """Bytes by TLS, over a plain stream.

    Not by asyncio's TLS, whose buffers nobody can see the end of: an answer would count as taken
    that still lies in one.

    Args:
        context: of the server's side.
    """

    def __init__(self, plain: Stream, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._goes, server_side=True)

    async def open(self) -> None:
        """See `Stream`: the handshake. Who speaks plain HTTP is told so."""
        try:
            await self._until_done(self._tls.do_handshake)
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                await self._plain.send(_PLAIN)
                await self._plain.end()
            elif alert := self._goes.read():
                await self._plain.send(alert)
            raise

    async def read(self) -> bytes:
        """See `Stream`."""
        try:
            return await self._until_done(lambda: self._tls.read(_READ_BYTES))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def send(self, data: bytes) -> None:
        """See `Stream`."""
        self._tls.write(data)
        await self._plain.send(self._goes.read())

    async def end(self) -> None:
        """See `Stream`: what still comes is read, and taken for nothing."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()  # says so, and would like to hear the same
        await self._say()
        await self._plain.end()

    def abort(self) -> None:
        """See `Stream`."""
        self._plain.abort()

    async def _until_done(self, step: Callable[[], T]) -> T:
        """A step of TLS, once what it needs has come; what it says is sent."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._say()
            else:
                await self._say()
                return done
            if data := await self._plain.read():
                self._came.write(data)
            else:
                self._came.write_eof()

    async def _say(self) -> None:
        if said := self._goes.read():
            await self._plain.send(said)
