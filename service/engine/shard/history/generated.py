"""What sessions have read in their last generations, for a while.

Whoever was cut off knows alone what has arrived of one, and may put the session back to that.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.engine.log.entries import Steps
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
    """The last generations of one shard's sessions, by slot: the oldest make room.

    Args:
        most_bytes: what they may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._own: OrderedDict[int, Generated] = OrderedDict()

    def keep(self, slot: int, own: Generated) -> None:
        """A generation of a slot's session has ended."""
        self.forget(slot)
        self._own[slot] = own
        self._bytes += own.nbytes
        while self._bytes > self._most_bytes:
            self.forget(next(iter(self._own)))

    def forget(self, slot: int) -> None:
        """The session of a slot has ended, say."""
        own = self._own.pop(slot, None)
        if own is not None:
            self._bytes -= own.nbytes

    def went_back(self, slot: int, position: int, *, before: int, branch: int) -> None:
        """A session was put to a position, from one branch to another: it may go back further."""
        own = self._own.get(slot)
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
        own = self._own.get(slot)
        if own is None or (own.branch, own.end) != (branch, stands):
            return None
        if not own.base.position <= position <= stands:
            return None
        return own.base, own.tail().first(position - own.base.position)
