"""Which rows of the arena are taken. Knows nothing of what is in them."""

import numpy as np

from service.engine.work.work import Ints
from service.errors import SessionLimitError


class SlotAllocator:
    """Hands out the slots of one range, those used before first.

    That keeps the touched part of the arena small. Every release raises the slot's generation,
    so that whoever remembers a slot can tell that it has changed hands.
    """

    def __init__(self, first: int, count: int) -> None:
        self._first = first
        self._capacity = count
        self._unused = 0  # slots from here on were never handed out
        self._freed: list[int] = []
        self.generation = np.zeros(count, np.int32)

    @property
    def capacity(self) -> int:
        """Slots in all."""
        return self._capacity

    @property
    def free(self) -> int:
        """Slots that can be allocated."""
        return self._capacity - self._unused + len(self._freed)

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self._capacity - self.free

    def allocate(self) -> int:
        """Take one slot.

        Raises:
            SessionLimitError: none is free.
        """
        if self._freed:
            return self._freed.pop()
        if self._unused == self._capacity:
            raise SessionLimitError(
                f"all {self._capacity} session slots are in use: close sessions, wait for idle "
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
        return np.array([self.allocate() for _ in range(count)], np.int64)

    def release(self, slot: int) -> None:
        """Give one slot back."""
        self.generation[slot - self._first] += 1
        self._freed.append(slot)
