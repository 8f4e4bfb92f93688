"""Sessions that wait for a row of the arena, each party's in order, and parties in turn.

So whoever asks for thousands of sessions at once keeps nobody waiting who asks for a few. Knows
nothing of rows or queues.
"""

from collections import deque
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints, Mask

_IN_TURN = 64  # sessions of a party: enough for what is done for several at once


class Waiting:
    """Who waits.

    Attributes:
        count: how many.

    Args:
        slots: of the table.
    """

    def __init__(self, slots: int) -> None:
        self.count = 0
        self._parties: dict[Hashable, deque[Ints]] = {}  # in order of their turns
        self._waits: Mask = np.zeros(slots, np.bool_)  # by slot: an entry of others is over
        self._tickets = np.zeros(slots, np.int32)

    def add(self, slots: Ints, tickets: NDArray[np.int32], party: Hashable) -> None:
        """Let sessions of a party wait, (slots,), with the tickets that hold what is queued."""
        assert not self._waits[slots].any(), "they are on their way"
        self._waits[slots] = True
        self._tickets[slots] = tickets
        self._parties.setdefault(party, deque()).append(slots)
        self.count += len(slots)

    def next(self, at_most: int) -> tuple[Ints, NDArray[np.int32]]:
        """Some of the party whose turn it is, and their tickets; they wait no more."""
        party = next(iter(self._parties))
        entries = self._parties.pop(party)
        taken: list[Ints] = []
        room = min(at_most, _IN_TURN)
        while entries and room:
            entry = entries.popleft()
            entry = entry[self._waits[entry]]
            if len(entry) > room:
                entries.appendleft(entry[room:])
                entry = entry[:room]
            self._waits[entry] = False  # before the next entry, which may name some again
            taken.append(entry)
            room -= len(entry)
        if entries:
            self._parties[party] = entries  # behind the others
        slots = np.concatenate(taken)
        self.count -= len(slots)
        return slots, self._tickets[slots]

    def leave(self, slots: Ints) -> tuple[Ints, NDArray[np.int32]]:
        """Those of these that wait, and their tickets; they wait no more."""
        slots = slots[self._waits[slots]]
        self._waits[slots] = False
        self.count -= len(slots)
        if not self.count:
            self._parties.clear()
        return slots, self._tickets[slots]

    def clear(self) -> Ints:
        """Nobody waits any more; returns who did, (slots,)."""
        everybody = [entry for entries in self._parties.values() for entry in entries]
        self._parties.clear()
        slots = np.unique(np.concatenate([np.empty(0, np.int64), *everybody]))
        slots, _ = self.leave(slots)
        return slots
