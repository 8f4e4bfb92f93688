"""The asynchronous transport: effects done on a ``grpc.aio`` channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from cellar import status
from cellar.errors import CellarError, ClosedError, ConnectionLostError, DeadlineExceededError
from cellar.methods import STREAM, Method
from cellar.procedures import (
    Call,
    CallEffect,
    Emit,
    GenerateEffect,
    GenerateProcedure,
    Listen,
    Next,
    Read,
    Reopen,
    Sleep,
    StreamEffect,
    Write,
)
from cellar.results import Piece
from cellar.transport import Metadata, call_metadata


class Transport:
    """A channel, and how to wait on it."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        metadata: Metadata,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes over a channel."""
        self._channel = channel
        self._metadata = metadata
        self._sleep = sleep
        self._calls: dict[str, Any] = {}

    async def close(self) -> None:
        """Closes the channel, and fails what is in flight."""
        await self._channel.close()

    async def perform(self, effect: CallEffect) -> object:
        """Makes a call, or sleeps."""
        if isinstance(effect, Sleep):
            await self._sleep(effect.seconds)
            return None
        try:
            call = self._multicallable(effect.method)(
                effect.request,
                timeout=effect.timeout_s,
                metadata=call_metadata(self._metadata, effect.session_id),
            )
        except grpc.aio.UsageError as error:
            raise ClosedError(f"the client was closed: {error}") from None
        return await answered(call)

    async def generate(self, procedure: GenerateProcedure) -> AsyncGenerator[Piece, None]:
        """Runs a procedure that emits pieces; closing the generator cancels the call."""
        listener = Listener(self)
        resume: Callable[[], GenerateEffect] = procedure.__next__
        try:
            while True:
                try:
                    effect = resume()
                except StopIteration:
                    return
                answer: object = None
                try:
                    if isinstance(effect, Emit):
                        yield effect.piece
                    else:
                        answer = await listener.perform(effect)
                except CellarError as error:
                    resume = _throw(procedure, error)
                else:
                    resume = _send(procedure, answer)
        finally:
            procedure.close()
            listener.close()

    def listen(self, effect: Listen) -> Any:
        """Starts a call whose response is a stream."""
        method = effect.method
        multicallable: Any = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return multicallable(
            effect.request,
            timeout=effect.timeout_s,
            metadata=call_metadata(self._metadata, effect.session_id),
        )

    def duplex(self) -> Any:
        """Starts a call with streams both ways."""
        multicallable: Any = self._channel.stream_stream(
            STREAM.path,
            request_serializer=STREAM.request.SerializeToString,
            response_deserializer=STREAM.response.FromString,
        )
        return multicallable(metadata=call_metadata(self._metadata))

    def _multicallable(self, method: Method[Any, Any]) -> Any:
        known = self._calls.get(method.path)
        if known is None:
            known = self._calls[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return known


async def answered(waiting: Awaitable[Any]) -> Any:
    """Awaits something of a call, and turns its failures into exceptions of the client.

    That the call was cancelled from elsewhere (its channel was closed) is such a failure; that
    the caller's own task is cancelled is not.
    """
    try:
        return await waiting
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionLostError("the call was cancelled", code="CANCELLED") from None
    except grpc.aio.AioRpcError as error:
        raise status.from_call(error) from None
    except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
        raise ConnectionLostError(f"the call has ended: {error}") from None


def _send(procedure: GenerateProcedure, answer: object) -> Callable[[], GenerateEffect]:
    return lambda: procedure.send(answer)


def _throw(procedure: GenerateProcedure, error: CellarError) -> Callable[[], GenerateEffect]:
    return lambda: procedure.throw(error)


class Listener:
    """Effects of a generation: one call whose response is read piece by piece."""

    def __init__(self, transport: Transport) -> None:
        """No call yet."""
        self._transport = transport
        self._call: Any = None

    async def perform(self, effect: Call | Sleep | Listen | Next) -> object:
        """Does one effect."""
        if isinstance(effect, Listen):
            try:
                self._call = self._transport.listen(effect)
            except grpc.aio.UsageError as error:
                raise ClosedError(f"the client was closed: {error}") from None
            return None
        if isinstance(effect, Next):
            message = await answered(self._call.read())
            return None if message is grpc.aio.EOF else message
        return await self._transport.perform(effect)

    def close(self) -> None:
        """Cancels the call, if it still runs."""
        if self._call is not None:
            self._call.cancel()


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
            try:
                self._call = self._transport.duplex()
            except grpc.aio.UsageError as error:
                raise ClosedError(f"the client was closed: {error}") from None
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
            await answered(call.write(request))

    async def _read(self, timeout_s: float | None) -> object:
        call = self._call
        try:
            async with asyncio.timeout(timeout_s):
                message = await answered(call.read())
        except TimeoutError:
            raise DeadlineExceededError("the stream did not answer in time") from None
        if message is grpc.aio.EOF:
            raise ConnectionLostError("the server ended the stream")
        return message
