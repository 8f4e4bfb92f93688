"""Which groups of the log have what sessions have read, and how much of it is durable."""

import numpy as np

from service.engine.sessions.table.columns import SessionColumns
from service.engine.work.columns import Ints


class Durable(SessionColumns):
    """How far each session is in the log."""

    def moved(self, slot: int, *, group: int, steps: int) -> None:
        """It has begun a branch in a group of the log, with a seed and so many steps behind it."""
        self.group[slot] = self.first_group[slot] = group
        self.tail_steps[slot] = steps
        self._entered[slot] = self._was_durable[slot] = 0

    def log(self, slots: Ints, *, group: int, steps: int, is_kept: bool) -> None:
        """So many steps of each of these are in a group of the log, which is its open one.

        Or they are not kept in it, but came at that time: nothing waits for them.
        """
        if is_kept:
            self.group[slots] = group
        first = self.first_group[slots]
        if not first.all():  # a tail begins
            self.first_group[slots] = np.where(first == 0, group, first)
        self.tail_steps[slots] += steps

    def enter_group(self, slots: Ints, positions: Ints, *, group: int, durable: int) -> None:
        """Sessions that stand at ``positions`` read on in a group, before `log` says so.

        All groups but the open one and the one before it are durable. So what a session had read
        before the group of its last step is durable when its next one comes in another group.
        """
        new = self.group[slots] != group
        if not new.any():
            return
        slots, positions = slots[new], positions[new]
        is_durable = self.group[slots] <= durable
        self._was_durable[slots] = np.where(is_durable, positions, self._entered[slots])
        self._entered[slots] = positions

    def durable_position(self, slot: int, durable: int) -> int:
        """As far as this a session is known to be durable, where all groups up to one are."""
        group = self.group.item(slot)
        if self.returning.item(slot):
            return 0  # the log does not know its branch yet
        if group <= durable:
            return self.position.item(slot)
        return (self._entered if group <= durable + 1 else self._was_durable).item(slot)
