"""What is said of calls: refusals by reason, summed, and each call's end where that is wanted.

Every refusal passes here, on its way out of the server, to the metrics as well as to the log.

Nothing of what callers sent is in it but the ids of sessions and requests. Whoever is refused for
load is refused often, so that the log is written by the period and never by the call.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import structlog

from service.auth.principal import calling
from service.engine.streams.frame import Refusal
from service.errors import CellarError
from service.metrics import Refusals
from service.settings import Settings

PERIOD_S = 10.0
REQUEST_ID = "x-request-id"

_log = structlog.get_logger("cellar")
_LONGEST_ID = 128
_MOST_PEERS = 8  # that an entry of refusals names
# These are no refusals: the caller has left, or the fault is ours and has an entry of its own.
_NOT_REFUSED = frozenset({"CANCELLED", "INTERNAL"})
# What the server lacks; all others are about what was asked of it.
_SHORT = frozenset(
    {
        "MODEL_UNAVAILABLE",
        "OVERLOADED",
        "SESSION_LIMIT",
        "STATE_LOST",
        "STORE_FULL",
        "STORE_UNAVAILABLE",
    }
)
_error = itemgetter(1)  # of a Refusal; rows that are refused together share one


@dataclass(slots=True)
class _Burst:
    """Refusals for one reason that the log has not told."""

    since_s: float
    rows: int = 0
    methods: Counter[str] = field(default_factory=Counter)
    peers: Counter[str] = field(default_factory=Counter)  # by address, where they were told


class CallLog:
    """Writes the entries about calls.

    Args:
        settings: whether each call has an entry.
        refusals: the metrics of them.
        clock: seconds, never going back.

    Attributes:
        tells_each: each call has an entry; call `ended` then.
    """

    def __init__(
        self,
        settings: Settings,
        refusals: Refusals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refusals = refusals
        self.tells_each = settings.access_log or settings.log_level == "debug"
        self._each = _log.info if settings.access_log else _log.debug
        self._clock = clock
        self._bursts: dict[str, _Burst] = {}

    # -- refusals -------------------------------------------------------------------------

    def refused(self, method: str, error: CellarError, *, peer: str = "") -> None:
        """Count a call that ends with an error; of some, the log tells the addresses too."""
        self._refusals.count_call(error, calling.get().name)
        if error.reason in _NOT_REFUSED:
            return
        burst = self._burst(error.reason)
        burst.methods[method] += 1
        if peer:
            address = _address(peer)
            is_named = address in burst.peers or len(burst.peers) < _MOST_PEERS
            burst.peers[address if is_named else "others"] += 1

    def rows_refused(self, refusals: Iterable[Refusal]) -> None:
        """Count rows of a stream that are told errors; each has one."""
        for error, count in Counter(map(_error, refusals)).items():
            self._refusals.count_rows(error, count, calling.get().name)
            if error.reason not in _NOT_REFUSED:
                self._burst(error.reason).rows += count

    def _burst(self, reason: str) -> _Burst:
        burst = self._bursts.get(reason)
        if burst is None:
            burst = self._bursts[reason] = _Burst(self._clock())
        return burst

    def tell(self, *, all_of_them: bool = False) -> None:
        """Write an entry for each reason whose period is over; call it every second or so."""
        now = self._clock()
        for reason, burst in list(self._bursts.items()):
            seconds = now - burst.since_s
            if seconds < PERIOD_S and not all_of_them:
                continue
            del self._bursts[reason]
            calls = {"calls": burst.methods.total(), "methods": dict(burst.methods)}
            rows = {"stream_rows": burst.rows}
            tell = _log.warning if reason in _SHORT else _log.info
            tell(
                "refused",
                reason=reason,
                **(calls if burst.methods else {}),
                **(rows if burst.rows else {}),
                **({"peers": dict(burst.peers)} if burst.peers else {}),
                seconds=round(seconds, 1),
            )

    # -- each call ------------------------------------------------------------------------

    def ended(
        self, method: str, code: str, *, began_s: float, request: Any, reply: Any, context: Any
    ) -> None:
        """Write the entry of one call.

        Args:
            method: its name.
            code: the name of its status.
            began_s: when it was accepted, by the clock.
            request: the message, its bytes where it could not be read, or what reads a stream.
            reply: the message; ``None`` where there is none, or many.
            context: the call, of gRPC.
        """
        facts = {
            "principal": calling.get().name,
            "session": getattr(request, "session_id", "") or _opened(reply),
            "request": _metadata(context, REQUEST_ID),
        }
        sizes = {"request_bytes": _size(request), "reply_bytes": _size(reply)}
        self._each(
            "call",
            method=method,
            code=code,
            seconds=round(self._clock() - began_s, 6),
            peer=context.peer(),
            **{name: _printable(value) for name, value in facts.items() if value},
            **{name: size for name, size in sizes.items() if size is not None},
        )


def _address(peer: str) -> str:
    """Where a connection comes from, without its port: each has another one."""
    return peer.rpartition(":")[0] if peer.startswith("ip") else peer


def _opened(reply: Any) -> str:
    """The id of the session that an open has made."""
    return getattr(getattr(reply, "session", None), "id", "")


def _metadata(context: Any, wanted: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == wanted and isinstance(value, str):
            return value
    return ""


def _size(message: Any) -> int | None:
    if isinstance(message, bytes):
        return len(message)
    size = getattr(message, "ByteSize", None)
    return None if size is None else int(size())


def _printable(text: str) -> str:
    """An id that moves no cursor and forges no entry: callers choose it."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST_ID else f"{text[:_LONGEST_ID]}..."
