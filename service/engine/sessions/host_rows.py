"""Rows of host memory for the states of sessions that have none on the device.

Knows nothing of sessions.
"""

from collections.abc import Sequence

import numpy as np

from service.engine.sessions.allocator import SlotAllocator
from service.engine.work.columns import Floats, Ints


class HostRows:
    """As many rows as fit into some memory, which is taken as they are used.

    Attributes:
        slots: which of them are free.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self.slots = SlotAllocator(0, rows)
        self._tensors: list[Floats] = []  # each (rows, *shape)

    def put(self, states: Sequence[Floats]) -> Ints:
        """Keep copies of states, one array for each tensor of the arena; returns their rows.

        Raises:
            SessionLimitError: there are fewer rows.
        """
        if not self._tensors:
            rows = self.slots.capacity
            # Untouched pages of zeros take no memory.
            self._tensors = [np.zeros((rows, *own.shape[1:]), own.dtype) for own in states]
        found = self.slots.allocate_many(len(states[0]))
        for whole, own in zip(self._tensors, states, strict=True):
            whole[found] = own
        return found

    def read(self, rows: Ints) -> list[Floats]:
        """Copies of what is in some rows."""
        return [whole[rows] for whole in self._tensors]
