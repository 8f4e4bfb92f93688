"""Sessions that end with the last stream that they are attached to.

While such a session is on a stream, it expires as any other. While it is on none, its idle timeout
is the grace, in which a client that has lost its connection may come back. Knows nothing of
streams or time: time is an argument.
"""

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Ints, Mask


class EphemeralSessions:
    """Which sessions of one shard are ephemeral, and how many streams have each; by slot.

    Args:
        table: whose idle timeouts these set.
        grace_s: how long one that is on no stream may be idle.
    """

    def __init__(self, table: SessionTable, *, grace_s: float) -> None:
        slots = len(table)
        self.idle_timeout_s: NDArray[np.float32] = np.zeros(slots, np.float32)
        """Of every session the one that was asked for."""
        self._table = table
        self._grace_s = grace_s
        self.marks: Mask = np.zeros(slots, np.bool_)
        """Which slots have an ephemeral session."""
        self._streams: NDArray[np.int32] = np.zeros(slots, np.int32)

    def __contains__(self, slot: int) -> bool:
        return bool(self.marks.item(slot))

    def is_alone(self, slot: int) -> bool:
        """Whether a session is ephemeral, and on no stream."""
        return slot in self and not self._streams.item(slot)

    def begin(self, slot: int, *, idle_timeout_s: float, ephemeral: bool) -> float:
        """A session begins in a slot, on no stream; returns the idle timeout that it has there."""
        self.idle_timeout_s[slot] = idle_timeout_s
        self.marks[slot] = ephemeral
        self._streams[slot] = 0
        return min(idle_timeout_s, self._grace_s) if ephemeral else idle_timeout_s

    def timeout_s(self, slot: int) -> float:
        """The idle timeout that a session has that is on no stream."""
        own = self.idle_timeout_s.item(slot)
        return min(own, self._grace_s) if slot in self else own

    def hold(self, slot: int) -> None:
        """A stream has attached an ephemeral session."""
        self._streams[slot] += 1
        self._table.idle_timeout_s[slot] = self.idle_timeout_s[slot]

    def let_go(self, slots: Ints, *, now_s: float) -> None:
        """A stream has these no more, (rows,), as often as each is named; they were held before.

        Those that are not ephemeral, or are closed by now, are left out.
        """
        slots = slots[self.marks[slots]]
        np.subtract.at(self._streams, slots, 1)
        self.leave_alone(np.unique(slots[self._streams[slots] == 0]), now_s=now_s)

    def leave_alone(self, slots: Ints, *, now_s: float) -> None:
        """Ephemeral sessions, (rows,), are on no stream from now on: their grace begins."""
        slots = slots[self._table.idle_timeout_s[slots] > 0]
        timeouts_s = np.minimum(self.idle_timeout_s[slots], np.float32(self._grace_s))
        self._table.count_idle(slots, idle_timeouts_s=timeouts_s, now_s=now_s)
