"""What histories take of the memory. Knows nothing of what is in them."""

from service.errors import history_full


class HistoryMemory:
    """What the histories of all shards take.

    Attributes:
        used: bytes.

    Args:
        limit: beyond it no session begins one, and none that has one reads on.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more."""
        return self.used >= self.limit

    def check(self) -> None:
        """Check that there is room.

        Raises:
            OverloadedError: there is none.
        """
        if self.is_full:
            raise history_full()
