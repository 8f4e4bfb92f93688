"""Everything that can go wrong with a request, in words of the domain.

Each class is one row of the error table; ``service.rpc.status`` maps it to the wire. A request
that ends in one of these has changed nothing, except where the class says otherwise.
"""

from collections.abc import Mapping


class CellarError(Exception):
    """Root of all errors a client can be told about."""

    reason = "INTERNAL"
    retry_after_s: float | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts for a program to read, such as the field or the position."""
        return {}


class BadInputError(CellarError):
    """An input cannot be used; ``field`` names it and ``row`` the step, where there is one.

    ``frame`` is the number of the frame that ended its stream, if one did.
    """

    reason = "BAD_INPUT"
    frame: int | None = None

    def __init__(self, field: str, message: str, *, row: int | None = None) -> None:
        place = field if row is None else f"{field}, row {row}"
        super().__init__(f"{place}: {message}")
        self.message = message
        self.field = field
        self.row = row

    @property
    def metadata(self) -> Mapping[str, str]:
        """The field, the row and the frame."""
        found = {"field": self.field}
        if self.row is not None:
            found["row"] = str(self.row)
        if self.frame is not None:
            found["frame"] = str(self.frame)
        return found


def unreadable(complaint: str, *, row: int | None = None) -> BadInputError:
    """What a caller is told whose steps no check refused, and one of the model's operators did."""
    return BadInputError("inputs", f"the model cannot read them: {complaint}", row=row)


class ModelUnknownError(CellarError):
    """No such model, or no such version."""

    reason = "MODEL_UNKNOWN"


class ModelUnavailableError(CellarError):
    """The server has the model and cannot serve it, until its file is mended and it starts anew."""

    reason = "MODEL_UNAVAILABLE"

    def __init__(self, message: str, *, model: str, version: int | None) -> None:
        super().__init__(message)
        self._facts = {"model": model}
        if version is not None:
            self._facts["version"] = str(version)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model, and its version where it has one."""
        return self._facts


class SessionUnknownError(CellarError):
    """No session of this id was ever open, as far as is remembered."""

    reason = "SESSION_UNKNOWN"


class SessionExpiredError(CellarError):
    """The session was idle for longer than its timeout."""

    reason = "SESSION_EXPIRED"


class SessionClosedError(CellarError):
    """The session was closed."""

    reason = "SESSION_CLOSED"


class SessionExistsError(CellarError):
    """A session of this id is open already."""

    reason = "SESSION_EXISTS"


class PositionMismatchError(CellarError):
    """The step is not the session's next one; ``position`` is where the session stands."""

    reason = "POSITION_MISMATCH"

    def __init__(self, sent: int, position: int) -> None:
        super().__init__(f"position: the step was sent for {sent}, the session is at {position}")
        self.position = position

    @property
    def metadata(self) -> Mapping[str, str]:
        """The session's position."""
        return {"position": str(self.position)}


class StaleBranchError(CellarError):
    """The session is on another branch than what was asked is for.

    It was reset or opened anew, or has gone back from a generation that was broken off; or a crash
    has ended that one, of which ``kept`` steps were kept; or it was upgraded.
    """

    reason = "STALE_BRANCH"

    def __init__(
        self, *, branch: int, position: int, kept: int | None = None, upgraded: bool = False
    ) -> None:
        why = (
            "was reset, rewound, upgraded or opened anew since, or went back from a generation "
            "that was broken off"
        )
        if upgraded:
            why = "was upgraded to another version of its model"
        if kept is not None:
            why = f"lost what came after position {kept} in a crash"
        super().__init__(
            f"branch: the session {why}, and is on another branch, at position {position}: ask "
            "where it stands, or attach it again"
        )
        self.branch = branch
        self.position = position
        self.kept = kept

    @property
    def metadata(self) -> Mapping[str, str]:
        """The session's branch and its position there, and what was kept of the one asked for."""
        found = {"branch": str(self.branch), "position": str(self.position)}
        if self.kept is not None:
            found["kept_position"] = str(self.kept)
        return found


class StepConflictError(CellarError):
    """The position was consumed by a step with other content."""

    reason = "STEP_CONFLICT"

    def __init__(self, position: int) -> None:
        super().__init__(
            f"inputs: the step at position {position} was applied already with other inputs; "
            "a retry must repeat them"
        )


class NotStartedError(CellarError):
    """The session has read nothing yet, so there is no prediction to continue from."""

    reason = "NOT_STARTED"


def unpredicted(field: str) -> NotStartedError:
    """What is told of a session that has another model's state and nothing of its own.

    ``field`` is what the caller has to give.
    """
    return NotStartedError(
        f"{field}: the session came from another model, and has read nothing with its own: give "
        "it steps first"
    )


class NotStreamableError(CellarError):
    """The model keeps no state from step to step: it reads whole sequences only."""

    reason = "NOT_STREAMABLE"


class OverloadedError(CellarError):
    """The queue, or the memory for what callers have the server hold, is full: come again then."""

    reason = "OVERLOADED"
    retry_after_s = 0.05

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class StoreFullError(CellarError):
    """The store's disk is full: try again when there is room."""

    reason = "STORE_FULL"
    retry_after_s = 1.0


class StoreUnavailableError(CellarError):
    """The store does not answer: try again shortly."""

    reason = "STORE_UNAVAILABLE"
    retry_after_s = 0.5


class ModelChangedError(CellarError):
    """The session belongs to a model file that is gone, or another one now."""

    reason = "MODEL_CHANGED"


class SessionLimitError(CellarError):
    """All slots are taken: close sessions, wait for idle ones to expire, or raise the limit."""

    reason = "SESSION_LIMIT"
    retry_after_s = 1.0


class UnauthenticatedError(CellarError):
    """The call has no token, or one that is not valid; why it is not, nobody is told."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(CellarError):
    """The caller's roles do not allow this."""

    reason = "PERMISSION_DENIED"


class QuotaExceededError(CellarError):
    """The caller has, or does, as much as it may: come again then."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, quota: str, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.quota = quota
        self.retry_after_s = retry_after_s

    @property
    def metadata(self) -> Mapping[str, str]:
        """The quota, by its field in `Quota`."""
        return {"quota": self.quota}


class DrainingError(CellarError):
    """The server is shutting down and takes nothing new."""

    reason = "DRAINING"
    retry_after_s = 1.0


class LoadingError(CellarError):
    """The server has not loaded its models yet."""

    reason = "LOADING"
    retry_after_s = 0.2


class CallerGoneError(CellarError):
    """The caller went away before its steps ran."""

    reason = "CANCELLED"


class StateLostError(CellarError):
    """A fault left the session's state in doubt; reset it to start again from position 0."""

    reason = "STATE_LOST"

    def __init__(self, position: int) -> None:
        super().__init__(
            f"a fault at position {position} left the session's state in doubt: reset the session "
            "and send its steps again from position 0"
        )


class ReplyLostError(CellarError):
    """The steps were applied, but the reply to them is no longer kept."""

    reason = "REPLY_LOST"


class InternalError(CellarError):
    """A fault of ours; the log tells more than the message."""

    reason = "INTERNAL"


class HistoryMissingError(CellarError):
    """What the session read at the position asked for is not kept.

    ``history_position`` is the earliest that can be had; ``None``: it keeps no history.
    """

    reason = "HISTORY_MISSING"

    def __init__(
        self,
        position: int,
        history_position: int | None,
        *,
        generated: bool = False,
        upgrades: bool = False,
    ) -> None:
        what = "it keeps no history: open it with history_steps"
        if history_position is not None:
            what = f"its history begins at {history_position}: keep more with history_steps"
        if generated:
            what = "its last generation does not reach so far back, or it has read on since"
        why = f"position: the session cannot be put back to {position}, as {what}"
        if upgrades:
            why = f"model_version: another version has to read all that the session has, and {what}"
        super().__init__(why)
        self.history_position = history_position

    @property
    def metadata(self) -> Mapping[str, str]:
        """The earliest position that can be had."""
        if self.history_position is None:
            return {}
        return {"history_position": str(self.history_position)}


def history_full() -> OverloadedError:
    """There is no room for more of what sessions keep of what they read."""
    return OverloadedError(
        "what sessions keep of what they read takes all the room there is (--history-memory), or "
        "what yours keep takes half of it: close or reset some that keep a history",
        retry_after_s=1.0,
    )


class SnapshotInvalidError(CellarError):
    """A snapshot is damaged, not signed as it has to be, or holds what no session can have."""

    reason = "SNAPSHOT_INVALID"


class StateMismatchError(CellarError):
    """A state is of another model file than the session's, or has other shapes."""

    reason = "STATE_MISMATCH"


class SessionMovingError(CellarError):
    """The session moves to another server, or has moved; ``move_to`` says where."""

    reason = "SESSION_MOVING"

    def __init__(self, message: str, *, move_to: str) -> None:
        super().__init__(message)
        self.move_to = move_to

    @property
    def metadata(self) -> Mapping[str, str]:
        """Where it moves."""
        return {"move_to": self.move_to}


def moved_away(move_to: str) -> SessionMovingError:
    """What is told of a session that was released."""
    return SessionMovingError(
        f"the session has moved to '{move_to}', and never steps here again: ask there",
        move_to=move_to,
    )


def untellable() -> InternalError:
    """What is told of steps of which nothing else can be."""
    return InternalError("what became of the step could not be told: ask where the session stands")


def unapplied(fault: Exception) -> CellarError:
    """What is told to whom a fault kept from being served, when nothing of it was applied."""
    if isinstance(fault, CellarError):
        return fault
    if isinstance(fault, MemoryError):
        return OverloadedError("no memory is left for this, and nothing was applied: try again")
    return InternalError("a fault of ours, and nothing was applied; the server's log tells why")
