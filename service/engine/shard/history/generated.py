"""What sessions have read in their last generations, for a while.

Whoever was cut off knows alone what has arrived of one, and may put the session back to that.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.engine.log.groups.entries import Steps
from service.engine.log.seeds import Seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What a session has read in its last generation.

    Attributes:
        branch: where it was left.
        base: a state that it had.
        end: where it was left.
        tail: makes what it read from the base on; mostly nobody asks.
        nbytes: memory that it takes, about.
    """

    branch: int
    base: Seed
    end: int
    tail: Callable[[], Steps]
    nbytes: int


class Generations:
    """The last generations of one shard's sessions, by slot.

    The oldest of the owner whose take most make room: those of others stay, however many he has.

    Args:
        most_bytes: what they may take.
        owner: the number of the owner of a slot's session.
    """

    def __init__(self, most_bytes: int, *, owner: Callable[[int], int]) -> None:
        self._most_bytes = most_bytes
        self._owner = owner
        self._bytes = 0
        self._bytes_of: dict[int, int] = {}  # by owner
        # By owner the slots of his sessions, the oldest first, and by slot whose that was.
        self._slots: dict[int, OrderedDict[int, None]] = {}
        self._own: dict[int, tuple[int, Generated]] = {}

    def keep(self, slot: int, own: Generated) -> None:
        """A generation of a slot's session has ended."""
        self.forget(slot)
        owner = self._owner(slot)
        self._own[slot] = owner, own
        self._slots.setdefault(owner, OrderedDict())[slot] = None
        self._bytes += own.nbytes
        self._bytes_of[owner] = self._bytes_of.get(owner, 0) + own.nbytes
        while self._bytes > self._most_bytes:
            most = max(self._bytes_of, key=self._bytes_of.__getitem__)
            self.forget(next(iter(self._slots[most])))

    def forget(self, slot: int) -> None:
        """The session of a slot has ended, say."""
        found = self._own.pop(slot, None)
        if found is None:
            return
        owner, own = found
        self._bytes -= own.nbytes
        self._bytes_of[owner] -= own.nbytes
        del self._slots[owner][slot]
        if not self._slots[owner]:
            del self._slots[owner], self._bytes_of[owner]

    def went_back(self, slot: int, position: int, *, before: int, branch: int) -> None:
        """A session was put to a position, from one branch to another: it may go back further."""
        _, own = self._own.get(slot, (0, None))
        if own is not None and own.branch == before and own.base.position <= position <= own.end:
            tail = own.tail().first(position - own.base.position)
            self.keep(slot, replace(own, branch=branch, end=position, tail=lambda: tail))

    def back_to(
        self, slot: int, position: int, *, branch: int, stands: int
    ) -> tuple[Seed, Steps] | None:
        """What puts a session to a position within its last generation, see `Chronicle.back_to`.

        Args:
            slot: the session's.
            position: where it is to stand.
            branch: the one that it is on.
            stands: where; it has read nothing since only if it was left there.
        """
        _, own = self._own.get(slot, (0, None))
        if own is None or (own.branch, own.end) != (branch, stands):
            return None
        if not own.base.position <= position <= stands:
            return None
        return own.base, own.tail().first(position - own.base.position)
