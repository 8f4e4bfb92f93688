"""One case, sent to the server: how it ended."""

import asyncio
import math
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from benchmarks.fuzz.messages.cases import Case, named
from cellar.v1 import session_pb2

END_S = 10.0
"""Every call is over by then, or it has no end."""

Code = grpc.StatusCode
_THREADS = ThreadPoolExecutor(64, "stream")


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: the status, or ``None`` where it did not end.
        reason: of the ErrorInfo; ``None`` where it has none.
        message: what the status says.
        left: the caller took it back, or gave it a deadline.
        replies: messages that came.
        faults: what is wrong with them.
        sessions: that the call named, so that one may be open now.
    """

    code: Code | None = None
    reason: str | None = None
    message: str = ""
    left: bool = False
    replies: int = 0
    faults: list[str] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One connection for unary requests, one for streams of them.

    `grpc.aio` tells INTERNAL where a call ends while its caller still writes, whatever the
    server said; the blocking client tells what was said.
    """

    unary: grpc.aio.Channel
    streams: grpc.Channel


async def send(case: Case, connection: Connection) -> Outcome:
    """Send a case and wait for its end."""
    if case.method.client_streaming:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREADS, _send_stream, case, connection.streams)
    outcome = _unknown(case)
    many = case.method.server_streaming
    channel = connection.unary
    open_call: Any = channel.unary_stream(case.path) if many else channel.unary_unary(case.path)
    call = open_call(case.messages[0], timeout=case.deadline_s, compression=_compression(case))
    answers = asyncio.create_task(_read(case, call, outcome))
    if case.ending != "finish":
        await asyncio.wait((answers,), timeout=case.after_s)
        call.cancel()
    await asyncio.wait((answers,), timeout=END_S)
    if call.done():
        outcome.code = await call.code()
        outcome.message = await call.details() or ""
        _read_details(outcome, await call.trailing_metadata())
    call.cancel()
    answers.cancel()
    await asyncio.gather(answers, return_exceptions=True)
    return outcome


def _send_stream(case: Case, channel: grpc.Channel) -> Outcome:
    """The same for a method whose requests are streamed."""
    outcome, over, endless = _unknown(case), threading.Event(), threading.Event()
    requests: Any = _requests(case, over)
    many = case.method.server_streaming
    if many:
        call: Any = channel.stream_stream(case.path)(
            requests, timeout=case.deadline_s, compression=_compression(case)
        )
    else:
        call = channel.stream_unary(case.path).future(requests, timeout=case.deadline_s)

    def give_up() -> None:
        endless.set()
        call.cancel()

    leaving = threading.Timer(case.after_s, call.cancel) if case.ending != "finish" else None
    giving_up = threading.Timer(END_S, give_up)
    for timer in filter(None, (leaving, giving_up)):
        timer.start()
    try:
        kind = GetMessageClass(case.method.output_type)
        for data in call if many else (call.result(),):
            _look_at(kind, data, outcome)
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass  # asked below
    finally:
        over.set()
        for timer in filter(None, (leaving, giving_up)):
            timer.cancel()
    if not endless.is_set():
        outcome.code, outcome.message = call.code(), call.details() or ""
        _read_details(outcome, call.trailing_metadata())
    return outcome


def _unknown(case: Case) -> Outcome:
    outcome = Outcome(left=case.ending != "finish" or case.deadline_s is not None)
    kind = GetMessageClass(case.method.input_type)
    for data in case.messages:
        with suppress(DecodeError):
            outcome.sessions.update(named(kind.FromString(data)))
    return outcome


def _compression(case: Case) -> grpc.Compression:
    return grpc.Compression.Gzip if case.compressed else grpc.Compression.NoCompression


def _requests(case: Case, over: threading.Event) -> Iterator[bytes]:
    yield from case.messages
    if case.ending == "leave":  # without a word: the other side cannot know
        over.wait(END_S)


async def _read(case: Case, call: Any, outcome: Outcome) -> None:
    kind = GetMessageClass(case.method.output_type)
    if case.method.server_streaming:
        async for data in call:
            _look_at(kind, data, outcome)
    else:
        _look_at(kind, await call, outcome)


def _look_at(kind: type[Message], data: bytes, outcome: Outcome) -> None:
    outcome.replies += 1
    try:
        message = kind.FromString(data)
    except DecodeError:
        outcome.faults.append("a reply is no message")
        return
    outcome.faults += _faults(message)
    if not isinstance(message, session_pb2.ListSessionsResponse):  # others', and the witnesses'
        outcome.sessions.update(named(message))


def _faults(message: Message) -> list[str]:
    """Numbers that are none, and refused rows that say no known reason."""
    found = []
    for each, value in message.ListFields():
        if each.message_type is not None:
            if not (each.message_type.GetOptions().map_entry):
                inner = value if each.is_repeated else (value,)
                found += [fault for one in inner for fault in _faults(one)]
        elif each.cpp_type in (each.CPPTYPE_FLOAT, each.CPPTYPE_DOUBLE):
            numbers = value if each.is_repeated else (value,)
            if not all(map(math.isfinite, numbers)):
                found.append(f"a number in {each.full_name} is not finite")
        elif each.full_name == "cellar.v1.RowError.reason" and value == "INTERNAL":
            found.append("a row is refused as INTERNAL")
    return found


def _read_details(outcome: Outcome, trailers: Iterable[tuple[str, Any]] | None) -> None:
    for key, value in trailers or ():
        if key != "grpc-status-details-bin":
            continue
        status, info = Status.FromString(value), ErrorInfo()
        told = outcome.code.value[0] if outcome.code is not None else None
        if status.code != told and not outcome.left:
            outcome.faults.append("the details tell another status than the call")
        if any(detail.Unpack(info) for detail in status.details):
            outcome.reason = info.reason


__all__ = ["END_S", "Code", "Connection", "Outcome", "send"]
