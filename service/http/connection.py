"""One connection: requests one after another, each within its time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus

import h11
import structlog

from service.http.messages import Page, Request, Response, text
from service.http.streams import Stream

_log = structlog.get_logger("cellar")
_VERSIONS = (b"1.0", b"1.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one who asks may take.

    Attributes:
        connections: at once; beyond them the one goes that has kept us waiting for longest.
        head_bytes: of a request's line and headers.
        head_s: for all of them, from the first byte on; and for the first byte of a connection, and
            for the handshake of TLS before it.
        idle_s: between an answer and the next request.
        answer_s: for an answer to be taken, however large it is.
        linger_s: for what is still coming when an answer ends the connection.
        linger_bytes: of that, so much is taken.
    """

    connections: int = 128
    head_bytes: int = 16_384
    head_s: float = 5.0
    idle_s: float = 75.0
    answer_s: float = 10.0
    linger_s: float = 1.0
    linger_bytes: int = 1 << 20


class Waits(Enum):
    """What a connection waits for: one that waits for its peer may be ended for another's sake."""

    FOR_US = auto()
    TO_BE_ASKED = auto()
    TO_BE_READ = auto()


class Connection:
    """Answers what comes on a connection, until it ends.

    Args:
        waits: told what it waits for.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        answer: Page,
        limits: Limits,
        waits: Callable[[Waits], None],
    ) -> None:
        self._stream = stream
        self._answer = answer
        self._limits = limits
        self._waits = waits
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def run(self) -> None:
        """Answer until either side ends it, or somebody is too slow."""
        try:
            within_s = self._limits.head_s
            async with asyncio.timeout(within_s):
                await self._stream.open()
            while await self._exchange(within_s):
                self._wire.start_next_cycle()
                within_s = self._limits.idle_s
            await self._linger()
        except (TimeoutError, OSError):
            pass  # who is too slow, or gone, is told nothing
        finally:
            self._stream.abort()

    async def _exchange(self, within_s: float) -> bool:
        """One request and its answer; whether there may be another."""
        self._waits(Waits.TO_BE_ASKED)
        is_head = False
        try:
            head = await self._head(within_s)
            if head is None:
                return False
            self._waits(Waits.FOR_US)
            is_head = head.method == b"HEAD"
            response = self._respond(head)
        except h11.RemoteProtocolError as error:
            response = self._refuse(error)
        await self._send(response, is_head=is_head)
        return self._wire.our_state is h11.DONE and self._wire.their_state is h11.DONE

    async def _head(self, within_s: float) -> h11.Request | None:
        """The next request's line and headers; ``None`` where there is no other.

        Raises:
            TimeoutError: they are not here in time.
            h11.RemoteProtocolError: it is none.
        """
        wire, limits, now = self._wire, self._limits, asyncio.get_running_loop().time
        has_begun = bool(wire.trailing_data[0])
        async with asyncio.timeout(limits.head_s if has_begun else within_s) as deadline:
            while (event := wire.next_event()) is h11.NEED_DATA:
                data = await self._stream.read()
                if not has_begun:
                    has_begun = True
                    deadline.reschedule(now() + limits.head_s)
                wire.receive_data(data)
        return event if isinstance(event, h11.Request) else None

    def _respond(self, head: h11.Request) -> Response:
        """The answer to a request.

        Raises:
            h11.RemoteProtocolError: what follows the headers is no request's.
        """
        if head.http_version not in _VERSIONS:
            return text(505, "this port speaks HTTP/1.1; gRPC has another", is_last=True)
        if head.method == b"CONNECT":
            return text(405, "there are no tunnels here", is_last=True)
        self._wire.next_event()  # of the body, or that there is none
        has_body = self._wire.their_state is h11.SEND_BODY
        path, _, query = head.target.decode("ascii").partition("?")
        headers: dict[str, str] = {}
        for raw, value in head.headers:
            name, given = raw.decode("ascii"), value.decode("latin-1")
            headers[name] = f"{headers[name]}, {given}" if name in headers else given
        request = Request(
            method=head.method.decode("ascii"),
            path=path,
            query=query,
            headers=headers,
            has_body=has_body,
        )
        try:
            response = self._answer(request)
        except Exception:
            _log.exception("page failed")  # and not which: paths are what strangers send
            return text(500, "a fault of ours: see the server's log", is_last=True)
        return replace(response, is_last=True) if has_body else response  # which is not read

    def _refuse(self, error: h11.RemoteProtocolError) -> Response:
        """The answer to what is no request: its words are not repeated."""
        if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            most = f"a request's line and headers have at most {self._limits.head_bytes} bytes"
            return text(error.error_status_hint, most, is_last=True)
        return text(error.error_status_hint, "this is no request of HTTP/1.1", is_last=True)

    async def _send(self, response: Response, *, is_head: bool) -> None:
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        if response.is_last:
            headers.append(("Connection", "close"))
        head = h11.Response(
            status_code=response.status,
            headers=headers,
            reason=HTTPStatus(response.status).phrase.encode(),
        )
        body = [] if is_head else [h11.Data(data=response.body)]
        parts = [self._wire.send(event) or b"" for event in (head, *body, h11.EndOfMessage())]
        self._waits(Waits.TO_BE_READ)
        async with asyncio.timeout(self._limits.answer_s):
            await self._stream.send(b"".join(parts))

    async def _linger(self) -> None:
        """Take what is still coming: to end at once would take the answer away from who reads."""
        self._waits(Waits.TO_BE_ASKED)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                await self._stream.end()
                left = self._limits.linger_bytes
                while data := await self._stream.read():
                    left -= len(data)
                    if left < 0:  # no more is taken; the answer has time to be read
                        await asyncio.sleep(self._limits.linger_s)
