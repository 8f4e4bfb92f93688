"""What is to be written of a history. Knows nothing of how that is done."""

from service.engine.log.chronicle import Chronicle, Part
from service.engine.log.keys import history_key
from service.store.records import pack


class Unstored:
    """What is not in the table of a session's history, and what is to be there.

    Attributes:
        begin: where the parts begin that are to be there.
    """

    def __init__(self, own: Chronicle, position: int, arithmetic: str) -> None:
        self.begin: set[int] = set()
        self._rows: dict[int, bytes] = {}
        self._parts: list[tuple[Part, int]] = []
        for part in own.parts:
            first = part.base.position
            if first > position:
                break
            self.begin.add(first)
            count = min(part.end, position) - first
            if part.stored != count:
                self._rows[first] = pack(part.pack(first + count, arithmetic))
                self._parts.append((part, count))
                part.stored = count

    def rows(self, number: int) -> dict[bytes, bytes]:
        """The rows of the table, for the session of this number."""
        return {history_key(number, first): value for first, value in self._rows.items()}

    def written(self) -> None:
        """They are there, but for what was cut off meanwhile."""
        for part, count in self._parts:
            part.is_there = min(part.stored, count)

    def not_written(self) -> None:
        """They are not there for all that."""
        for part, _ in self._parts:
            part.stored = part.is_there
