"""Which session has which row, of the arena and of host memory.

Knows nothing of who wants one.
"""

import numpy as np

from service.engine.sessions.allocator import SlotAllocator
from service.engine.sessions.host_rows import HostRows
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Floats, Ints

_LOOKED_AT = 8192  # rows that are drawn, of which the idlest are evicted


class Seats:
    """The rows of one shard.

    Attributes:
        rows: which rows of the arena are free for sessions.
        host: rows of host memory.

    Args:
        resident: rows of the arena for sessions.
        host_rows: how many states host memory holds.
    """

    def __init__(self, table: SessionTable, *, resident: int, host_rows: int) -> None:
        self.rows = SlotAllocator(0, resident)
        self.host = HostRows(host_rows)
        self._table = table
        self._slot_of = np.full(resident, -1, np.int64)  # by row
        self._random = np.random.default_rng(0)

    def take(self, slots: Ints) -> None:
        """Give rows of the arena to slots that have none; so many are free."""
        if len(slots):
            rows = self.rows.allocate_many(len(slots))
            self._table.row[slots], self._slot_of[rows] = rows, slots

    def leave(self, slots: Ints) -> None:
        """Free the rows of those of these slots that have one."""
        slots = slots[self._table.row[slots] >= 0]
        if len(slots):
            rows = self._table.row[slots]
            self._table.row[slots] = self._slot_of[rows] = -1
            self.rows.release_many(rows)

    def keep(self, slots: Ints, states: list[Floats]) -> None:
        """Put states, (slots, ...) for each tensor, into host memory; so many rows are free."""
        self._table.host_row[slots] = self.host.put(states)

    def drop(self, slots: Ints) -> None:
        """Free the host memory of those of these slots that have some."""
        slots = slots[self._table.host_row[slots] >= 0]
        if len(slots):
            rows = self._table.host_row[slots]
            self._table.host_row[slots] = -1
            self.host.slots.release_many(rows)

    def drawn(self) -> Ints:
        """Some slots that have rows of the arena, (slots,), the idlest first."""
        used = self.rows.touched
        rows: Ints = np.arange(used)
        if used > _LOOKED_AT:
            rows = np.unique(self._random.integers(used, size=_LOOKED_AT))
        slots = self._slot_of[rows]
        slots = slots[slots >= 0]
        return slots[np.argsort(self._table.last_used_s[slots], kind="stable")]
