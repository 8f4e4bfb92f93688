"""The synchronous transport: effects done on a blocking gRPC channel."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

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
)
from cellar.results import Piece

Metadata = Sequence[tuple[str, str]]
WireMetadata = tuple[tuple[str, str | bytes], ...]
Options = Sequence[tuple[str, Any]]

CHANNEL_OPTIONS: Options = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Room for large frames; and a lost server is looked for often, since retries are bounded."""


def call_metadata(metadata: Metadata, session_id: str = "") -> WireMetadata:
    """The metadata of a call; a proxy may route by the session's id."""
    return (*metadata, ("x-session-id", session_id)) if session_id else tuple(metadata)


class Transport:
    """A channel, and how to wait on it. Safe to share between threads."""

    def __init__(
        self, channel: grpc.Channel, metadata: Metadata, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Takes over a channel."""
        self._channel = channel
        self._metadata = metadata
        self._sleep = sleep
        self._calls: dict[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {}

    def close(self) -> None:
        """Closes the channel, and fails what is in flight."""
        self._channel.close()

    def perform(self, effect: CallEffect) -> object:
        """Makes a call, or sleeps."""
        if isinstance(effect, Sleep):
            self._sleep(effect.seconds)
            return None
        try:
            return self._multicallable(effect.method)(
                effect.request,
                timeout=effect.timeout_s,
                metadata=call_metadata(self._metadata, effect.session_id),
            )
        except (grpc.RpcError, ValueError) as error:
            raise _failure(error) from None

    def generate(self, procedure: GenerateProcedure) -> Iterator[Piece]:
        """Runs a procedure that emits pieces; closing the iterator cancels the call."""
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
                        answer = listener.perform(effect)
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
        multicallable = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return multicallable(
            effect.request,
            timeout=effect.timeout_s,
            metadata=call_metadata(self._metadata, effect.session_id),
        )

    def duplex(self, requests: Iterator[Any]) -> Any:
        """Starts a call with streams both ways."""
        multicallable = self._channel.stream_stream(
            STREAM.path,
            request_serializer=STREAM.request.SerializeToString,
            response_deserializer=STREAM.response.FromString,
        )
        return multicallable(requests, metadata=call_metadata(self._metadata))

    def _multicallable(self, method: Method[Any, Any]) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
        known = self._calls.get(method.path)
        if known is None:
            known = self._calls[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return known


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

    def perform(self, effect: Call | Sleep | Listen | Next) -> object:
        """Does one effect."""
        try:
            if isinstance(effect, Listen):
                self._call = self._transport.listen(effect)
                return None
            if isinstance(effect, Next):
                return next(self._call, None)
        except (grpc.RpcError, ValueError) as error:
            raise _failure(error) from None
        return self._transport.perform(effect)

    def close(self) -> None:
        """Cancels the call, if it still runs."""
        if self._call is not None:
            self._call.cancel()


class Duplex:
    """Effects of a stream: one call at a time, read by a thread of its own."""

    def __init__(self, transport: Transport) -> None:
        """No call yet."""
        self._transport = transport
        self._call: Any = None
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def perform(self, effect: StreamEffect) -> object:
        """Does one effect."""
        if isinstance(effect, Read):
            return self._read(effect.timeout_s)
        if isinstance(effect, Sleep):
            return self._transport.perform(effect)
        if isinstance(effect, Reopen):
            self._reopen()
        else:
            self._outgoing.put(effect.request)
        return None

    def close(self) -> None:
        """Cancels the call, if there is one, and so ends its threads."""
        if self._call is not None:
            self._outgoing.put(None)
            self._call.cancel()
            self._call = None

    def _reopen(self) -> None:
        self.close()
        self._outgoing = queue.SimpleQueue()
        self._incoming = queue.SimpleQueue()
        try:
            self._call = self._transport.duplex(iter(self._outgoing.get, None))
        except ValueError as error:
            raise _failure(error) from None
        threading.Thread(
            target=_receive,
            args=(self._call, self._incoming, self._outgoing),
            name="cellar-stream",
            daemon=True,
        ).start()

    def _read(self, timeout_s: float | None) -> object:
        try:
            message = self._incoming.get(timeout=timeout_s)
        except queue.Empty:
            raise DeadlineExceededError("the stream did not answer in time") from None
        if isinstance(message, CellarError):
            raise message
        return message


def _receive(call: Any, incoming: queue.SimpleQueue[Any], outgoing: queue.SimpleQueue[Any]) -> None:
    try:
        for message in call:
            incoming.put(message)
        incoming.put(ConnectionLostError("the server ended the stream"))
    except grpc.RpcError as error:
        incoming.put(_failure(error))
    finally:
        outgoing.put(None)


def _failure(error: Exception) -> CellarError:
    if isinstance(error, ValueError):  # grpc's word for a channel that was closed
        return ClosedError(f"the client was closed: {error}")
    return status.from_call(error)  # type: ignore[arg-type]
