"""How long sessions have been idle, and which for too long. Time is an argument."""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.table.columns import SessionColumns
from service.engine.work.columns import Ints, Mask


class Idleness(SessionColumns):
    """Which sessions are due: idle, and not used for longer than their timeouts."""

    @abstractmethod
    def idle(self, slots: Ints) -> Mask:
        """Which slots have nothing queued or running, (slots,)."""

    def count_idle(
        self, slots: Ints, *, idle_timeouts_s: NDArray[np.float32], now_s: float
    ) -> None:
        """Count the idleness of sessions, (rows,), from now on, against other timeouts, (rows,)."""
        self.last_used_s[slots] = now_s
        self.idle_timeout_s[slots] = idle_timeouts_s
        self._due_s = min(self._due_s, now_s + float(idle_timeouts_s.min(initial=np.inf)))

    def expired(self, now_s: float, *, at_most: int) -> Ints:
        """Some idle slots whose session has not been used for longer than its timeout.

        There are no others where none are returned.
        """
        found = self._next_expired(now_s, at_most)
        if not len(found) and self._due_s < now_s:  # mostly nobody goes over a million sessions
            slots = np.flatnonzero(self.idle_timeout_s[: self.top])
            self._due_s = self.due_s(slots)
            self._due = slots[self.last_used_s[slots] + self.idle_timeout_s[slots] < now_s]
            found = self._next_expired(now_s, at_most)
        return found

    def _next_expired(self, now_s: float, at_most: int) -> Ints:
        """Some of those that were due when all were looked at, and are so still."""
        while len(self._due):
            slots, self._due = self._due[:at_most], self._due[at_most:]
            slots = self.due(slots, now_s)
            if len(slots):
                return slots
        return self._due

    def due(self, slots: Ints, now_s: float) -> Ints:
        """Those whose session is idle, and has not been used for longer than its timeout."""
        timeout = self.idle_timeout_s[slots]
        due = (timeout > 0) & (self.last_used_s[slots] + timeout < now_s)
        return slots[due & self.idle(slots)]

    def due_s(self, slots: Ints) -> float:
        """When the first of these sessions expires, if none is used before."""
        due_s = self.last_used_s[slots] + self.idle_timeout_s[slots]
        return float(due_s.min(initial=np.inf))

    def taken(self, start: int, stop: int, *, used_before_s: float | None = None) -> Ints:
        """The slots of a range that have sessions, ascending.

        With ``used_before_s`` only those that were not used since.
        """
        found = self.idle_timeout_s[start:stop] > 0
        if used_before_s is not None:
            found &= self.last_used_s[start:stop] <= used_before_s
        return start + np.flatnonzero(found)
