"""Bare calls: bytes go out and come back, whatever the method; no client of ours is between."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from cellar.v1 import session_pb2 as pb

Metadata = tuple[tuple[str, str], ...]
_DETAILS = "grpc-status-details-bin"
STREAM = "/cellar.v1.SessionService/Stream"


@dataclass(frozen=True)
class Answer:
    """All that a caller is told: the messages as bytes, and how the call ended."""

    path: str
    code: grpc.StatusCode
    details: str
    trailing: tuple[tuple[str, str | bytes], ...]
    messages: tuple[bytes, ...]

    @property
    def outcome(self) -> str:
        """The code with its reason, and behind a + those of the rows that were refused."""
        rows = sorted({f"+{_code(row.code)}/{row.reason}" for row in self._rows()})
        return "".join([_named(self.code.name, self.reason), *rows])

    @property
    def reason(self) -> str:
        """That of the status; empty without one."""
        for key, value in self.trailing:
            if key == _DETAILS:
                assert isinstance(value, bytes)
                for detail in Status.FromString(value).details:
                    info = ErrorInfo()
                    if detail.Unpack(info):
                        return str(info.reason)
        return ""

    def _rows(self) -> list[pb.RowError]:
        found: list[pb.RowError] = []
        if self.path == STREAM:
            for each in map(pb.StreamResponse.FromString, self.messages):
                found += [*each.attached.errors, *each.reply.errors, *each.reset.errors]
        return found

    def hiding(self, name: str) -> Answer:
        """The same with dots for an id, of which the length is told still."""
        dots = "." * len(name)
        return replace(
            self,
            details=self.details.replace(name, dots),
            trailing=tuple(
                (key, value.replace(name.encode(), dots.encode()))
                if isinstance(value, bytes)
                else (key, value.replace(name, dots))
                for key, value in self.trailing
            ),
            messages=tuple(each.replace(name.encode(), dots.encode()) for each in self.messages),
        )


def _named(code: str, reason: str) -> str:
    return f"{code}/{reason}" if reason else code


def _code(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


async def ask(
    channel: grpc.Channel,
    path: str,
    messages: Sequence[bytes],
    metadata: Metadata = (),
    *,
    is_endless: bool = False,
) -> Answer:
    """One call from its first message to its status; of an endless one the first reply will do."""
    return await asyncio.to_thread(asked, channel, path, messages, metadata, is_endless=is_endless)


def asked(
    channel: grpc.Channel,
    path: str,
    messages: Sequence[bytes],
    metadata: Metadata = (),
    *,
    is_endless: bool = False,
) -> Answer:
    """The same, for those who wait for it."""
    replies: list[bytes] = []
    one: Any = channel.unary_stream(path)
    many: Any = channel.stream_stream(path)
    if len(messages) == 1:
        call = one(messages[0], metadata=metadata, timeout=20)
    else:
        call = many(iter(messages), metadata=metadata, timeout=20)
    with suppress(grpc.RpcError):
        for reply in call:
            replies.append(reply)
            if is_endless:
                call.cancel()
                return Answer(path, grpc.StatusCode.OK, "", (), tuple(replies))
    trailing = tuple((key, value) for key, value in call.trailing_metadata() or ())
    return Answer(path, call.code(), call.details() or "", trailing, tuple(replies))


def page(
    port: int, path: str, token: str | None, context: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """Status and body of an HTTP page."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
