"""Which sessions of one shard have a row of the device's arena, and where the others' states are.

The arena has fewer rows than there may be sessions. One that is idle may be *evicted*: its state is
copied to host memory, or a checkpoint of it is in the store, and its row is free. Whatever is asked
of a session that is out brings it back first, and waits for that alone: the row that it needs, and
its state. Rows are handed on in the order in which they were asked for.

A session at position 0 has read nothing: where it is out, its state is nowhere.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.allocator import SlotAllocator
from service.engine.sessions.host_rows import HostRows
from service.engine.sessions.table import SessionTable, SessionTier
from service.engine.work.columns import Floats, Ints
from service.engine.work.replies import Delivery, Receiver
from service.engine.work.work import Load, Save, Work
from service.metrics.metrics import TierMetrics

_LOADED_AT_ONCE = 256
_EVICTED_AT_ONCE = 1000
_LOOKED_AT = 8192  # rows that are drawn, of which the idlest are evicted
_COUNTED_AT_ONCE = 256
_AGAIN_S = 0.001  # no session could leave its row: look again


class Wanted(NamedTuple):
    """What `Tiers` has the shard do.

    Attributes:
        queue: takes work for slots, behind what is queued.
        hold: lets what is queued for slots from then on wait, until what it returns is called.
        wake: tells that work is queued.
        call_later: calls something after so many seconds.
        in_store: whether the state of a session that is out is in the store.
        seated: is told of a slot that has waited for a row, and has one.
    """

    queue: Callable[[Work], None]
    hold: Callable[[Ints], Callable[[], None]]
    wake: Callable[[], None]
    call_later: Callable[[float, Callable[[], None]], object]
    in_store: Callable[[int], bool]
    seated: Callable[[int], None]


class Tiers:
    """The rows of one shard's arena, and of host memory.

    Attributes:
        rows: which rows of the arena are free for sessions.
        host: rows of host memory.
        stow: has idle sessions' states be in the store alone; ``None`` where there is no store.

    Args:
        histories: see `Executor.histories`.
        resident: rows of the arena for sessions.
        host_rows: how many states host memory holds.
        metrics: of the model.
    """

    def __init__(
        self,
        table: SessionTable,
        histories: Mapping[int, Floats],
        wanted: Wanted,
        *,
        resident: int,
        host_rows: int,
        metrics: TierMetrics,
    ) -> None:
        self.rows = SlotAllocator(0, resident)
        # Whoever comes back holds his row until he is here, and whoever leaves needs one before.
        self.host = HostRows(host_rows + self._at_once if host_rows else 0)
        self._most_host_rows = host_rows
        self._metrics = metrics
        self._asked: dict[int, tuple[float, SessionTier]] = {}  # by slot, when and where it was
        self.stow: Callable[[], None] | None = None
        self._table = table
        self._histories = histories
        self._do = wanted
        self._slot_of = np.full(resident, -1, np.int64)  # by row
        self._waiting: OrderedDict[int, Callable[[], None]] = OrderedDict()  # for a row, by slot
        self._evicting = False
        self._some_left = False  # since that began
        self._looks = False  # it is about to make room
        self._random = np.random.default_rng(0)

    # -- lives ----------------------------------------------------------------------------

    def begin(self, slot: int, *, seated: bool = True) -> None:
        """A session begins in a slot: it has a row if there is one, and need not have one yet."""
        table = self._table
        table.row[slot] = table.host_row[slot] = -1
        if seated and self.rows.free:
            self._seat(slot)
        elif seated:
            table.cool(slot)
        self._see_to_room()

    def ends(self, slot: int) -> None:
        """A session ends: what is queued for it is refused, and waits for no row any more."""
        go_on = self._waiting.pop(slot, None)
        if go_on is not None:
            go_on()

    def end(self, slot: int) -> None:
        """Nothing is queued any more for a session that has ended."""
        self._asked.pop(slot, None)
        self._leave(slot)
        self._drop(slot)
        self._hand_on()

    def tier(self, slot: int) -> SessionTier:
        """Where the state of an open session is."""
        table = self._table
        if not table.cold[slot]:
            return SessionTier.DEVICE
        return SessionTier.STORE if self._do.in_store(slot) else SessionTier.HOST

    @property
    def on_device(self) -> int:
        """Sessions that have a row."""
        return self.rows.used

    # -- back -----------------------------------------------------------------------------

    def bring(self, slots: Ints) -> None:
        """Sessions whose states are out, (rows,), are to come back.

        Each gets a row, or what is queued for it from here on waits for one. Those that are in host
        memory are loaded; those in the store are left to whoever has them there.
        """
        loaded: list[int] = []
        done = 0
        try:
            for slot in slots.tolist():
                self._bring(slot, loaded)
            for start in range(0, len(loaded), _LOADED_AT_ONCE):
                self._load(np.array(loaded[start : start + _LOADED_AT_ONCE], np.int64))
                done = start + _LOADED_AT_ONCE
        except BaseException:  # the queue will be given up; these are still out
            for slot in loaded[done:]:
                self._waiting.pop(slot, None)
                self._leave(slot)
                self._table.cool(slot)
            raise
        self._see_to_room()

    def _bring(self, slot: int, loaded: list[int]) -> None:
        table = self._table
        if table.row[slot] < 0:
            if self.rows.free and not self._waiting:
                self._seat(slot)
            else:
                assert slot not in self._waiting, "it is on its way"
                self._waiting[slot] = self._do.hold(np.array([slot]))
        if table.host_row[slot] >= 0:
            loaded.append(slot)
            self._asked[slot] = time.monotonic(), SessionTier.HOST
            table.warm(slot)
        elif self._do.in_store(slot):
            self._asked[slot] = time.monotonic(), SessionTier.STORE
        else:
            table.warm(slot)

    def _load(self, slots: Ints) -> None:
        table, kept = self._table, self._histories
        last_steps, contents = table.last_request(slots)
        load = Load(
            slots=slots,
            branches=table.branch[slots],
            states=self.host.read(table.host_row[slots]),
            positions=table.position[slots],
            last_steps=last_steps,
            contents=contents,
            histories={s: kept[s] for s in slots.tolist() if s in kept} if kept else {},
            stays=True,
        )
        assert load.branches is not None, "they are on one"
        load.reply_to = _Landing(self, load.slots, load.branches)
        self._do.queue(load)

    def is_on_its_way(self, slot: int) -> bool:
        """Whether the state of a session comes back from the store."""
        return self._asked.get(slot, (0.0, SessionTier.DEVICE))[1] is SessionTier.STORE

    def is_back(self, slot: int) -> None:
        """The state of a session is in its row again."""
        asked_s, tier = self._asked.pop(slot, (0.0, SessionTier.DEVICE))
        if asked_s:
            self._metrics.misses[tier].inc()
            found = self._metrics.restore_s[tier]
            found.noted.append(time.monotonic() - asked_s)
            if len(found.noted) >= _COUNTED_AT_ONCE:
                found.count_noted()

    def loaded(self, slots: Ints) -> None:
        """States are in their rows from now on, wherever they were before."""
        for slot in slots[self._table.host_row[slots] >= 0].tolist():
            self._drop(slot)

    def landed(self, slots: Ints, branches: NDArray[np.uint64], delivery: Delivery) -> None:
        """Some sessions of a load are back, or could not be.

        Args:
            slots: of the load, (rows,).
            branches: that they were on then, (rows,).
            delivery: what became of some.
        """
        table, rows = self._table, delivery.rows
        if delivery.error is None:
            for slot in slots[rows].tolist():
                self.is_back(slot)
            return
        for row in rows.tolist():
            slot = int(slots[row])
            if table.branch[slot] != branches[row] or table.restoring[slot]:
                self._drop(slot)  # it is elsewhere by now, or comes from the log
            elif table.host_row[slot] < 0:  # it was in its row before its run failed
                self.is_back(slot)
            elif not table.closing[slot]:  # its state is where it was
                table.lost[slot] = False
                self._leave(slot)
                table.cool(slot)

    def states(self, slots: Ints) -> list[Floats]:
        """Copies of the states in host memory, see `Runner.read`."""
        return self.host.read(self._table.host_row[slots])

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
        self._table.host_row[slots] = self.host.put([rows[indices] for rows in save.states])
        for slot in slots.tolist():
            self._leave(slot)
            self._table.cool(slot)
        self._metrics.evictions.inc(len(slots))
        self._some_left = True
        self._hand_on()

    def eviction_ends(self, *, failed: bool) -> None:
        """Sessions have left their rows, or could not: not at once again, then."""
        self._evicting = False
        self._see_to_room(0.0 if self._some_left and not failed else _AGAIN_S)
        self._some_left = False

    def may_leave(self, slot: int) -> bool:
        """Whether a session is idle, and has a row or is in host memory."""
        table = self._table
        is_here = table.row[slot] >= 0 and bool(table.evictable(np.array([slot]))[0])
        return is_here or bool(
            table.host_row[slot] >= 0 and table.cold[slot] and table.is_idle(slot)
        )

    def leave_to_store(self, slot: int) -> None:
        """The state of an idle session is in the store, and need not be anywhere else."""
        if self._table.row[slot] >= 0:
            self._metrics.evictions.inc()
        self._leave(slot)
        self._drop(slot)
        if not self._table.cold[slot]:
            self._table.cool(slot)
        self._hand_on()

    def stowable(self, at_most: int) -> Ints:
        """The idlest sessions, (rows,), whose states might be in the store alone.

        Of those in host memory, or with a row where that is full of sessions that come back.
        """
        table = self._table
        found = np.flatnonzero(table.cold[: table.top] & (table.host_row[: table.top] >= 0))
        found = found[table.idle(found) & (table.idle_timeout_s[found] > 0)]
        if not len(found):
            found = self._drawn()
            found = found[table.evictable(found) & (table.position[found] > 0)]
            return found[: self._at_once]
        return found[np.argsort(table.last_used_s[found])][:at_most]

    @property
    def is_tight(self) -> bool:
        """Whether states have to go to the store, so that others have room."""
        if not self._most_host_rows:
            return bool(self._waiting) or self.rows.free < self._margin
        return self.host.slots.free <= self.host.slots.capacity // 4

    @property
    def roomy(self) -> int:
        """So many sessions may have rows that nobody has asked for."""
        return 0 if self._waiting else max(0, self.rows.free - self._margin)

    def give_up(self) -> None:
        """The queue is about to be emptied: nobody waits for a row any more."""
        waiting, self._waiting = self._waiting, OrderedDict()
        self._evicting = False  # what was to leave is refused, or hears so itself
        for slot in waiting:
            self._table.cool(slot)

    # -- inside ---------------------------------------------------------------------------

    @property
    def _at_once(self) -> int:
        """So many leave together."""
        return min(_EVICTED_AT_ONCE, max(1, self.rows.capacity // 10))

    @property
    def _margin(self) -> int:
        """So many rows are to be free: it takes a moment until others are."""
        return self.rows.capacity // 100

    def _seat(self, slot: int) -> None:
        row = self.rows.allocate()
        self._table.row[slot], self._slot_of[row] = row, slot

    def _leave(self, slot: int) -> None:
        """Free the row of a slot, if it has one."""
        row = self._table.row.item(slot)
        if row >= 0:
            self._table.row[slot] = self._slot_of[row] = -1
            self.rows.release(row)

    def _drop(self, slot: int) -> None:
        """Free the host memory of a slot, if it has some."""
        row = self._table.host_row.item(slot)
        if row >= 0:
            self._table.host_row[slot] = -1
            self.host.slots.release(row)

    def _hand_on(self) -> None:
        """Give free rows to those that wait for one."""
        while self._waiting and self.rows.free:
            slot, go_on = self._waiting.popitem(last=False)
            self._seat(slot)
            self._do.seated(slot)
            go_on()

    def _see_to_room(self, after_s: float = 0.0) -> None:
        """Have rows freed soon, if there are too few.

        Not at once: whoever has just seen that a session is here is about to queue something.
        """
        if self._looks or self._evicting or not (self._most_host_rows or self.stow):
            return
        if self._waiting or self.rows.free < self._margin:
            self._looks = True
            self._do.call_later(after_s, self._make_room)

    def _make_room(self) -> None:
        self._looks = False
        if self._evicting or not (self._waiting or self.rows.free < self._margin):
            return
        if self.stow is not None and self.is_tight:
            self.stow()
        slots = self._drawn()
        for slot in slots[self._table.is_nowhere(slots)].tolist():
            self._leave(slot)
            self._table.cool(slot)
        slots = slots[self._table.evictable(slots)]
        unread = self._table.fresh(slots, self._table.accepted[slots])
        for slot in slots[unread][: self._at_once].tolist():  # nothing to keep
            self._leave(slot)
            self._table.cool(slot)
        slots = slots[~unread][: min(self._at_once, self.host.slots.free)]
        self._hand_on()
        if len(slots):
            self._evicting = True
            save = Save(slots=slots, evicts=True)
            save.reply_to = _Evicting(self, save)
            self._do.queue(save)
            self._do.wake()
        elif self._waiting:
            self._see_to_room(_AGAIN_S)

    def _drawn(self) -> Ints:
        """Some slots that have rows, (slots,), the idlest first."""
        used = self.rows.used_rows
        rows = (
            np.arange(used) if used <= _LOOKED_AT else self._random.integers(used, size=_LOOKED_AT)
        )
        slots = np.unique(self._slot_of[rows])
        slots = slots[slots >= 0]
        return slots[np.argsort(self._table.last_used_s[slots], kind="stable")]


class _Landing(Receiver):
    """Hears that sessions are back from host memory.

    It does not know the load: each would keep the other, and the states, until it is collected.
    """

    is_inside = True
    wake = staticmethod(lambda: None)

    def __init__(self, tiers: Tiers, slots: Ints, branches: NDArray[np.uint64]) -> None:
        self._tiers = tiers
        self._slots, self._branches = slots, branches

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self._tiers.landed(self._slots, self._branches, delivery)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        self.deliver(delivery)


class _Evicting(Receiver):
    """Hears that sessions' states have been read so that they may leave their rows."""

    is_inside = True
    wake = staticmethod(lambda: None)

    def __init__(self, tiers: Tiers, save: Save) -> None:
        self._tiers = tiers
        self._missing = len(save.slots)

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self._missing -= len(delivery.rows)
        if self._missing <= 0:
            self._tiers.eviction_ends(failed=delivery.error is not None)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        self.deliver(delivery)
