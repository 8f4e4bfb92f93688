"""From gRPC statuses to exceptions: the one table. No other module looks at a status code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cellar import errors
from cellar.v1 import errors_pb2, session_pb2

DOMAIN = "cellar"

_KINDS: dict[int, type[errors.CellarError]] = {
    errors_pb2.ERROR_REASON_BAD_INPUT: errors.BadInputError,
    errors_pb2.ERROR_REASON_STEP_CONFLICT: errors.StepConflictError,
    errors_pb2.ERROR_REASON_MODEL_UNKNOWN: errors.ModelUnknownError,
    errors_pb2.ERROR_REASON_SESSION_UNKNOWN: errors.SessionUnknownError,
    errors_pb2.ERROR_REASON_SESSION_EXPIRED: errors.SessionExpiredError,
    errors_pb2.ERROR_REASON_SESSION_CLOSED: errors.SessionClosedError,
    errors_pb2.ERROR_REASON_SESSION_EXISTS: errors.SessionExistsError,
    errors_pb2.ERROR_REASON_POSITION_MISMATCH: errors.PositionMismatchError,
    errors_pb2.ERROR_REASON_NOT_STARTED: errors.NotStartedError,
    errors_pb2.ERROR_REASON_NOT_STREAMABLE: errors.NotStreamableError,
    errors_pb2.ERROR_REASON_REPLY_LOST: errors.ReplyLostError,
    errors_pb2.ERROR_REASON_OVERLOADED: errors.OverloadedError,
    errors_pb2.ERROR_REASON_SESSION_LIMIT: errors.SessionLimitError,
    errors_pb2.ERROR_REASON_DRAINING: errors.DrainingError,
    errors_pb2.ERROR_REASON_LOADING: errors.LoadingError,
    errors_pb2.ERROR_REASON_CANCELLED: errors.ConnectionLostError,
    errors_pb2.ERROR_REASON_STATE_LOST: errors.StateLostError,
    errors_pb2.ERROR_REASON_INTERNAL: errors.InternalError,
    errors_pb2.ERROR_REASON_MODEL_UNAVAILABLE: errors.ModelUnavailableError,
    errors_pb2.ERROR_REASON_STALE_BRANCH: errors.StaleBranchError,
    errors_pb2.ERROR_REASON_STORE_FULL: errors.StoreFullError,
    errors_pb2.ERROR_REASON_STORE_UNAVAILABLE: errors.StoreUnavailableError,
    errors_pb2.ERROR_REASON_MODEL_CHANGED: errors.ModelChangedError,
    errors_pb2.ERROR_REASON_UNAUTHENTICATED: errors.UnauthenticatedError,
    errors_pb2.ERROR_REASON_PERMISSION_DENIED: errors.PermissionDeniedError,
    errors_pb2.ERROR_REASON_QUOTA_EXCEEDED: errors.QuotaExceededError,
    errors_pb2.ERROR_REASON_HISTORY_MISSING: errors.HistoryMissingError,
    errors_pb2.ERROR_REASON_SNAPSHOT_INVALID: errors.SnapshotInvalidError,
    errors_pb2.ERROR_REASON_STATE_MISMATCH: errors.StateMismatchError,
    errors_pb2.ERROR_REASON_SESSION_MOVING: errors.SessionMovingError,
}
# By what travels: the value's name without its prefix.
_BY_REASON: dict[str, type[errors.CellarError]] = {
    name.removeprefix("ERROR_REASON_"): _KINDS[number]
    for name, number in errors_pb2.ErrorReason.items()
    if number != errors_pb2.ERROR_REASON_UNSPECIFIED
}

# For failures without a reason: the transport's own, and those of servers in between. A Cellar
# server's INTERNAL has a reason; one without is a stream reset, or grpc's word for writing on a
# call that has just ended, so what was in flight may have been applied.
_BY_CODE: dict[str, type[errors.CellarError]] = {
    "UNAVAILABLE": errors.ConnectionLostError,
    "CANCELLED": errors.ConnectionLostError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "INVALID_ARGUMENT": errors.BadInputError,
    "FAILED_PRECONDITION": errors.PreconditionError,
    "RESOURCE_EXHAUSTED": errors.BusyError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "DATA_LOSS": errors.StateLostError,
    "INTERNAL": errors.ConnectionLostError,
}

_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


class FailedCall(Protocol):
    """What the errors of grpc and of grpc.aio have in common."""

    def code(self) -> grpc.StatusCode:
        """The status code."""

    def details(self) -> str | None:
        """The status message."""

    def trailing_metadata(self) -> Any:
        """The trailing metadata, pairs of key and value."""


def from_call(
    call: FailedCall, explained: Callable[[str, str], str] = lambda _, message: message
) -> errors.CellarError:
    """The exception for a call that failed, with all that its details tell.

    Args:
        call: the call.
        explained: of code and message, where no Cellar server has spoken: a better message.
    """
    code = call.code().name
    message = call.details() or code
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in _details(call):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = _seconds(retry.retry_delay)
    reason = info.reason if info.domain == DOMAIN else ""
    metadata = dict(info.metadata)
    position = metadata.get("position", "")
    kind = _too_large(message) if not reason and "larger than max" in message else None
    if not (reason or kind):
        message = explained(code, message)
    return (kind or _kind(reason, code))(
        message,
        reason=reason,
        code=code,
        position=int(position) if position.isdecimal() else None,
        retry_after_s=retry_after_s,
        metadata=metadata,
    )


def from_row(row: session_pb2.RowError) -> errors.CellarError:
    """The exception for one refused row of a stream."""
    code = _CODE_NAMES.get(row.code, "UNKNOWN")
    kind = _kind(row.reason, code)
    refusal = kind if issubclass(kind, errors.ServerError) else errors.ServerError
    return refusal(
        row.message or row.reason or code,
        reason=row.reason,
        code=code,
        position=row.position if row.HasField("position") else None,
        retry_after_s=_seconds(row.retry_delay) if row.HasField("retry_delay") else None,
        metadata={
            name: str(getattr(row, name))
            for name in ("branch", "kept_position")
            if row.HasField(name)
        },
    )


def _seconds(delay: duration_pb2.Duration) -> float:
    return delay.ToTimedelta().total_seconds()


def _too_large(message: str) -> type[errors.CellarError]:
    """For grpc's own refusal of a message; code and class alone would say "try later"."""
    requests = ("SERVER: Received", "CLIENT: Sent")  # all others: the answer is too large
    return errors.BadInputError if message.startswith(requests) else errors.ReplyLostError


def _kind(reason: str, code: str) -> type[errors.CellarError]:
    return _BY_REASON.get(reason) or _BY_CODE.get(code, errors.ServerError)


def _details(call: FailedCall) -> list[Any]:
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
