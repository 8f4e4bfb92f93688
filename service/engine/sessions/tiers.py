"""Which sessions of one shard have a row of the device's arena, and where the others' states are.

The arena has fewer rows than there may be sessions. One that is idle may be *evicted*: its state is
copied to host memory, or a checkpoint of it is in the store, and its row is free. Whatever is asked
of a session that is out brings it back first, and waits for that alone: the row that it needs, and
its state. Rows are handed on to one party after the other, see `Waiting`.

A session at position 0 has read nothing: where it is out, its state is nowhere.
"""

import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.rows.leaving import Leaving, at_once
from service.engine.sessions.rows.seats import Seats
from service.engine.sessions.rows.waiting import Waiting
from service.engine.sessions.table.status import SessionTier
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Floats, Ints, Mask
from service.engine.work.replies import Delivery, InsideReceiver
from service.engine.work.work import Load, Save, Work
from service.metrics.metrics import TierMetrics

_LOADED_AT_ONCE = 256
_COUNTED_AT_ONCE = 256
_TIERS = (SessionTier.DEVICE, SessionTier.HOST, SessionTier.STORE)
_DEVICE, _HOST, _STORE = range(3)  # of these


class Wanted(NamedTuple):
    """What `Tiers` has the shard do.

    Attributes:
        queue: takes work for slots, behind what is queued.
        hold: lets what is queued for slots from then on wait, see `Scheduler.hold_each`.
        let_go: lets it go on, see `Scheduler.let_go`.
        wake: tells that work is queued.
        call_later: calls something after so many seconds.
        in_store: whether the states of sessions that are out are in the store.
        seated: is told of slots that have waited for rows, and have them.
    """

    queue: Callable[[Work], None]
    hold: Callable[[Ints], NDArray[np.int32]]
    let_go: Callable[[Ints, NDArray[np.int32]], None]
    wake: Callable[[], None]
    call_later: Callable[[float, Callable[[], None]], object]
    in_store: Callable[[Ints], Mask]
    seated: Callable[[Ints], None]


class Tiers:
    """The rows of one shard's arena, and of host memory.

    Attributes:
        rows: which rows of the arena are free for sessions.
        host: rows of host memory.
        leaving: has rows freed.

    Args:
        resident: rows of the arena for sessions.
        host_rows: how many states host memory holds.
        metrics: of the model.
    """

    def __init__(
        self,
        table: SessionTable,
        wanted: Wanted,
        *,
        resident: int,
        host_rows: int,
        metrics: TierMetrics,
    ) -> None:
        # Whoever comes back holds his row until he is here, and whoever leaves needs one before.
        more = at_once(resident) if host_rows else 0
        self._seats = Seats(table, resident=resident, host_rows=host_rows + more)
        self.rows, self.host = self._seats.rows, self._seats.host
        self._metrics = metrics
        self._table = table
        self._do = wanted
        self._waiting = Waiting(len(table))
        # By slot, of those on their way: when they were asked for, and which tier had them.
        self._asked_s = np.zeros(len(table), np.float64)
        self._asked = np.zeros(len(table), np.int8)
        self.leaving = Leaving(
            table,
            self._seats,
            self._waiting,
            has_host=host_rows > 0,
            queue=wanted.queue,
            wake=wanted.wake,
            call_later=wanted.call_later,
            hand_on=self._hand_on,
        )

    # -- lives ----------------------------------------------------------------------------

    def begin(self, slot: int, *, seated: bool = True) -> None:
        """A session begins in a slot: it has a row if there is one, and need not have one yet."""
        table = self._table
        table.row[slot] = table.host_row[slot] = -1
        if seated and self.rows.free:
            self._seats.take(np.array([slot], np.int64))
        elif seated:
            table.cool(slot)
        self.leaving.see_to_room()

    def ends(self, slot: int) -> None:
        """A session ends: what is queued for it is refused, and waits for no row any more."""
        slots, tickets = self._waiting.leave(np.array([slot], np.int64))
        if len(slots):
            self._do.let_go(slots, tickets)

    def end(self, slot: int) -> None:
        """Nothing is queued any more for a session that has ended."""
        slots = np.array([slot], np.int64)
        self._asked[slot] = _DEVICE
        self._seats.leave(slots)
        self._seats.drop(slots)
        self._hand_on()

    def tier(self, slot: int) -> SessionTier:
        """Where the state of an open session is."""
        if not self._table.cold[slot]:
            return SessionTier.DEVICE
        return SessionTier.STORE if self._do.in_store(np.array([slot]))[0] else SessionTier.HOST

    @property
    def on_device(self) -> int:
        """Sessions that have a row."""
        return self.rows.used

    # -- back -----------------------------------------------------------------------------

    def bring(self, slots: Ints, party: Hashable = None) -> None:
        """Sessions whose states are out, (rows,), are to come back, as a party asks for them.

        Each gets a row, or what is queued for it from here on waits for one. Those that are in host
        memory are loaded; those in the store are left to whoever has them there.
        """
        table = self._table
        in_host = table.host_row[slots] >= 0
        in_store = self._do.in_store(slots) & ~in_host
        loaded = slots[in_host]
        seatless = slots[table.row[slots] < 0]
        free = 0 if self._waiting.count else min(self.rows.free, len(seatless))
        self._seats.take(seatless[:free])
        if len(seatless) > free:
            rest = seatless[free:]
            self._waiting.add(rest, self._do.hold(rest), party)
        self._asked_s[slots] = time.monotonic()
        self._asked[slots] = np.where(in_store, _STORE, np.where(in_host, _HOST, _DEVICE))
        table.warm(slots[~in_store])
        done = 0
        try:
            for start in range(0, len(loaded), _LOADED_AT_ONCE):
                self._load(loaded[start : start + _LOADED_AT_ONCE])
                done = start + _LOADED_AT_ONCE
        except BaseException:  # the queue will be given up; these are still out
            left = loaded[done:]
            self._waiting.leave(left)
            self._seats.leave(left)
            table.cool(left)
            raise
        self.leaving.see_to_room()

    def _load(self, slots: Ints) -> None:
        """Queue what puts states in host memory into rows; they are read when it runs."""
        table = self._table
        last_steps, contents = table.last_request(slots)
        load = Load(
            slots=slots,
            branches=table.branch[slots],
            states=[],
            positions=table.position[slots],
            last_steps=last_steps,
            contents=contents,
            in_host=True,
        )
        load.reply_to = _Landing(self, load.slots)
        self._do.queue(load)

    def is_back(self, slots: Ints) -> None:
        """The states of sessions are in their rows again."""
        asked, now_s = self._asked[slots], time.monotonic()
        for code in (_HOST, _STORE):
            own = slots[asked == code]
            if not len(own):
                continue
            self._metrics.misses[_TIERS[code]].inc(len(own))
            found = self._metrics.restore_s[_TIERS[code]]
            found.noted += (now_s - self._asked_s[own]).tolist()
            if len(found.noted) >= _COUNTED_AT_ONCE:
                found.count_noted()
        self._asked[slots] = _DEVICE

    def loaded(self, slots: Ints) -> None:
        """States are in their rows from now on, or will be, wherever they were before."""
        self._seats.drop(slots)

    def stay_in_host(self, slots: Ints) -> None:
        """The states of sessions could not come from host memory: they are there as before."""
        there = self._table.host_row[slots] >= 0
        self.is_back(slots[~there])  # it was in its row before its run failed
        self.stay_out(slots[there])

    def stay_out(self, slots: Ints) -> None:
        """States that were on their way stay out: what is queued behind that is refused."""
        self._seats.leave(slots)
        self._table.stays_out(slots)
        self._hand_on()

    def states(self, slots: Ints) -> list[Floats]:
        """Copies of the states in host memory, see `Runner.read`.

        Raises:
            RuntimeError: one has none there: a row below 0 would be read as the last.
        """
        rows = self._table.host_row[slots]
        if np.count_nonzero(rows < 0):
            raise RuntimeError("a state is to be read that is not in host memory")
        return self.host.read(rows)

    # -- out ------------------------------------------------------------------------------

    def evicted_by(self, save: Save, indices: Ints) -> None:
        """States of sessions have been read so that these may leave their rows; some of them can.

        Called where they are committed: their sessions have nothing else queued, or stay.
        """
        slots = save.slots[indices]
        leave = self._table.evictable(slots, queued=1) & (self._table.row[slots] >= 0)
        leave &= np.cumsum(leave) <= self.host.slots.free
        indices, slots = indices[leave], slots[leave]
        if not len(slots):
            return
        self._seats.keep(slots, [rows[indices] for rows in save.states])
        self._seats.leave(slots)
        self._table.cool(slots)
        self._metrics.evictions.inc(len(slots))
        self.leaving.some_left()
        self._hand_on()

    def may_leave(self, slots: Ints) -> Mask:
        """Which sessions are idle, and have a row or are in host memory, (rows,)."""
        table = self._table
        is_here = (table.row[slots] >= 0) & table.evictable(slots)
        is_out: Mask = (table.host_row[slots] >= 0) & table.cold[slots] & table.idle(slots)
        return is_here | is_out

    def leave_to_store(self, slots: Ints) -> None:
        """The states of idle sessions are in the store, and need not be anywhere else."""
        evicted = int(np.count_nonzero(self._table.row[slots] >= 0))
        if evicted:
            self._metrics.evictions.inc(evicted)
        self._seats.leave(slots)
        self._seats.drop(slots)
        self._table.cool(slots)
        self._hand_on()

    def give_up(self) -> None:
        """The queue is about to be emptied: nobody waits for a row any more."""
        self._table.cool(self._waiting.clear())
        self.leaving.give_up()

    def _hand_on(self) -> None:
        """Give free rows to those that wait for one."""
        while self._waiting.count and self.rows.free:
            slots, tickets = self._waiting.next(self.rows.free)
            if len(slots):  # else those whose turn it was have ended
                self._seats.take(slots)
                self._do.seated(slots)
                self._do.let_go(slots, tickets)


class _Landing(InsideReceiver):
    """Hears that sessions are back from host memory.

    It does not know the load: each would keep the other until it is collected.
    """

    def __init__(self, tiers: Tiers, slots: Ints) -> None:
        self._tiers = tiers
        self._slots = slots

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        if delivery.error is None:  # else it is known since then
            self._tiers.is_back(self._slots[delivery.rows])
