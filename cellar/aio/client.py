"""The asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, Unpack

import numpy.typing as npt

from cellar.aio.drive import drive
from cellar.aio.opening import Opening
from cellar.aio.session import Session
from cellar.aio.stream import Stream
from cellar.aio.transport import Transport
from cellar.calls.procedures import Procedure
from cellar.client_protocol import ClientProtocol
from cellar.sessions.session_protocol import SessionProtocol
from cellar.streams.stream_protocol import StreamProtocol
from cellar.values.inputs import StepInputs
from cellar.values.model_info import ModelInfo, SessionInfo
from cellar.values.outputs import OutputOptions
from cellar.values.results import SequencePredictions


class Client:
    """A connection to a server. Tasks may share it and its streams, but not one session.

    Every request may raise a ``CellarError``; ``timeout_s`` bounds it, retries included.
    """

    def __init__(self, transport: Transport, protocol: ClientProtocol, server: str) -> None:
        """Use ``connect``."""
        self._transport = transport
        self._protocol = protocol
        self._server = server
        self._is_closed = False

    def __repr__(self) -> str:
        """Where the server is."""
        return f"<cellar client of {self._server}{', closed' if self._is_closed else ''}>"

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
        ephemeral: bool = False,
        initial_state: Mapping[str, npt.ArrayLike] | None = None,
        history_steps: int | Literal["all"] | None = None,
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
            ephemeral: ends the session with its last stream. While it is on none, it ends when it
                has been idle for the server's grace (10 s unless set otherwise).
            initial_state: the state to start from, and to be reset to, in place of the model's own:
                an array for each of the model's states, by the name of the input of its file that
                reads it, in the state's shape or flat. A session that is resumed keeps its own.
            history_steps: the server keeps what the session read in so many of its last steps at
                least, or in all of them, so that it can be rewound and forked there; None is what
                the server is set to.
            resume: continues the session when it is open already.
            timeout_s: overrides the client's, for this request.

        Raises:
            ModelUnknownError: there is no such model.
            ModelUnavailableError: it cannot be served.
            SessionExistsError: it is open already, and ``resume`` is False.
            BadInputError: it is open already, on another model or version; or the state is not the
                model's, and the message says which those are.
        """
        procedure = self._protocol.open_session(
            model,
            version,
            id,
            idle_timeout_s,
            ephemeral,
            initial_state,
            history_steps,
            resume,
            timeout_s,
        )
        return Opening(lambda: self._session(procedure))

    def import_session(
        self,
        snapshot: bytes,
        *,
        id: str | None = None,
        idle_timeout_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Opening[Session]:
        """Opens a session that stands where a snapshot was taken.

        ``await`` it, or ``async with`` it.

        Args:
            snapshot: what ``Session.export`` returned, of this server or of another one that has
                the same file of the model.
            id: the session's id; None is the one that it had.
            idle_timeout_s: overrides the one that it had.
            timeout_s: overrides the client's, for this request.

        Raises:
            SnapshotInvalidError: it is damaged, or not signed as the server wants it.
            StateMismatchError: the server does not have the model's file.
            SessionExistsError: there is a session of that id; where answers were lost, it may be
                this one.
        """
        procedure = self._protocol.import_session(snapshot, id, idle_timeout_s, timeout_s)
        return Opening(lambda: self._session(procedure))

    def attach(self, id: str, *, timeout_s: float | None = None) -> Opening[Session]:
        """Continues a session that is open, from the position where it is.

        Raises:
            SessionNotFoundError: it is not open.
        """
        procedure = self._protocol.attach_session(id, timeout_s)
        return Opening(lambda: self._session(procedure))

    async def list_sessions(
        self,
        model: str = "",
        *,
        version: int = 0,
        idle_for_s: float | None = None,
        owner: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[SessionInfo]:
        """The sessions that are open on the server, as they stand; asks for pages as it goes.

        One that is open all the while is listed exactly once.

        Args:
            model: only sessions of this model; empty: of all.
            version: only sessions of this version of it; 0: of all.
            idle_for_s: only sessions that have been idle for so many seconds at least.
            owner: only sessions of this principal, for admins; None: an admin's view all, of others
                their own.
            timeout_s: overrides the client's, for each page.

        Raises:
            ModelUnknownError: there is no such model, and no session of it.
        """
        page = ""
        while True:
            procedure = self._protocol.sessions(model, version, idle_for_s, owner, page, timeout_s)
            infos, page = await drive(procedure, self._transport.perform)
            for info in infos:
                yield info
            if not page:
                return

    async def close_session(
        self,
        id: str,
        *,
        branch: int = 0,
        owner: str | None = None,
        timeout_s: float | None = None,
    ) -> int | None:
        """Closes a session by its id, whichever client has opened it.

        Returns its position; None if an answer was lost, and the session was gone then.

        Args:
            id: the session's id.
            branch: that it must be on, see ``SessionInfo.branch``; 0 is unchecked.
            owner: the principal whose session it is, for admins; None: the caller's own.
            timeout_s: overrides the client's.

        Raises:
            SessionNotFoundError: it is not open.
            StaleBranchError: it was reset, or opened anew.
        """
        procedure = self._protocol.close_session(id, branch, owner, timeout_s)
        return await drive(procedure, self._transport.perform)

    async def move_session(
        self,
        id: str,
        to: Client,
        *,
        name: str | None = None,
        told: Callable[[str], None] = lambda _step: None,
        timeout_s: float | None = None,
    ) -> SessionInfo:
        """Moves a session to another server, where it goes on to the same bits.

        At every moment one of both has it. Where this fails, whenever and wherever, call it again
        to go on, with the same ``name``; or `call_off_move` while it was not released.

        Args:
            id: the session's id, on both.
            to: a client of the other server, which serves the same file of the model.
            name: what the first server calls the other one; None: its address.
            told: is told of each step: ``"frozen"``, ``"accepted"``, ``"released"``, ``"opened"``,
                ``"closed"``.
            timeout_s: overrides the clients', for each of the requests.

        Returns:
            The session, as it stands there.

        Raises:
            SessionNotFoundError: it is open on neither.
            SessionMovingError: it moves to another server.
            StateMismatchError: the other server does not have the model's file; it is frozen, and
                can be called off.
        """
        here, there = self._protocol.moves, to._protocol.moves
        run, run_there = self._transport.perform, to._transport.perform
        frozen = await drive(here.freeze(id, name or to._server, timeout_s), run)
        if frozen is None:
            return await drive(there.find(id, timeout_s), run_there)
        told("frozen")
        receipt = frozen.receipt
        if not receipt:
            await drive(there.accept(frozen, b"", timeout_s), run_there)
            told("accepted")
            receipt = await drive(here.release(id, timeout_s), run)
        told("released")
        await drive(there.accept(frozen, receipt, timeout_s), run_there)
        told("opened")
        await drive(here.end(id, timeout_s), run)
        told("closed")
        return await drive(there.find(id, timeout_s), run_there)

    async def call_off_move(self, id: str, *, timeout_s: float | None = None) -> None:
        """Lets a session step here again that was to move, and was not released.

        Raises:
            SessionMovingError: it was released: go on with the move.
            SessionNotFoundError: it is not open.
        """
        await drive(self._protocol.moves.call_off(id, timeout_s), self._transport.perform)

    async def reset_session(self, id: str, *, timeout_s: float | None = None) -> SessionInfo:
        """Puts a session back to position 0 by its id, whichever client has opened it.

        Raises:
            SessionNotFoundError: it is not open.
        """
        procedure = self._protocol.reset_session(id, timeout_s)
        return await drive(procedure, self._transport.perform)

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
        self._is_closed = True
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
