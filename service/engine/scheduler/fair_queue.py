"""What can run, in an order that is fair between flows. Knows nothing of what work is."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

E = TypeVar("E")

_LATELY = 64  # rounds for which a flow is remembered


class FairQueue(Generic[E]):
    """Entries in rounds, of which each flow has so many rows in each.

    A flow that comes anew begins in the present round, however far ahead others have queued: it
    waits for a share of each of them, not for all that they have. It is start-time fair queueing
    (Goyal, Vin and Cheng, 1996) with the tags in whole rounds, so that rows of many flows can lie
    in one entry. Within a round first come is first served.

    Args:
        quantum: rows of a flow in one round.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._rounds: dict[int, deque[E]] = {}
        self._numbers: list[int] = []  # of these rounds, a heap
        self._round = 0  # the present one: what was taken last was in it, none is earlier
        self._ends: dict[Hashable, tuple[int, int]] = {}  # by flow: a round, rows of it taken
        self._rest: E | None = None  # the entry that was put back last
        self._rest_rows = 0  # of it that have run in its round
        self._prune = 0  # in this round
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[E]:
        """All entries, in no order."""
        for entries in self._rounds.values():
            yield from entries

    @property
    def is_shared(self) -> bool:
        """Whether several flows have queued lately."""
        return len(self._ends) > 1

    def place(self, flow: Hashable, rows: int) -> int:
        """The round in which a flow's next rows begin; they have their place from now on.

        In a queue that is empty, whatever comes is in the present round.
        """
        start, used = self._ends.get(flow, (self._round, 0))
        if start < self._round:
            start, used = self._round, 0
        used += rows
        self._ends[flow] = start + used // self._quantum, used % self._quantum
        return start

    def append(self, entry: E, start: int = 0) -> None:
        """Queue an entry in a round, or in the present one where that is over."""
        self._in_round(max(start, self._round)).append(entry)

    def put_back(self, entry: E, rows_taken: int = 0) -> None:
        """Queue the rest of the entry that was taken last, of which so many rows have run.

        They come as early as they would have come had each round's rows been an entry.
        """
        self._rest_rows += rows_taken
        number = self._round + self._rest_rows // self._quantum
        self._rest, self._rest_rows = entry, self._rest_rows % self._quantum
        self._in_round(number).appendleft(entry)

    def first(self) -> E:
        """The entry that comes next."""
        return self._rounds[self._numbers[0]][0]

    def popleft(self) -> E:
        """Take the entry that comes next."""
        number = self._round = self._numbers[0]
        entries = self._rounds[number]
        entry = entries.popleft()
        if not entries:
            del self._rounds[number]
            heappop(self._numbers)
        self._count -= 1
        if not self._count and self._ends:
            self._ends.clear()  # nobody is ahead of anybody
        if entry is not self._rest:
            self._rest, self._rest_rows = None, 0
        if number >= self._prune:
            self._prune = number + _LATELY
            lately = number - _LATELY
            self._ends = {flow: end for flow, end in self._ends.items() if end[0] >= lately}
        return entry

    def keep(self, wanted: Callable[[E], bool]) -> None:
        """Drop the entries that are not wanted."""
        for entries in self._rounds.values():
            kept = [entry for entry in entries if wanted(entry)]
            self._count -= len(entries) - len(kept)
            entries.clear()
            entries.extend(kept)
        self._rounds = {number: entries for number, entries in self._rounds.items() if entries}
        self._numbers = sorted(self._rounds)  # which is a heap

    def _in_round(self, number: int) -> deque[E]:
        self._count += 1
        entries = self._rounds.get(number)
        if entries is None:
            entries = self._rounds[number] = deque()
            heappush(self._numbers, number)
        return entries
