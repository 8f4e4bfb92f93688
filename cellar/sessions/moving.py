"""The rules by which a session moves from one server to another, exactly once.

Whatever fails on the way, the same may be asked again, by anybody who may use the session: it goes
on where it was. Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cellar.calls.methods import (
    CLOSE_SESSION,
    EXPORT_SESSION,
    GET_SESSION,
    IMPORT_SESSION,
    RELEASE_SESSION,
)
from cellar.calls.procedures import Procedure, retried
from cellar.calls.retry import Attempts
from cellar.connection.connection import check_session_id
from cellar.errors import BadInputError, ProtocolError, SessionMovingError, SessionNotFoundError
from cellar.v1 import session_pb2
from cellar.values import arguments
from cellar.values.model_info import SessionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A session that moves, as its source has told of it.

    Attributes:
        info: where it stands there.
        snapshot: its state.
        receipt: what lets the other server open it; empty: it is not released.
    """

    info: SessionInfo
    snapshot: bytes
    receipt: bytes


class Moves:
    """One server's part in the moves of sessions.

    Args:
        attempts: turns a timeout into attempts.
    """

    def __init__(self, attempts: Callable[[float | None], Attempts]) -> None:
        self._attempts = attempts

    def freeze(
        self, session_id: str, move_to: str, timeout_s: float | None
    ) -> Procedure[Frozen | None]:
        """Freezes a session here; None: it has moved already, or is not open here."""
        if not arguments.text("move_to", move_to):
            raise BadInputError("name the server that it moves to", metadata={"field": "move_to"})
        request = session_pb2.ExportSessionRequest(
            session_id=check_session_id(session_id, "id"), move_to=move_to
        )
        attempts = self._attempts(timeout_s)
        try:
            response = yield from retried(EXPORT_SESSION, request, attempts, session_id=session_id)
        except SessionNotFoundError:
            return None
        except SessionMovingError as error:
            if error.move_to != move_to:
                raise
            return None
        return Frozen(
            info=SessionInfo.decode(response.session),
            snapshot=response.snapshot,
            receipt=response.receipt,
        )

    def release(self, session_id: str, timeout_s: float | None) -> Procedure[bytes]:
        """Lets a frozen session never step here again; returns the receipt."""
        request = session_pb2.ReleaseSessionRequest(session_id=session_id)
        attempts = self._attempts(timeout_s)
        response = yield from retried(RELEASE_SESSION, request, attempts, session_id=session_id)
        receipt: bytes = response.receipt
        if not receipt:
            raise ProtocolError("the server has released the session without a receipt")
        return receipt

    def call_off(self, session_id: str, timeout_s: float | None) -> Procedure[None]:
        """Lets a frozen session step again. To do it twice is as good as once."""
        request = session_pb2.ReleaseSessionRequest(
            session_id=check_session_id(session_id, "id"), cancel=True
        )
        attempts = self._attempts(timeout_s)
        yield from retried(RELEASE_SESSION, request, attempts, session_id=session_id)

    def accept(self, frozen: Frozen, receipt: bytes, timeout_s: float | None) -> Procedure[bool]:
        """Opens a session here that has moved; without a receipt, sees whether it could be.

        Returns whether it is open.
        """
        request = session_pb2.ImportSessionRequest(snapshot=frozen.snapshot, receipt=receipt)
        attempts = self._attempts(timeout_s)
        try:
            yield from retried(IMPORT_SESSION, request, attempts, session_id=frozen.info.id)
        except BadInputError as error:
            if receipt or error.field != "receipt":
                raise
            return False  # it is all that is missing
        if not receipt:
            raise ProtocolError(
                "the other server has opened the session without a receipt: close it there"
            )
        return True

    def find(self, session_id: str, timeout_s: float | None) -> Procedure[SessionInfo]:
        """Where a session stands here."""
        request = session_pb2.GetSessionRequest(session_id=check_session_id(session_id, "id"))
        attempts = self._attempts(timeout_s)
        response = yield from retried(GET_SESSION, request, attempts, session_id=session_id)
        return SessionInfo.decode(response.session)

    def end(self, session_id: str, timeout_s: float | None) -> Procedure[None]:
        """Closes a session here that was released; that it is closed already is as good."""
        request = session_pb2.CloseSessionRequest(session_id=session_id)
        attempts = self._attempts(timeout_s)
        try:
            yield from retried(CLOSE_SESSION, request, attempts, session_id=session_id)
        except (SessionNotFoundError, SessionMovingError):
            return
