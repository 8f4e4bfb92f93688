"""Sessions of the store that cannot go on: their model's file is gone, or another one now.

They are kept as they lie there, for the file may come back; they are told of, and can be closed.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from service.engine.directory.session import Key
from service.engine.log.commit_log import CommitLog
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.recovery.stored import StoredSession
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.table.status import SessionStatus, SessionTier
from service.errors import ModelChangedError


class Stranded:
    """Those that a server has found when it was started: none joins them later.

    Attributes:
        before: how many there were, those included that were closed since.

    Args:
        wall_clock: seconds since the epoch.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._sessions: dict[Key, tuple[StoredSession, ModelChangedError, CommitLog]] = {}
        self._of: Counter[str] = Counter()  # how many, by owner
        self._order: list[Key] = []  # also of those that were closed since
        self._ephemeral: list[Key] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, key: Key) -> bool:
        return key in self._sessions

    def add(self, stored: StoredSession, why: ModelChangedError, log: CommitLog) -> None:
        """Keep one; ``why`` is told to whoever asks for it."""
        key = stored.row.owner, stored.row.id
        self._sessions[key] = stored, why, log
        self._of[key[0]] += 1
        self._order.append(key)
        if stored.row.ephemeral:  # the file may be back at another start, and this is gone by then
            self._ephemeral.append(key)

    def check(self, key: Key) -> None:
        """Check that a session is none of them.

        Raises:
            ModelChangedError: it is.
        """
        found = self._sessions.get(key)
        if found is not None:
            raise found[1]

    def are_of(self, owner: str | None) -> bool:
        """Whether there are any of a principal's; ``None``: of anybody's."""
        return bool(self._sessions) if owner is None else self._of[owner] > 0

    @property
    def before(self) -> int:
        """See above."""
        return len(self._order)

    def info(self, number: int) -> SessionInfo | None:
        """One of those of before, counted from 0, as it stands; ``None`` where it was closed."""
        found = self._sessions.get(self._order[number])
        if found is None:
            return None
        stored, _, _ = found
        row = stored.row
        return SessionInfo(
            id=row.id,
            model=row.model,
            version=row.version,
            status=SessionStatus.MODEL_CHANGED,
            branch=row.branch,
            position=stored.position,
            opened_s=row.opened_s,
            last_used_s=self._wall_clock() - row.idle_s,
            idle_timeout_s=row.idle_timeout_s,
            ephemeral=row.ephemeral,
            tier=SessionTier.STORE,
            owner=row.owner,
        )

    def row(self, key: Key) -> SessionRow:
        """What the catalogue says of one."""
        return self._sessions[key][0].row

    def groups(self) -> list[int]:
        """Where their tails begin."""
        return [own.first_group for own, _, _ in self._sessions.values() if own.first_group]

    def take_ephemeral(self) -> Iterator[Key]:
        """Those whose streams have ended with the process before: they are to be closed."""
        keys, self._ephemeral = self._ephemeral, []
        return (key for key in keys if key in self._sessions)

    def close(self, key: Key) -> int:
        """Let one go; returns its position."""
        stored, _, log = self._sessions.pop(key)
        self._of[key[0]] -= 1
        log.close(stored.row.number, first_group=stored.first_group)
        return stored.position
