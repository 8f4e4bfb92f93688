"""Hands out numbers of slots, or of rows. Knows nothing of what they are of."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints
from service.errors import SessionLimitError


class SlotAllocator:
    """Hands out the slots of one range, those used before first.

    That keeps the touched part of the arena small. Every release raises the slot's tenancy,
    so that whoever remembers a slot can tell that it has changed hands.
    """

    def __init__(self, first: int, count: int, tenancy: NDArray[np.int32] | None = None) -> None:
        self.capacity = count
        self._first = first
        self._unused = 0  # slots from here on were never handed out
        self._freed: list[int] = []
        self._tenancy = np.zeros(count, np.int32) if tenancy is None else tenancy

    @property
    def free(self) -> int:
        """Slots that can be allocated."""
        return self.capacity - self._unused + len(self._freed)

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self.capacity - self.free

    @property
    def touched(self) -> int:
        """So many, from the first on, were ever taken."""
        return self._unused

    def allocate(self) -> int:
        """Take one slot.

        Raises:
            SessionLimitError: none is free.
        """
        if self._freed:
            return self._freed.pop()
        if self._unused == self.capacity:
            raise SessionLimitError(
                f"all {self.capacity} session slots are in use: close sessions, wait for idle "
                "ones to expire, or raise --max-sessions"
            )
        self._unused += 1
        return self._first + self._unused - 1

    def allocate_many(self, count: int) -> Ints:
        """Take several slots, (count,), or none at all.

        Raises:
            SessionLimitError: fewer are free.
        """
        if count > self.free:
            raise SessionLimitError(f"{count} slots wanted, {self.free} free")
        used_before = min(count, len(self._freed))
        start = self._first + self._unused
        new = range(start, start + count - used_before)
        slots = np.array([*reversed(self._freed[len(self._freed) - used_before :]), *new], np.int64)
        self._unused += len(new)
        del self._freed[len(self._freed) - used_before :]
        return slots

    def release(self, *slots: int) -> None:
        """Give slots back."""
        for slot in slots:
            self._tenancy[slot - self._first] += 1
        self._freed += slots

    def release_many(self, slots: Ints) -> None:
        """Give different slots back, (slots,)."""
        self._tenancy[slots - self._first] += 1
        self._freed += slots.tolist()

    def keep_only(self, slots: Collection[int]) -> None:
        """Take all slots back but these."""
        used = range(self._first, self._first + self._unused)
        freed = set(self._freed)
        self.release(*[slot for slot in used if slot not in freed and slot not in slots])
