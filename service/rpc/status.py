"""The one table from errors to gRPC status codes; no other module of the server names one."""

import asyncio
from functools import lru_cache, partial
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from cellar.v1 import errors_pb2
from service import errors

DOMAIN = "cellar"
Metadata = tuple[tuple[str, str | bytes], ...]
# What a caller sent may be quoted in a message, at whatever length. Statuses travel as metadata,
# of which a call has 8 KiB in all; rows share one message with many others.
_CALL_BYTES = 1024
ROW_BYTES = 160
_FACT_BYTES = 128
_LONGEST_DELAY_S = 366 * 24 * 3600.0  # of a rate near zero: more than a message can say

Code = grpc.StatusCode
OK = Code.OK
CANCELLED = Code.CANCELLED
INTERNAL = Code.INTERNAL
NOT_FOUND = Code.NOT_FOUND
UNIMPLEMENTED = Code.UNIMPLEMENTED

# By reason, in the order of proto/cellar/v1/errors.proto, whose comments name the same codes.
_CODES: dict[int, Code] = {
    errors_pb2.ERROR_REASON_BAD_INPUT: Code.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_STEP_CONFLICT: Code.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_MODEL_UNKNOWN: Code.NOT_FOUND,
    errors_pb2.ERROR_REASON_SESSION_UNKNOWN: Code.NOT_FOUND,
    errors_pb2.ERROR_REASON_SESSION_EXPIRED: Code.NOT_FOUND,
    errors_pb2.ERROR_REASON_SESSION_CLOSED: Code.NOT_FOUND,
    errors_pb2.ERROR_REASON_SESSION_EXISTS: Code.ALREADY_EXISTS,
    errors_pb2.ERROR_REASON_POSITION_MISMATCH: Code.ABORTED,
    errors_pb2.ERROR_REASON_NOT_STARTED: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_NOT_STREAMABLE: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_REPLY_LOST: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_OVERLOADED: Code.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_SESSION_LIMIT: Code.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_DRAINING: Code.UNAVAILABLE,
    errors_pb2.ERROR_REASON_LOADING: Code.UNAVAILABLE,
    errors_pb2.ERROR_REASON_CANCELLED: Code.CANCELLED,
    errors_pb2.ERROR_REASON_STATE_LOST: Code.DATA_LOSS,
    errors_pb2.ERROR_REASON_INTERNAL: Code.INTERNAL,
    errors_pb2.ERROR_REASON_MODEL_UNAVAILABLE: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_STALE_BRANCH: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_STORE_FULL: Code.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_STORE_UNAVAILABLE: Code.UNAVAILABLE,
    errors_pb2.ERROR_REASON_MODEL_CHANGED: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_UNAUTHENTICATED: Code.UNAUTHENTICATED,
    errors_pb2.ERROR_REASON_PERMISSION_DENIED: Code.PERMISSION_DENIED,
    errors_pb2.ERROR_REASON_QUOTA_EXCEEDED: Code.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_HISTORY_MISSING: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_SNAPSHOT_INVALID: Code.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_STATE_MISMATCH: Code.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_SESSION_MOVING: Code.FAILED_PRECONDITION,
}
# By what an error calls its reason, which is what travels.
_CODES_BY_NAME: dict[str, Code] = {
    name.removeprefix("ERROR_REASON_"): _CODES[number]
    for name, number in errors_pb2.ErrorReason.items()
    if number != errors_pb2.ERROR_REASON_UNSPECIFIED
}


# Whose matter it is when a call ends with a code; what is not here is the server's.
_OF_CLIENTS = frozenset(
    {
        Code.CANCELLED,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.ABORTED,
        Code.FAILED_PRECONDITION,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
    }
)
_CODES_BY_NUMBER: dict[object, Code] = {code.value[0]: code for code in Code}


def code_of(error: errors.CellarError) -> Code:
    """The status code of an error."""
    return _CODES_BY_NAME[error.reason]


def class_of(code: Code) -> str:
    """``ok``, ``client_error``, or ``server_error``: overload, drains, faults."""
    if code is OK:
        return "ok"
    return "client_error" if code in _OF_CLIENTS else "server_error"


def code_number(error: errors.CellarError) -> int:
    """The status code of an error as a number, for rows of a stream."""
    number: int = code_of(error).value[0]
    return number


def to_status(error: errors.CellarError) -> Status:
    """The rich status of an error.

    ErrorInfo, RetryInfo where trying again makes sense, and BadRequest where a field is bad.
    """
    facts = {name: _shortened(fact, _FACT_BYTES) for name, fact in error.metadata.items()}
    details = [_packed(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))]
    delay = retry_delay(error)
    if delay is not None:
        details.append(_packed(RetryInfo(retry_delay=delay)))
    if isinstance(error, errors.BadInputError):
        details.append(_packed(_bad_request(error)))
    message = _shortened(str(error), _CALL_BYTES)
    return Status(code=code_number(error), message=message, details=details)


def _bad_request(error: errors.BadInputError) -> BadRequest:
    row = "" if error.row is None else f"[{error.row}]"
    violation = BadRequest.FieldViolation(
        field=_shortened(error.field + row, _FACT_BYTES),
        description=_shortened(error.message, ROW_BYTES),
    )
    return BadRequest(field_violations=[violation])


def retry_delay(error: errors.CellarError) -> Duration | None:
    """When to try again, where that makes sense."""
    if error.retry_after_s is None:
        return None
    delay_s = min(error.retry_after_s, _LONGEST_DELAY_S)
    return Duration(nanos=int(delay_s % 1 * 1e9), seconds=int(delay_s))


def row_message(error: errors.CellarError) -> str:
    """What a row of a stream is told."""
    return _shortened(str(error), ROW_BYTES)


async def abort(
    context: "grpc.aio.ServicerContext[object, object]", error: errors.CellarError
) -> NoReturn:
    """End a call with an error, from the task that is the call."""
    if type(error) is errors.UnauthenticatedError:
        status = _unauthenticated(str(error))
    else:
        status = rpc_status.to_status(to_status(error))
    await _end(context, status.code, status.details, status.trailing_metadata)


@lru_cache(maxsize=8)
def _unauthenticated(message: str) -> grpc.Status:
    """Made once for each of the few messages: who tries wrong tokens is to cost little."""
    return rpc_status.to_status(to_status(errors.UnauthenticatedError(message)))


async def abort_unknown(context: "grpc.aio.ServicerContext[object, object]") -> NoReturn:
    """End a call of a method that nobody serves, in gRPC's words."""
    await _end(context, UNIMPLEMENTED, "Method not found!", ())


async def _end(
    context: "grpc.aio.ServicerContext[object, object]",
    code: Code,
    details: str,
    trailing: Metadata,
) -> NoReturn:
    try:
        await context.abort(code, details, trailing)
    except grpc.aio.AbortError as end:
        task = asyncio.current_task()
        assert task is not None, "a call is a task"
        task.add_done_callback(partial(_let_go, end))
        raise
    raise AssertionError("abort raises")


def _let_go(end: BaseException, task: "asyncio.Task[object]") -> None:  # noqa: ARG001
    """A call has ended with this exception, which gRPC keeps.

    By its traceback it holds the call and the request, in a cycle that lasts until garbage is
    collected next: 40 requests of 16 MiB that were refused took a gigabyte.
    """
    end.__traceback__ = end.__context__ = None


def of(context: "grpc.aio.ServicerContext[object, object]") -> Code:
    """The code that a call ends with."""
    return _CODES_BY_NUMBER.get(context.code(), OK)


def _shortened(text: str, limit_bytes: int) -> str:
    """Text with its middle left out where it is too long: both ends tell what is wrong."""
    data = text.encode(errors="replace")
    if len(data) <= limit_bytes:
        return text
    half = (limit_bytes - 5) // 2  # 5: the ellipsis between two spaces
    start, end = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{start} … {end}"


def _packed(message: BadRequest | ErrorInfo | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
