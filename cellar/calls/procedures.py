"""Procedures: what the client does, free of how it waits.

A procedure is a generator. It yields *effects* ("make this call", "sleep so long") and is sent
their answers; a failed effect is thrown into it as a ``CellarError``. So every rule of the
client (what is retried, which position is sent, how a stream resumes) is written once, and the
synchronous and the asynchronous client differ in how they wait, and in nothing else: see
``aio/drive.py``.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from cellar.calls.methods import Method, Q, R
from cellar.calls.retry import Attempts
from cellar.errors import CellarError
from cellar.v1 import session_pb2
from cellar.values.results import Piece

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Make a unary call; answered with its response."""

    method: Method[Any, Any]
    request: Message
    timeout_s: float
    session_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Start a call whose response is a stream; answered with None."""

    method: Method[Any, Any]
    request: Message
    timeout_s: float
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Next:
    """Read the next message of the call being listened to; answered with None at its end."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand a piece to the caller; answered with None."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class Sleep:
    """Pause; answered with None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reopen:
    """Drop the stream's call, if any, and start another; answered with None."""


@dataclass(frozen=True, slots=True)
class Write:
    """Send on the stream; answered with None."""

    request: session_pb2.StreamRequest


@dataclass(frozen=True, slots=True)
class Read:
    """Receive from the stream; answered with a ``StreamResponse``. None waits forever."""

    timeout_s: float | None


CallEffect = Call | Sleep
GenerateEffect = Call | Sleep | Listen | Next | Emit
StreamEffect = Reopen | Write | Read | Sleep

Procedure = Generator[CallEffect, Any, T]
GenerateProcedure = Generator[GenerateEffect, Any, None]
StreamProcedure = Generator[StreamEffect, Any, T]


def retried(
    method: Method[Q, R], request: Q, attempts: Attempts, *, session_id: str = ""
) -> Procedure[R]:
    """Makes a call until it succeeds, or until ``attempts`` lets its failure out."""
    while True:
        try:
            response = yield Call(
                method=method,
                request=request,
                timeout_s=attempts.remaining_s(),
                session_id=session_id,
            )
        except CellarError as error:
            yield Sleep(attempts.failed(error))
        else:
            attempts.answered()
            assert isinstance(response, method.response)
            return response
