"""The one table from errors to gRPC status codes."""

from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from service import errors

DOMAIN = "cellar"
# What a caller sent may be quoted in a message, at whatever length. Statuses travel as metadata,
# of which a call has 8 KiB in all; rows share one message with many others.
_CALL_BYTES = 1024
_ROW_BYTES = 160
_FACT_BYTES = 128

_CODES: dict[type[errors.CellarError], grpc.StatusCode] = {
    errors.BadInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.StepConflictError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelUnknownError: grpc.StatusCode.NOT_FOUND,
    errors.SessionUnknownError: grpc.StatusCode.NOT_FOUND,
    errors.SessionExpiredError: grpc.StatusCode.NOT_FOUND,
    errors.SessionClosedError: grpc.StatusCode.NOT_FOUND,
    errors.SessionExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.PositionMismatchError: grpc.StatusCode.ABORTED,
    errors.NotStartedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotStreamableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SessionLimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DrainingError: grpc.StatusCode.UNAVAILABLE,
    errors.LoadingError: grpc.StatusCode.UNAVAILABLE,
    errors.CallerGoneError: grpc.StatusCode.CANCELLED,
    errors.StateLostError: grpc.StatusCode.DATA_LOSS,
    errors.ReplyLostError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}


def code_of(error: errors.CellarError) -> grpc.StatusCode:
    """The status code of an error."""
    return _CODES[type(error)]


def code_number(error: errors.CellarError) -> int:
    """The status code of an error as a number, for rows of a stream."""
    number: int = code_of(error).value[0]
    return number


def to_status(error: errors.CellarError) -> Status:
    """The rich status of an error: ErrorInfo, and RetryInfo where trying again makes sense."""
    facts = {name: _shortened(fact, _FACT_BYTES) for name, fact in error.metadata.items()}
    details = [_packed(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))]
    if error.retry_after_s is not None:
        delay = Duration(nanos=int(error.retry_after_s % 1 * 1e9), seconds=int(error.retry_after_s))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    message = _shortened(str(error), _CALL_BYTES)
    return Status(code=code_number(error), message=message, details=details)


def row_message(error: errors.CellarError) -> str:
    """What a row of a stream is told."""
    return _shortened(str(error), _ROW_BYTES)


async def abort(
    context: "grpc.aio.ServicerContext[object, object]", error: errors.CellarError
) -> NoReturn:
    """End a call with an error."""
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort raises")


def _shortened(text: str, limit_bytes: int) -> str:
    """Text with its middle left out where it is too long: both ends tell what is wrong."""
    data = text.encode(errors="replace")
    if len(data) <= limit_bytes:
        return text
    half = (limit_bytes - 5) // 2  # 5: the ellipsis between two spaces
    start, end = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{start} … {end}"


def _packed(message: ErrorInfo | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
