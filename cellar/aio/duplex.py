"""The call of a stream, on ``grpc.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from google.protobuf.message import Message

from cellar.aio.calls import failures, next_message
from cellar.aio.transport import Transport
from cellar.calls.procedures import Read, Reopen, StreamEffect, Write
from cellar.errors import ConnectionLostError, DeadlineExceededError


class Duplex:
    """Effects of a stream: one call at a time. Any task may write; one reads."""

    def __init__(self, transport: Transport) -> None:
        """No call yet."""
        self._transport = transport
        self._call: Any = None
        self._writing = asyncio.Lock()

    async def perform(self, effect: StreamEffect) -> object:
        """Does one effect."""
        if isinstance(effect, Reopen):
            self.close()
            with failures(self._transport.peer):
                self._call = await self._transport.duplex()
            return None
        if isinstance(effect, Write):
            await self.write(effect.request)
            return None
        if isinstance(effect, Read):
            return await self._read(effect.timeout_s)
        return await self._transport.perform(effect)

    def close(self) -> None:
        """Cancels the call, if there is one."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def write(self, request: Message) -> Awaitable[None]:
        """Writes on the call that there is now, even if there is another by the time."""
        return self._write(self._call, request)

    async def _write(self, call: Any, request: Message) -> None:
        async with self._writing:
            if call is None:
                raise ConnectionLostError("the stream is not connected")
            with failures(self._transport.peer):
                await call.write(request)

    async def _read(self, timeout_s: float | None) -> object:
        call = self._call
        try:
            async with asyncio.timeout(timeout_s):
                with failures(self._transport.peer):
                    message: object = await next_message(call)
        except TimeoutError:
            raise DeadlineExceededError("the stream did not answer in time") from None
        if message is None:
            raise ConnectionLostError("the server ended the stream")
        return message
