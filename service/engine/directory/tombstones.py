"""What became of sessions that were open: so that whoever asks for one is told how it ended."""

from collections import OrderedDict

from service.engine.directory.session import Key
from service.errors import SessionClosedError, SessionExpiredError, moved_away

End = type[SessionClosedError | SessionExpiredError] | str
"""How a session has ended, or the server that it has moved to."""


class Tombstones:
    """How sessions have ended, the last ones of them.

    Args:
        most: so many are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ends: OrderedDict[Key, End] = OrderedDict()

    def put(self, key: Key, end: End) -> None:
        """A session has ended."""
        self._ends[key] = end
        while len(self._ends) > self._most:
            self._ends.popitem(last=False)

    def remove(self, key: Key) -> None:
        """There is a session of this id again."""
        self._ends.pop(key, None)

    def check(self, key: Key) -> None:
        """Check that no session of this id is known to have ended.

        Raises:
            SessionExpiredError, SessionClosedError: one has.
        """
        end, session_id = self._ends.get(key), key[1]
        if isinstance(end, str):
            raise moved_away(end)
        if end is SessionExpiredError:
            raise SessionExpiredError(
                f"session_id: '{session_id}' was idle for too long and expired; open a new session"
            )
        if end is SessionClosedError:
            raise SessionClosedError(f"session_id: '{session_id}' is closed; open a new session")
