"""HTTP/2 as cheap as it can be: calls on one connection, and how each of them ended.

Nothing is decoded but the heads of frames. gRPC's own clients take as much CPU for a call as a
server does to refuse it, and two cores would not show which of both was the limit.
"""

import asyncio
import struct
import time
from collections import Counter
from typing import Any

from benchmarks.attack.attack import Tally, Victim
from benchmarks.fuzz.senders.strangers import call_headers, frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
_INITIAL_WINDOW = 4
_LARGEST = (1 << 31) - 1
_GREETING = (
    PREFACE
    + frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, _LARGEST))
    + frame(WINDOW, 0, 0, struct.pack(">I", _LARGEST - 65_535))
)
MOST_AT_ONCE = 500  # calls of a connection; more are not sent, and not counted


def message(body: bytes) -> bytes:
    """A message as gRPC frames it."""
    return b"\0" + struct.pack(">I", len(body)) + body


def block_of(path: str, token: str) -> bytes:
    """The headers of a call with a token."""
    return call_headers(path, authorization=f"Bearer {token}")


class Wire(asyncio.Protocol):
    """One connection.

    A call whose first answer is its last one was refused: gRPC sends trailers alone. One that is
    told headers first was served.
    """

    def __init__(self, tally: Tally) -> None:
        self.is_open = False
        self._tally = tally
        self._transport: Any = None
        self._began_s = 0.0
        self._calls: dict[int, float] = {}  # when each was sent, by stream
        self._served: set[int] = set()
        self._next = 1
        self._rest = b""
        self.resets: Counter[int] = Counter()

    @classmethod
    async def open(cls, victim: Victim, tally: Tally) -> "Wire":
        """Connect and greet.

        Raises:
            OSError: it was not taken.
        """
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(
            lambda: cls(tally),
            victim.host,
            victim.port,
            ssl=victim.context(),
            server_hostname=victim.host,
        )
        return wire

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._transport, self.is_open = transport, True
        self._began_s = time.monotonic()
        self._tally.open += 1
        transport.write(_GREETING)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self._tally.open -= 1
        if self.is_open:
            self.is_open = False
            self._tally.cut += 1
            self._tally.held_s.append(time.monotonic() - self._began_s)

    def call(self, block: bytes, body: bytes, at_once: int = MOST_AT_ONCE) -> None:
        """Begin a call, unless so many are in progress."""
        if not self.is_open or len(self._calls) >= at_once:
            return
        stream, self._next = self._next, self._next + 2
        self._calls[stream] = time.monotonic()
        self._transport.write(
            frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)
        )
        self._tally.sent += 1

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        data, at = self._rest + data, 0
        while len(data) - at >= 9:
            length = int.from_bytes(data[at : at + 3])
            if len(data) - at < 9 + length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9])
            self._take(kind, flags, stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            if not flags & END_STREAM:
                self._served.add(stream)
                return
            began_s = self._calls.pop(stream, None)
            if stream in self._served:
                self._served.discard(stream)
                self._tally.answered += 1
            else:
                self._tally.refused += 1
                if began_s is not None:
                    self._tally.refused_s.append(time.monotonic() - began_s)
        elif kind == RESET:
            self._calls.pop(stream, None)
            self._served.discard(stream)
            self._tally.refused += 1
            self.resets[int.from_bytes(payload)] += 1
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0))
