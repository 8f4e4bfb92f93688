"""The sessions that are open, as the journal has them, and what the table does not know of that."""

from collections import deque

from service.engine.log.groups.events import Began
from service.engine.log.groups.session_row import SessionRow


class Catalogue:
    """What a log says of its open sessions.

    Attributes:
        rows: by number.
        began: what sessions were opened with, by number, where the table does not have it yet.
        next_number: of the session that is opened next.
    """

    def __init__(self, next_number: int) -> None:
        self.rows: dict[int, SessionRow] = {}
        self.began: dict[int, Began] = {}
        self.next_number = next_number
        self._changes: deque[tuple[int, int, SessionRow | None]] = deque()

    def know(self, row: SessionRow) -> None:
        """A session is in the store already."""
        self.rows[row.number] = row

    def new_number(self) -> int:
        """The number of a session that is opened."""
        self.next_number += 1
        return self.next_number - 1

    def note(self, number: int, row: SessionRow | None, *, group: int) -> None:
        """A session was opened, reset or moved by what is in a group; ``None``: it has ended."""
        self._changes.append((group, number, row))
        if row is None:
            self.rows.pop(number, None)
            self.began.pop(number, None)
        else:
            self.rows[number] = row

    def changes(self, until: int) -> dict[int, SessionRow | None]:
        """Sessions that groups up to one have opened, reset or closed, as they are now.

        All of that is durable in the journal, and is taken to be in the table from here on;
        ``None`` is a session that has ended.
        """
        found: dict[int, SessionRow | None] = {}
        while self._changes and self._changes[0][0] <= until:
            _, number, row = self._changes.popleft()
            found[number] = row
        return found
