"""What can run, in an order that is fair between principals, and between the flows of each.

Knows nothing of what work is.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

E = TypeVar("E")

_LATELY = 64  # rounds for which a flow is remembered


class Rounds(Generic[E]):
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

    def has_place(self, flow: Hashable, rows: int) -> bool:
        """Whether so many more rows of a flow are in the present round."""
        start, used = self._ends.get(flow, (0, 0))
        if start < self._round:
            start, used = self._round, 0
        return start == self._round and used + rows <= self._quantum

    def next_of(self, flow: Hashable) -> int:
        """The round in which a flow's next rows would begin."""
        return max(self._round, self._ends.get(flow, (0, 0))[0])

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

    def append_first(self, entry: E, start: int = 0) -> None:
        """Queue an entry before all that are in its round."""
        self._in_round(max(start, self._round)).appendleft(entry)

    def put_back(self, entry: E, rows_taken: int = 0) -> None:
        """Queue the rest of the entry that was taken last, of which so many rows have run.

        They come as early as they would have come had each round's rows been an entry.
        """
        self._rest_rows += rows_taken
        number = self._round + self._rest_rows // self._quantum
        self._rest, self._rest_rows = entry, self._rest_rows % self._quantum
        self._in_round(number).appendleft(entry)

    def give_back(self, flow: Hashable, rows: int) -> None:
        """So many rows of a flow that were placed do not run yet."""
        start, used = self._ends.get(flow, (self._round, 0))
        rows = max(0, (start - self._round) * self._quantum + used - rows)
        self._ends[flow] = self._round + rows // self._quantum, rows % self._quantum

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

    def forget(self) -> None:
        """Nothing is queued: nobody is ahead of anybody."""
        self._ends.clear()

    def _in_round(self, number: int) -> deque[E]:
        self._count += 1
        entries = self._rounds.get(number)
        if entries is None:
            entries = self._rounds[number] = deque()
            heappush(self._numbers, number)
        return entries


class _Group(Generic[E]):
    """The entries of one principal, in rounds of its own."""

    def __init__(self, principal: Hashable, quantum: int) -> None:
        self.principal = principal
        self.entries: Rounds[E] = Rounds(quantum)
        self.turn: _Turn[E] | None = None  # its next one, if it is queued


class _Turn(Generic[E]):
    """A place in the rounds of all: whatever comes next of a group runs then."""

    def __init__(self, group: _Group[E]) -> None:
        self.group = group

    @property
    def is_over(self) -> bool:
        """Whether the group has another one, or nothing to run."""
        return self.group.turn is not self or not len(self.group.entries)


class FairQueue(Generic[E]):
    """Entries in rounds (see `Rounds`), of which each principal has so many rows in each.

    What a principal has more than fits into the present round is kept in rounds of its own, where
    its flows have their turns; in the rounds of all it has one turn at a time. So it has the same
    share however many flows it has, and so have its flows within it. Flows of nobody's are in the
    rounds of all, each for itself.

    Args:
        quantum: rows in one round.
        size: the rows of an entry.
    """

    def __init__(self, quantum: int, *, size: Callable[[E], int]) -> None:
        self._quantum = quantum
        self._size = size
        self._all: Rounds[E | _Turn[E]] = Rounds(quantum)
        self._groups: dict[Hashable, _Group[E]] = {}  # by principal
        self._taken: _Group[E] | None = None  # whose entry was taken last
        self._taken_rows = 0  # of it, that run
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[E]:
        """All entries, in no order."""
        for entry in self._all:
            if not isinstance(entry, _Turn):
                yield entry
        for group in self._groups.values():
            yield from group.entries

    @property
    def is_shared(self) -> bool:
        """Whether several flows have queued lately; of one principal, that whose turn it is."""
        taken, groups = self._taken, len(self._groups)
        if not groups or self._all.is_shared:
            return self._all.is_shared
        return taken is None or groups > 1 or taken.entries.is_shared or len(self._all) > 0

    def place(self, flow: Hashable, rows: int, principal: Hashable | None = None) -> int:
        """The round in which a flow's next rows begin, for an entry of their own.

        They have their place from now on. In a queue that is empty, whatever comes is in the
        present round.
        """
        if principal is None:
            return self._all.place(flow, rows)
        return self._group(principal).entries.place(flow, rows)

    def join(
        self, flow: Hashable, rows: int, principal: Hashable | None = None
    ) -> tuple[int, Hashable | None]:
        """The round in which a flow's next rows begin, for an entry with others' of that round.

        Returns:
            The round, and the principal whom all rows of the entry must be of; ``None``: anybody.
        """
        if principal is None:
            return self._all.place(flow, rows), None
        if principal not in self._groups and self._all.has_place(principal, rows):
            return self._all.place(principal, rows), None
        return self._group(principal).entries.place(flow, rows), principal

    def append(self, entry: E, start: int = 0, principal: Hashable | None = None) -> None:
        """Queue an entry in a round, or in the present one where that is over."""
        self._count += 1
        if principal is None:
            self._all.append(entry, start)
            return
        group = self._group(principal)
        group.entries.append(entry, start)
        if group.turn is None and group is not self._taken:
            self._give_turn(group)

    def put_back(self, entry: E, rows_taken: int = 0, principal: Hashable | None = None) -> None:
        """Queue the rest of an entry that was taken lately, of which so many rows have run.

        They come as early as they would have come had each round's rows been an entry.
        """
        self._count += 1
        if principal is None:
            self._all.put_back(entry, rows_taken)
            return
        group = self._group(principal)
        group.entries.put_back(entry, rows_taken)
        if group is self._taken:
            self._taken_rows -= self._size(entry)
            return
        self._all.give_back(principal, self._size(entry))
        self._give_turn(group, first=True)

    def first(self) -> E:
        """The entry that comes next."""
        self._next_turn()
        while isinstance(entry := self._all.first(), _Turn):
            if not entry.is_over:
                return entry.group.entries.first()
            self._all.popleft()
            self._drop(entry)
        return entry

    def popleft(self) -> E:
        """Take the entry that comes next."""
        self._next_turn()
        while True:
            taken = self._all.popleft()
            if not isinstance(taken, _Turn):
                break
            group = taken.group
            if taken.is_over:
                self._drop(taken)
                continue
            group.turn = None
            taken = group.entries.popleft()
            self._taken, self._taken_rows = group, self._size(taken)
            break
        self._count -= 1
        return taken

    def keep(self, wanted: Callable[[E], bool]) -> None:
        """Drop the entries that are not wanted."""
        self._next_turn()
        self._all.keep(lambda entry: isinstance(entry, _Turn) or wanted(entry))
        for group in self._groups.values():
            group.entries.keep(wanted)
        self._count = sum(1 for _ in self)

    def _next_turn(self) -> None:
        """The rows that were taken last count; whose they were has a turn again after them."""
        group, self._taken = self._taken, None
        if group is None:
            return
        self._all.place(group.principal, self._taken_rows)
        if len(group.entries):
            self._give_turn(group, first=self._all.has_place(group.principal, 1))
        elif not len(self._all):
            self._groups.clear()
            self._all.forget()
        else:
            self._groups.pop(group.principal, None)

    def _drop(self, turn: _Turn[E]) -> None:
        """It is over; a group whose last entry was dropped is gone."""
        group = turn.group
        if group.turn is turn:
            group.turn = None
            self._groups.pop(group.principal, None)

    def _give_turn(self, group: _Group[E], *, first: bool = False) -> None:
        group.turn = turn = _Turn(group)
        start = self._all.next_of(group.principal)
        (self._all.append_first if first else self._all.append)(turn, start)

    def _group(self, principal: Hashable) -> _Group[E]:
        group = self._groups.get(principal)
        if group is None:
            group = self._groups[principal] = _Group(principal, self._quantum)
        return group
