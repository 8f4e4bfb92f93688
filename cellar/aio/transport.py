"""The asynchronous transport: effects done on a gRPC channel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from weakref import WeakSet

import grpc

from cellar.aio.calls import failures, next_message
from cellar.calls.methods import STREAM, Method
from cellar.calls.peer import Peer
from cellar.calls.procedures import (
    Call,
    CallEffect,
    Emit,
    GenerateEffect,
    GenerateProcedure,
    Listen,
    Next,
    Sleep,
)
from cellar.errors import BadInputError, CellarError
from cellar.values.results import Piece


class Transport:
    """A channel, and how to wait on it. Tasks may share it."""

    def __init__(
        self,
        dial: Callable[[], grpc.aio.Channel],
        peer: Peer,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``dial`` makes a channel: now, and whenever certificates have changed."""
        self.peer = peer
        self._dial = dial
        self._channel = dial()
        self._renewing = threading.Lock()
        self._sleep = sleep
        self._calls: dict[str, Any] = {}
        self._streams: WeakSet[Any] = WeakSet()

    async def close(self) -> None:
        """Closes the channel, and fails what is in flight."""
        self.peer.is_closed = True
        for call in list(self._streams):  # which gRPC's older channels leave running
            call.cancel()
        await self._channel.close()

    def __reduce__(self) -> str:
        """Says what a process that was given a client, a session or a stream has to do instead."""
        raise BadInputError(
            "a connection cannot be copied or sent to another process: connect there, and continue "
            "sessions with Client.attach"
        )

    async def perform(self, effect: CallEffect) -> object:
        """Makes a call, or sleeps."""
        if isinstance(effect, Sleep):
            await self._sleep(effect.seconds)
            return None
        await self._look()
        with failures(self.peer):
            return await self._multicallable(effect.method)(
                effect.request,
                timeout=effect.timeout_s,
                metadata=self.peer.access.metadata(effect.session_id),
            )

    async def generate(
        self, procedure: GenerateProcedure, *, tells_begin: bool = False
    ) -> AsyncGenerator[Piece | None, None]:
        """Runs a procedure that emits pieces; closing the generator cancels the call.

        With ``tells_begin`` it yields None once, when the server has been asked.
        """
        listener = Listener(self)
        resume: Callable[[], GenerateEffect] = partial(next, procedure)
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
                        if tells_begin and isinstance(effect, Listen):
                            tells_begin = False
                            yield None
                except CellarError as error:
                    resume = partial(procedure.throw, error)
                else:
                    resume = partial(procedure.send, answer)
        finally:
            procedure.close()
            listener.close()

    async def listen(self, effect: Listen) -> Any:
        """Starts a call whose response is a stream."""
        await self._look()
        method = effect.method
        multicallable: Any = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        call = multicallable(
            effect.request,
            timeout=effect.timeout_s,
            metadata=self.peer.access.metadata(effect.session_id),
        )
        self._streams.add(call)
        return call

    async def duplex(self, requests: AsyncIterator[Any] | None = None) -> Any:
        """Starts a call with streams both ways; without ``requests`` they are written to it."""
        await self._look()
        multicallable: Any = self._channel.stream_stream(
            STREAM.path,
            request_serializer=STREAM.request.SerializeToString,
            response_deserializer=STREAM.response.FromString,
        )
        call = multicallable(requests, metadata=self.peer.access.metadata())
        self._streams.add(call)
        return call

    async def _look(self) -> None:
        """Before a call: where the last connection is lost, the next one has today's certificates.

        gRPC connects again by itself, with those that its channel was made with.
        """
        if self.peer.is_closed:
            raise self.peer.closed()
        if self.peer.is_lost:
            before = self._renewed()
            if before is not None:
                await before.close()

    def _renewed(self) -> grpc.aio.Channel | None:
        """Puts another channel in the place of the one that is returned, if there is to be one."""
        with self._renewing:
            is_lost, self.peer.is_lost = self.peer.is_lost, False
            if not is_lost or not self.peer.access.renewed():
                return None
            before, self._channel, self._calls = self._channel, self._dial(), {}
            self.peer.is_renewed = True
            return before

    def _multicallable(self, method: Method[Any, Any]) -> Any:
        known = self._calls.get(method.path)
        if known is None:
            known = self._calls[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return known


class Listener:
    """Effects of a generation: one call whose response is read piece by piece."""

    def __init__(self, transport: Transport) -> None:
        """No call yet."""
        self._transport = transport
        self._call: Any = None

    async def perform(self, effect: Call | Sleep | Listen | Next) -> object:
        """Does one effect."""
        if isinstance(effect, Listen):
            with failures(self._transport.peer):
                self._call = await self._transport.listen(effect)
            return None
        if isinstance(effect, Next):
            with failures(self._transport.peer):
                return await next_message(self._call)
        return await self._transport.perform(effect)

    def close(self) -> None:
        """Cancels the call, if it still runs."""
        if self._call is not None:
            self._call.cancel()
