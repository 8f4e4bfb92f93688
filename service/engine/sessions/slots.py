"""Which slots are taken, by whom, and when one is free for the next.

A slot is handed on only once nothing is queued for it: a step of one session can then never reach
another. Knows nothing of models.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.allocator import SlotAllocator
from service.engine.sessions.ephemeral import EphemeralSessions
from service.engine.sessions.table.table import SessionTable
from service.engine.sessions.tiers import Tiers
from service.engine.work.columns import Ints
from service.engine.work.work import Fork


class SlotManager:
    """The slots of one shard: those of its sessions, and spare ones that are borrowed.

    Args:
        table: where each session stands, and what is queued for each slot.
        sessions: slots of sessions; they come first.
        spares: slots to borrow, behind them.
        ephemeral_grace_s: see `EphemeralSessions`.
        tiers: gives sessions rows of the arena.
        forget: called with a slot whose session is gone for good.
        wake: tells that work may run that could not before.
    """

    def __init__(
        self,
        table: SessionTable,
        *,
        sessions: int,
        spares: int,
        ephemeral_grace_s: float,
        tiers: Tiers,
        forget: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        self.tenancy = np.zeros(sessions + spares, np.int32)  # how often each was released
        self.sessions = SlotAllocator(0, sessions, self.tenancy[:sessions])
        self.spares = SlotAllocator(sessions, spares, self.tenancy[sessions:])
        self.leaving: set[int] = set()  # slots to free once nothing is queued for them
        self._forks: set[Fork] = set()  # that have spare slots
        self.ephemeral = EphemeralSessions(table, grace_s=ephemeral_grace_s)
        self._table = table
        self._tiers = tiers
        self._forget = forget
        self._wake = wake
        self.owners: NDArray[np.int32] = np.zeros(sessions, np.int32)
        """Of each session's slot whose it is, by number."""
        self._tenants: list[Any] = []  # by slot; as long as slots were handed out

    def begin(
        self,
        *,
        opened_s: float,
        now_s: float,
        idle_timeout_s: float,
        ephemeral: bool = False,
        owner: int = 0,
        seated: bool = True,
    ) -> int:
        """Start a session; returns its slot. Call `settle` next.

        With ``seated`` it has a row of the arena if one is free.

        Raises:
            SessionLimitError: every slot is taken.
        """
        slot = self.sessions.allocate()
        if slot == len(self._tenants):  # slots are handed out in order the first time
            self._tenants.append(None)
        self.owners[slot] = owner
        idle_timeout_s = self.ephemeral.begin(
            slot, idle_timeout_s=idle_timeout_s, ephemeral=ephemeral
        )
        self._table.open(slot, opened_s=opened_s, now_s=now_s, idle_timeout_s=idle_timeout_s)
        self._tiers.begin(slot, seated=seated)
        return slot

    def show(self, slot: int, *, now_s: float) -> None:
        """A session that was hidden, see `SessionTable.hide`, is there from now on."""
        at, timeout_s = np.array([slot], np.int64), self.ephemeral.timeout_s(slot)
        timeouts_s = np.array([timeout_s], np.float32)
        self._table.count_idle(at, idle_timeouts_s=timeouts_s, now_s=now_s)

    def settle(self, slot: int, tenant: Any) -> None:
        """Note what `tenants` has for a slot while its session lasts."""
        self._tenants[slot] = tenant

    def end(self, slot: int) -> None:
        """End the session of a slot, which is free once nothing is queued for it."""
        self._tenants[slot] = None
        self._table.close(slot)
        self._tiers.ends(slot)
        if self._table.is_idle(slot):
            self._free(slot)
        else:
            self.leaving.add(slot)

    def tenants(self, slots: Ints) -> list[Any]:
        """The sessions of slots that have some, (rows,)."""
        found = (self._tenants[slot] for slot in slots.tolist())
        return [tenant for tenant in found if tenant is not None]

    def tenant(self, slot: int, tenancy: int) -> Any:
        """The session of a slot, if the slot has not changed hands since that tenancy."""
        return self._tenants[slot] if self.tenancy[slot] == tenancy else None

    def owned(self, owner: int) -> Ints:
        """The slots of one owner's sessions, (rows,)."""
        slots = np.flatnonzero(self.owners[: self._table.top] == owner)
        return slots[self._table.idle_timeout_s[slots] > 0]

    def expired(self, now_s: float, *, at_most: int, owner: int | None = None) -> list[Any]:
        """Sessions, of one owner or of all, that have been idle for longer than their timeout."""
        if owner is None:
            return self.tenants(self._table.expired(now_s, at_most=at_most))
        return self.tenants(self._table.due(self.owned(owner), now_s)[:at_most])

    def lend_spares(self, fork: Fork) -> None:
        """Give a fork the spare slots that it wants.

        Raises:
            SessionLimitError: fewer are free.
        """
        self._forks.add(fork)
        fork.spares = self.spares.allocate_many(fork.row_cost)

    def return_spares(self, fork: Fork) -> None:
        """Give back the spare slots of a fork, each once nothing is queued for it."""
        self._forks.discard(fork)
        idle = self._table.idle(fork.spares)
        free, busy = fork.spares[idle].tolist(), fork.spares[~idle].tolist()
        fork.spares = fork.spares[:0]
        self.leaving.update(busy)
        self.spares.release(*free)
        self._wake()  # somebody may wait for them

    def reclaim(self) -> None:
        """Free what nothing is queued for and nobody has: a fault was where it was given back."""
        self.finished(np.array(list(self.leaving), np.int64))
        held = self.leaving.union(*[fork.spares.tolist() for fork in self._forks])
        spares = self.sessions.capacity + np.arange(self.spares.capacity)
        busy = spares[~self._table.idle(spares)].tolist()
        self.spares.keep_only(held.union(busy))
        self.leaving.update(set(busy) - held)

    def finished(self, slots: Ints) -> None:
        """Rows of these slots have run or were refused: free those that were waiting for it."""
        for slot in self.leaving.intersection(slots.tolist()):
            if self._table.is_idle(slot):
                self._free(slot)
                self.leaving.discard(slot)
                if slot >= self.sessions.capacity:
                    self._wake()  # somebody may wait for it

    def _free(self, slot: int) -> None:
        if slot < self.sessions.capacity:
            self._forget(slot)
            self._tiers.end(slot)
            self.sessions.release(slot)
        else:
            self.spares.release(slot)
