"""Which sessions leave their rows of the arena, and when. Knows nothing of who comes back."""

from collections.abc import Callable

import numpy as np

from service.engine.sessions.rows.seats import Seats
from service.engine.sessions.rows.waiting import Waiting
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Ints
from service.engine.work.replies import Delivery, InsideReceiver
from service.engine.work.work import Save, Work

_EVICTED_AT_ONCE = 1000
_AGAIN_S = 0.001  # no session could leave its row: look again
_LOOKS = 8  # of so many times only once at every row, where there is no room for states


def at_once(resident: int) -> int:
    """So many leave an arena of so many rows together."""
    return min(_EVICTED_AT_ONCE, max(1, resident // 10))


class Leaving:
    """Has rows of one shard freed when there are too few.

    Attributes:
        stow: has idle sessions' states be in the store alone; ``None`` where there is no store.

    Args:
        has_host: whether host memory is for those that leave.
        queue: takes work for slots, behind what is queued.
        wake: tells that work is queued.
        call_later: calls something after so many seconds.
        hand_on: gives free rows to who waits.
    """

    def __init__(
        self,
        table: SessionTable,
        seats: Seats,
        waiting: Waiting,
        *,
        has_host: bool,
        queue: Callable[[Work], None],
        wake: Callable[[], None],
        call_later: Callable[[float, Callable[[], None]], object],
        hand_on: Callable[[], None],
    ) -> None:
        self.stow: Callable[[], None] | None = None
        self._table = table
        self._seats = seats
        self._waiting = waiting
        self._has_host = has_host
        self._queue = queue
        self._wake = wake
        self._call_later = call_later
        self._hand_on = hand_on
        self._evicting = False
        self._some_left = False  # since that began
        self._looks = False  # it is about to make room
        self._in_vain = 0  # so often there was no room for states

    @property
    def is_tight(self) -> bool:
        """Whether states have to go to the store, so that others have room."""
        if not self._has_host:
            return self._is_short
        host = self._seats.host.slots
        return host.free <= host.capacity // 4

    @property
    def roomy(self) -> int:
        """So many sessions may have rows that nobody has asked for."""
        return 0 if self._waiting.count else max(0, self._seats.rows.free - self._margin)

    def see_to_room(self, after_s: float = 0.0) -> None:
        """Have rows freed soon, if there are too few.

        Not at once: whoever has just seen that a session is here is about to queue something.
        """
        if self._looks or self._evicting or not (self._has_host or self.stow):
            return
        if self._is_short:
            self._looks = True
            self._call_later(after_s, self._make_room)

    def some_left(self) -> None:
        """Sessions have left their rows since it was seen to that they do."""
        self._some_left = True

    def ends(self, *, failed: bool) -> None:
        """Sessions have left their rows, or could not: not at once again, then."""
        self._evicting = False
        self.see_to_room(0.0 if self._some_left and not failed else _AGAIN_S)
        self._some_left = False

    def give_up(self) -> None:
        """The queue is about to be emptied: who was to leave is refused, or hears so himself."""
        self._evicting = False

    def stowable(self, at_most: int) -> Ints:
        """The idlest sessions, (rows,), whose states might be in the store alone.

        Of those in host memory, or with a row where that is full of sessions that come back.
        """
        table = self._table
        found = np.flatnonzero(table.cold[: table.top] & (table.host_row[: table.top] >= 0))
        found = found[table.idle(found) & (table.idle_timeout_s[found] > 0)]
        if not len(found):
            found = self._seats.drawn()
            found = found[table.evictable(found) & (table.position[found] > 0)]
            return found[: at_once(self._seats.rows.capacity)]
        used_s = table.last_used_s[found]
        if len(found) > at_most:  # of 50,000, to sort all takes ten times as long
            found = found[np.argpartition(used_s, at_most)[:at_most]]
            used_s = table.last_used_s[found]
        return found[np.argsort(used_s)]

    # -- inside ---------------------------------------------------------------------------

    @property
    def _margin(self) -> int:
        """So many rows are to be free: it takes a moment until others are."""
        return self._seats.rows.capacity // 100

    @property
    def _is_short(self) -> bool:
        return bool(self._waiting.count) or self._seats.rows.free < self._margin

    def _make_room(self) -> None:
        self._looks = False
        if self._evicting or not self._is_short:
            return
        if self.stow is not None and self.is_tight:
            self.stow()
        self._in_vain = 0 if self._seats.host.slots.free else self._in_vain + 1
        if self._in_vain % _LOOKS > 1:  # those that have none, and could leave, are few
            self.see_to_room(_AGAIN_S)
            return
        table, most = self._table, at_once(self._seats.rows.capacity)
        slots = self._seats.drawn()
        nowhere = table.is_nowhere(slots)
        able = table.evictable(slots) & ~nowhere
        unread = table.fresh(slots, table.accepted[slots]) & able
        gone = slots[nowhere | (unread & (np.cumsum(unread) <= most))]  # nothing to keep
        self._seats.leave(gone)
        table.cool(gone)
        slots = slots[able & ~unread][: min(most, self._seats.host.slots.free)]
        self._hand_on()
        if len(slots):
            self._evicting = True
            save = Save(slots=slots, evicts=True)
            save.reply_to = _Evicting(self, save)
            self._queue(save)
            self._wake()
        elif self._waiting.count:
            self.see_to_room(_AGAIN_S)


class _Evicting(InsideReceiver):
    """Hears that sessions' states have been read so that they may leave their rows."""

    def __init__(self, leaving: Leaving, save: Save) -> None:
        self._leaving = leaving
        self._missing = len(save.slots)

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self._missing -= len(delivery.rows)
        if self._missing <= 0:
            self._leaving.ends(failed=delivery.error is not None)
