"""The exceptions of the client, drawn once.

::

    CellarError
    ├── ConnectionLostError      the connection broke; a request in flight may have been applied
    ├── DeadlineExceededError    no answer in time; a request in flight may have been applied
    ├── ClosedError              this side closed the client or the stream
    │   └── UnansweredError      frames were in flight then, which may have been applied
    ├── ProtocolError            the server's answer makes no sense
    ├── ReplyLostError           the step was applied, but its reply can no longer be had
    ├── RowsRefusedError         some rows of a frame, or of an attach, were refused
    └── ServerError              the server said no; nothing was applied
        ├── SessionNotFoundError
        │   ├── SessionUnknownError
        │   ├── SessionExpiredError
        │   └── SessionClosedError
        ├── SessionExistsError
        ├── ModelUnknownError
        ├── BadInputError        (also a ValueError; raised before sending where possible)
        ├── SnapshotInvalidError
        ├── StepConflictError
        ├── PositionMismatchError
        ├── PreconditionError
        │   ├── StaleBranchError
        │   ├── ModelUnavailableError
        │   ├── ModelChangedError
        │   ├── NotStartedError
        │   ├── NotStreamableError
        │   ├── HistoryMissingError
        │   ├── StateMismatchError
        │   └── SessionMovingError
        ├── BusyError            try later
        │   ├── OverloadedError
        │   ├── SessionLimitError
        │   ├── QuotaExceededError
        │   ├── StoreFullError
        │   ├── StoreUnavailableError
        │   ├── LoadingError
        │   └── DrainingError
        ├── NotAllowedError
        │   ├── UnauthenticatedError
        │   └── PermissionDeniedError
        ├── StateLostError
        └── InternalError

``RowsRefusedError`` stands in ``results.py``, with the rows that it carries. Knows nothing of
gRPC: ``status.py`` turns failed calls into these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class CellarError(Exception):
    """The root of everything the client raises on purpose.

    Attributes:
        message: what is wrong, in words.
        reason: the server's reason, such as ``"BAD_INPUT"``; empty when no server spoke.
        code: the name of the gRPC status code; empty when no call failed.
        position: the session's position, where the failure tells it.
        retry_after_s: how long the server asks to wait before a retry, where it says so.
        metadata: further facts, such as ``field`` and ``row``.
    """

    ambiguous: ClassVar[bool] = False
    """True when the request may have been applied although it failed."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "",
        position: int | None = None,
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Keeps the facts of the failure."""
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.position = position
        self.retry_after_s = retry_after_s
        self.metadata: Mapping[str, str] = dict(metadata or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it can be sent to another process, whatever its class is made from."""
        return _made_again, (type(self), self.args, self.__dict__)

    @property
    def retryable(self) -> bool:
        """True when the very same request may succeed later."""
        return False

    def __repr__(self) -> str:
        """The message, and what is known beside it."""
        facts = {
            "reason": self.reason or None,
            "code": self.code or None,
            "position": self.position,
            "retry_after_s": self.retry_after_s,
            **self.metadata,
        }
        told = "".join(f", {name}={fact!r}" for name, fact in facts.items() if fact is not None)
        return f"{type(self).__name__}({self.message!r}{told})"

    @property
    def field(self) -> str | None:
        """The field of the request that is wrong, where the server tells."""
        return self.metadata.get("field")

    @property
    def row(self) -> int | None:
        """The row of the inputs that is wrong, from 0, where the server tells."""
        row = self.metadata.get("row", "")
        return int(row) if row.isdecimal() else None


def _made_again(
    kind: type[CellarError], arguments: tuple[Any, ...], facts: Mapping[str, Any]
) -> CellarError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(facts)
    return error


class ConnectionLostError(CellarError):
    """The connection broke. What was in flight may or may not have been applied."""

    ambiguous = True

    @property
    def retryable(self) -> bool:
        """Always: positions make a second sending safe."""
        return True


class DeadlineExceededError(CellarError):
    """No answer came in time. What was in flight may or may not have been applied."""

    ambiguous = True

    @property
    def retryable(self) -> bool:
        """Always: positions make a second sending safe."""
        return True


class ClosedError(CellarError):
    """This side closed the client or the stream, and then used it."""


class UnansweredError(ClosedError):
    """This side closed the stream with frames in flight. They may or may not have been applied.

    Where their sessions are is unknown here: ask, by ``Client.attach`` or by attaching them to
    another stream, which both tell the position.

    Attributes:
        frames: the numbers of the frames.
    """

    ambiguous = True

    def __init__(self, frames: Sequence[int]) -> None:
        """Names the frames."""
        numbers = ", ".join(map(str, frames[:10])) + (", …" if len(frames) > 10 else "")
        super().__init__(
            f"the stream was closed before {len(frames)} frames were answered ({numbers}): their "
            "steps may have been applied; attach their sessions to learn where they are"
        )
        self.frames = tuple(frames)


class ProtocolError(CellarError):
    """The server's answer does not follow the protocol."""


class ReplyLostError(CellarError):
    """The step was applied, but its reply cannot be had any more.

    Its frame was sent ahead of other replies and the connection broke (``position`` is then the
    session's), or the reply is larger than a message may be. Ask where the session is, and go on.
    """


class ServerError(CellarError):
    """The server refused the request and changed nothing."""


class SessionNotFoundError(ServerError):
    """There is no such session (any more)."""


class SessionUnknownError(SessionNotFoundError):
    """The server has never heard of the session."""


class SessionExpiredError(SessionNotFoundError):
    """The session was idle for too long."""


class SessionClosedError(SessionNotFoundError):
    """The session has been closed."""


class SessionExistsError(ServerError):
    """A session with this id is open already."""


class ModelUnknownError(ServerError):
    """The server holds no such model or version."""


class BadInputError(ServerError, ValueError):
    """An input or an option is wrong; ``row`` and ``field`` tell which where known."""


class SnapshotInvalidError(ServerError):
    """The snapshot is damaged, not signed as it has to be, or no session can stand there."""


class StepConflictError(ServerError):
    """Another step was applied at this position before."""


class PositionMismatchError(ServerError):
    """The session is not where this client believes; ``position`` tells where it is."""


class PreconditionError(ServerError):
    """The session or the model cannot do this now."""


class ModelChangedError(PreconditionError):
    """The session is kept, and the model file that it was opened on is not there."""


class StaleBranchError(PreconditionError):
    """The session was reset or opened anew, and the past that this client knows has ended.

    Or a crash of the server has taken the last steps, and this client could not send them once
    more: somebody else has gone on with the session, say. ``position`` tells where it is now. This
    object goes on no further: take the session up from there with ``Client.attach``, or on a stream
    by attaching it again.
    """

    @property
    def branch(self) -> int | None:
        """The branch that the session is on now, where the server tells."""
        branch = self.metadata.get("branch", "")
        return int(branch) if branch.isdecimal() else None

    @property
    def kept_position(self) -> int | None:
        """The steps that were kept of the branch asked for, if it was a crash that ended it."""
        kept = self.metadata.get("kept_position", "")
        return int(kept) if kept.isdecimal() else None

    @property
    def can_be_mended(self) -> bool:
        """Whether a crash took the last steps, and nobody has gone on with the session since."""
        return bool(self.branch) and self.kept_position == self.position is not None


class ModelUnavailableError(PreconditionError):
    """The server has the model, but cannot serve it until somebody mends its file."""


class NotStartedError(PreconditionError):
    """The session has read nothing yet, so there is nothing to continue."""


class NotStreamableError(PreconditionError):
    """The model cannot be served step by step."""


class HistoryMissingError(PreconditionError):
    """What the session read at the position asked for is not kept."""

    @property
    def history_position(self) -> int | None:
        """The earliest position that can be had; ``None``: the session keeps no history."""
        found = self.metadata.get("history_position")
        return None if found is None else int(found)


class StateMismatchError(PreconditionError):
    """The state is of another model than the session is to be of."""


class SessionMovingError(PreconditionError):
    """The session moves to another server, or has moved there."""

    @property
    def move_to(self) -> str:
        """Where to, in the words of whoever moves it."""
        return self.metadata.get("move_to", "")


class BusyError(ServerError):
    """The server cannot take this now; later it may."""

    @property
    def retryable(self) -> bool:
        """True when the server said when to come back."""
        return self.retry_after_s is not None


class OverloadedError(BusyError):
    """The server's queue is full."""


class SessionLimitError(BusyError):
    """The server holds as many sessions as it may."""


class QuotaExceededError(BusyError):
    """The caller has, or does, as much as it may; ``metadata["quota"]`` names which quota it is."""


class StoreFullError(BusyError):
    """The disk of the server's store is full."""


class StoreUnavailableError(BusyError):
    """The server's store does not answer, or has failed: a step may have been applied."""


class LoadingError(BusyError):
    """The server has not loaded its models yet."""


class DrainingError(BusyError):
    """The server is shutting down; another, or the next one, may answer."""

    @property
    def retryable(self) -> bool:
        """Always."""
        return True


class NotAllowedError(ServerError):
    """The credentials are missing or do not suffice."""


class UnauthenticatedError(NotAllowedError):
    """The call brought no token, or one that is not valid.

    Attributes:
        has_another: the token's file has another one by now than the call is likely to have
            brought; a client tries once more by itself then.
    """

    has_another: bool = False

    @property
    def retryable(self) -> bool:
        """Only with another token."""
        return self.has_another


class PermissionDeniedError(NotAllowedError):
    """The token is valid, and its role or its models do not allow this."""


class StateLostError(ServerError):
    """A fault lost the session's state; reset or close the session."""


class InternalError(ServerError):
    """A fault of the server's own; its log tells more."""
