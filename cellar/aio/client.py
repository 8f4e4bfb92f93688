"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc

from cellar.aio.drive import drive
from cellar.aio.opening import Opening
from cellar.aio.session import Session
from cellar.aio.stream import Stream
from cellar.aio.transport import Transport
from cellar.client_protocol import ClientProtocol
from cellar.connection import CHANNEL_OPTIONS, DEFAULT_SERVER, Metadata, Options
from cellar.inputs import StepInputs
from cellar.model_info import ModelInfo
from cellar.outputs import OutputOptions
from cellar.procedures import Procedure
from cellar.results import SequencePredictions
from cellar.retry import RetryPolicy
from cellar.session_protocol import SessionProtocol
from cellar.stream_protocol import StreamProtocol


def connect(
    server: str = DEFAULT_SERVER,
    *,
    timeout_s: float = 30.0,
    retry: RetryPolicy | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata = (),
    options: Options = (),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Opening[Client]:
    """Returns a client of a server. Nothing is sent before the first request.

    ``await`` it, or ``async with`` it.

    Args:
        server: host:port, or any other gRPC target.
        timeout_s: for requests that bring no timeout of their own, retries included.
        retry: how failures are retried.
        credentials: for TLS; without them the connection is in the clear.
        metadata: sent with every call, such as ``("authorization", "Bearer …")``.
        options: further options of the gRPC channel.
        sleep: waits for so many seconds between tries.
    """
    all_options = [*CHANNEL_OPTIONS, *options]

    async def begin() -> Client:
        if credentials is None:
            channel = grpc.aio.insecure_channel(server, options=all_options)
        else:
            channel = grpc.aio.secure_channel(server, credentials, options=all_options)
        return Client(Transport(channel, metadata, sleep), retry or RetryPolicy(), timeout_s)

    return Opening(lambda: begin())


class Client:
    """A connection to a server. Tasks may share it and its streams, but not one session.

    Every request may raise a ``CellarError``; ``timeout_s`` bounds it, retries included.
    """

    def __init__(self, transport: Transport, retry: RetryPolicy, timeout_s: float) -> None:
        """Use ``connect``."""
        self._transport = transport
        self._protocol = ClientProtocol(retry, timeout_s)

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """Lists every version of every model, without vocabularies.

        Those that the server has and cannot serve are among them: see ``ModelInfo.available``.
        """
        return await drive(self._protocol.models(timeout_s), self._transport.perform)

    async def model(
        self, name: str = "", *, version: int = 0, timeout_s: float | None = None
    ) -> ModelInfo:
        """Describes a model.

        Args:
            name: its name; may be empty when the server holds a single one.
            version: its version; 0 means the highest.
            timeout_s: overrides the client's.

        Raises:
            ModelUnknownError: there is none.
            ModelUnavailableError: it cannot be served.
        """
        return await drive(self._protocol.model(name, version, timeout_s), self._transport.perform)

    async def predict(
        self,
        model: str,
        sequences: Sequence[StepInputs],
        *,
        version: int = 0,
        every_step: bool = False,
        timeout_s: float | None = None,
        **outputs: Unpack[OutputOptions],
    ) -> SequencePredictions:
        """Predicts for whole sequences, each read from its beginning; opens no session.

        Every model can, also one that reads in both directions and has no sessions.

        Args:
            model: the model's name; may be empty when the server holds a single one.
            sequences: the sequences, in the forms that a session's steps take: see
                ``StepInputs``.
            version: the model's version; 0 means the highest.
            every_step: predictions after every step, instead of one for each sequence.
            timeout_s: overrides the client's.
            **outputs: which predictions come back: see ``OutputOptions``.

        Raises:
            BadInputError: a sequence cannot be read; ``row`` tells which, counted from 0.
        """
        procedure = self._protocol.predict(
            sequences, model, version, every_step, outputs, timeout_s
        )
        return await drive(procedure, self._transport.perform)

    def session(
        self,
        model: str = "",
        *,
        id: str | None = None,
        version: int = 0,
        idle_timeout_s: float | None = None,
        resume: bool = False,
        timeout_s: float | None = None,
    ) -> Opening[Session]:
        """Opens a session; as a context manager it closes itself.

        ``await`` it, or ``async with`` it.

        Args:
            model: the model's name; may be empty when the server holds a single one.
            id: the session's id; a random one when None.
            version: the model's version; 0 means the highest.
            idle_timeout_s: overrides the server's idle timeout.
            resume: continues the session when it is open already.
            timeout_s: overrides the client's, for this request.

        Raises:
            ModelUnknownError: there is no such model.
            ModelUnavailableError: it cannot be served.
            SessionExistsError: it is open already, and ``resume`` is False, or it is of
                another model.
        """
        procedure = self._protocol.open_session(
            model, version, id, idle_timeout_s, resume, timeout_s
        )
        return Opening(lambda: self._session(procedure))

    def attach(self, id: str, *, timeout_s: float | None = None) -> Opening[Session]:
        """Continues a session that is open, from the position where it is.

        Raises:
            SessionNotFoundError: it is not open.
        """
        procedure = self._protocol.attach_session(id, timeout_s)
        return Opening(lambda: self._session(procedure))

    def stream(
        self,
        model: str = "",
        *,
        version: int = 0,
        every_step: bool = False,
        timeout_s: float | None = None,
        **outputs: Unpack[OutputOptions],
    ) -> Opening[Stream]:
        """Opens a stream: many sessions of one model, many steps in each message.

        Args:
            model: the model's name; may be empty when the server holds a single one.
            version: the model's version; 0 means the highest.
            every_step: predictions after every step, instead of the last one of each row.
            timeout_s: overrides the client's, for this stream and its requests.
            **outputs: which predictions come back: see ``OutputOptions``.
        """
        procedure = self._protocol.stream(model, version, every_step, outputs, timeout_s)
        return Opening(lambda: self._stream(procedure, timeout_s))

    async def close(self) -> None:
        """Closes the connection. Sessions that are open stay open on the server."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Returns the client."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the connection."""
        await self.close()

    async def _session(self, procedure: Procedure[SessionProtocol]) -> Session:
        return Session(await drive(procedure, self._transport.perform), self._transport)

    async def _stream(
        self, procedure: Procedure[StreamProtocol], timeout_s: float | None
    ) -> Stream:
        protocol = await drive(procedure, self._transport.perform)
        return Stream(protocol, self._transport, timeout_s)
