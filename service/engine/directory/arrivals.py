"""The sessions that have come from other servers, so that each comes once."""

from collections import OrderedDict

from service.engine.directory.session import Key
from service.errors import SessionClosedError


class Arrivals:
    """The sessions that have come from other servers, so that each comes once.

    Args:
        most: so many of those that have ended are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._here: dict[str, Key] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def find(self, transfer: str) -> Key | None:
        """The session that has come by a move; ``None``: none has.

        Raises:
            SessionClosedError: it has ended.
        """
        if transfer in self._ended:
            raise SessionClosedError("receipt: the session has come already, and was closed here")
        return self._here.get(transfer)

    def came(self, transfer: str, key: Key) -> None:
        """A session has come, or is about to."""
        self._here[transfer] = key

    def came_not(self, transfer: str) -> None:
        """It could not be opened."""
        self._here.pop(transfer, None)

    def ended(self, transfer: str) -> None:
        """A session has ended that came so; an empty one came by no move."""
        if not transfer:
            return
        self._here.pop(transfer, None)
        self._ended[transfer] = None
        while len(self._ended) > self._most:
            self._ended.popitem(last=False)
