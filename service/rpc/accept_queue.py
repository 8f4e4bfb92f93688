"""Calls that wait inside gRPC to be accepted, and which of them are refused then.

`grpc.aio` accepts one call per turn of the event loop. What comes faster than the server can answer
waits in gRPC's core, where nobody sees it and its own limits cut it off with a bare CANCELLED; so
those limits are raised, and the queue is looked at here.
"""

import json
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from service.errors import OverloadedError

try:
    cygrpc: Any = import_module("grpc._cython.cygrpc")
except ImportError:  # another build of gRPC: then nothing is refused here
    cygrpc = None

# Calls that gRPC's core lets wait before it cuts some of them, or all, off: some 20 KB each. Those
# who are refused in time stay far below that.
_SOME_WAIT, _ALL_WAIT = 20_000, 40_000


def core_options(*, is_exposed: bool) -> Sequence[tuple[str, int]]:
    """The options of gRPC's servers for calls that wait to be accepted.

    Args:
        is_exposed: strangers reach the port. Then a call that its client has reset counts among
            those of its connection until the core has cleared it up; else a connection that resets
            its calls at once has the server hold tens of thousands a second. The price: of a client
            that has as many calls open on a connection as it may, every third is reset.
    """
    return (
        ("grpc.server.max_pending_requests", _SOME_WAIT),
        ("grpc.server.max_pending_requests_hard_limit", _ALL_WAIT),
        ("grpc.enable_channelz", 1),
        ("grpc.http.overload_protection", int(is_exposed)),
    )


_LOOK_S = 0.05  # a look at the queue costs .3 ms
_LONGEST_LOOK_S = 0.5
_WORTH_A_LOOK = 16  # calls accepted since the last one: fewer are no load
_KEPT = 0.9  # of what was measured, at each look: half a second is remembered
# To refuse a call takes a bare gRPC server 150 us, as long as a step takes this one: refusing half
# of 6,000 callers halved what was served. So calls may wait for longer than steps in a queue, and
# even then no more than half of them are refused: those who were are told to stay away for longer.
_TIMES = 8.0
_MOST_REFUSED = 0.5
_LONGEST_RETRY_S = 5.0


class AcceptQueue:
    """How long calls wait to be accepted, and whether they are refused for it.

    Args:
        max_queue_s: the longest that steps may wait in a queue; calls may for eight times that.
        running: tells how many calls were accepted and have not ended.
        show: called with the number of calls that wait.
    """

    def __init__(
        self,
        max_queue_s: float,
        *,
        running: Callable[[], int],
        show: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waiting = 0
        """Calls that waited when it was looked last."""
        self._longest_s = _TIMES * max_queue_s
        self._running = running
        self.started: Callable[[], int] = lambda: 0
        """Tells how many calls have come and not ended, accepted or not."""
        self._show = show
        self._clock = clock
        self._accepted = 0  # since the last look
        self._looked_s = clock()
        self._seconds = 0.0  # that some calls took to be accepted
        self._calls = 0.0
        self._call_s = 0.0  # from one to the next
        self._share = 0.0  # of calls to refuse
        self._owed = 0.0  # refusals
        self._retry_s = 0.0  # up to then others were told to come again

    def check(self) -> None:
        """Check that a call that was just accepted may be served.

        Raises:
            OverloadedError: too many others wait.
        """
        self._accepted += 1
        if self._accepted >= _WORTH_A_LOOK:
            now_s = self._clock()
            if now_s - self._looked_s >= _LOOK_S:
                self._look(now_s)
        if not self._share:
            return
        self._owed += self._share
        if self._owed >= 1.0:
            self._owed -= 1.0
            raise self._refusal()

    def note(self) -> None:
        """Count a call that was accepted and refused at once, however few wait."""
        self._accepted += 1

    def _look(self, now_s: float) -> None:
        took_s, accepted = now_s - self._looked_s, self._accepted
        self._looked_s, self._accepted = now_s, 0
        if took_s > _LONGEST_LOOK_S:  # there was a pause in it, which says nothing
            self.waiting, self._share = 0, 0.0
            self._show(0)
            return
        self._seconds = _KEPT * self._seconds + took_s
        self._calls = _KEPT * self._calls + accepted
        self._call_s = self._seconds / self._calls
        self.waiting = max(0, self.started() - self._running())
        self._show(self.waiting)
        over = 2 * self.waiting * self._call_s / self._longest_s - 1  # 0 at half of it, then 1
        self._share = min(max(over, 0.0), _MOST_REFUSED)

    def _refusal(self) -> OverloadedError:
        """Those who are refused are to come one after the other, once the queue is gone."""
        now_s = self._clock()
        gone_s = now_s + self.waiting * self._call_s
        self._retry_s = min(max(self._retry_s, gone_s) + self._call_s, now_s + _LONGEST_RETRY_S)
        retry_s = round(self._retry_s - now_s, 2)
        return OverloadedError(
            f"{self.waiting} calls wait to be accepted: try again in {retry_s:g} s",
            retry_after_s=retry_s,
        )


def calls_of_newest_server() -> Callable[[], int]:
    """What tells how many calls of the server made last have come and have not ended.

    gRPC counts them for its channelz service.
    """
    if cygrpc is None:
        return lambda: 0
    servers = json.loads(cygrpc.channelz_get_servers(0)).get("server", [])
    if not servers:
        return lambda: 0
    number = max(int(server["ref"]["serverId"]) for server in servers)

    def started() -> int:
        found: dict[str, Any] = json.loads(cygrpc.channelz_get_server(number))["server"]["data"]
        ended = int(found.get("callsSucceeded", 0)) + int(found.get("callsFailed", 0))
        return int(found.get("callsStarted", 0)) - ended

    return started
