"""What histories take of the memory, and whose they are. Knows nothing of what is in them."""

from service.errors import history_full

_SHARES = 2  # a principal's histories take a part of it at most: others have room


class HistoryMemory:
    """What the histories of all shards take.

    Owners are numbers; 0 is nobody, whose histories take what there is.

    Attributes:
        used: bytes.
        full_owners: those whose histories take all that one's may.

    Args:
        limit: beyond it no session begins one, and none that has one reads on.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.full_owners: set[int] = set()
        self._used_by: dict[int, int] = {}

    def count(self, owner: int, size: int) -> None:
        """An owner's histories take so many bytes more, or less."""
        self.used += size
        if not owner:
            return
        own = self._used_by[owner] = self._used_by.get(owner, 0) + size
        if own * _SHARES >= self.limit:
            self.full_owners.add(owner)
        else:
            self.full_owners.discard(owner)
            if not own:
                del self._used_by[owner]

    def used_by(self, owner: int) -> int:
        """Bytes that one owner's histories take."""
        return self._used_by.get(owner, 0)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more."""
        return self.used >= self.limit

    @property
    def is_full_for_some(self) -> bool:
        """Whether there is no room for more of some owners'."""
        return self.is_full or bool(self.full_owners)

    def check(self, owner: int) -> None:
        """Check that there is room for more of an owner's.

        Raises:
            OverloadedError: there is none.
        """
        if self.is_full or owner in self.full_owners:
            raise history_full()
