"""Sessions that are open, and some of those that were: found, described and ended.

Every principal has ids of its own. What another has is found nowhere a caller looks, as what nobody
has: there is no check that could be forgotten. Everything here runs on one event loop. Knows
nothing of steps or gRPC, nor how a session is opened.
"""

from collections.abc import Callable, Mapping

from service.auth.principal import Role, calling
from service.engine.directory.arrivals import Arrivals
from service.engine.directory.expiry import Expiry
from service.engine.directory.session import NO_SESSIONS, Key, Session
from service.engine.directory.stranded import Stranded
from service.engine.directory.tombstones import Tombstones
from service.engine.served.registry import Registry
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.table.status import SessionStatus
from service.engine.shard.shard import Shard
from service.engine.work.flow import asked_model
from service.errors import (
    SessionClosedError,
    SessionExpiredError,
    SessionUnknownError,
)
from service.metrics import Metrics
from service.settings import EngineSettings

_NOBODYS = "\n"  # who has no sessions: no principal is called so


class OpenSessions:
    """The sessions that are open, by owner and id, and some of those that were.

    Whoever names a session means one of the calling principal's; an admin may name another owner.

    Args:
        clock: seconds, never going back: for idleness.
        wall_clock: seconds since the epoch: for people.
    """

    def __init__(
        self,
        settings: EngineSettings,
        metrics: Metrics,
        registry: Registry,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.by_owner: dict[str, dict[str, Session]] = {}
        """Those that are open, by owner, by id."""
        self._settings = settings
        self._metrics = metrics
        self._registry = registry
        self._clock = clock
        self._wall_clock = wall_clock
        self.stranded = Stranded(wall_clock)
        """Those of the store whose model is not served."""
        self._tombstones = Tombstones(settings.remembered_sessions)
        self.arrivals = Arrivals(settings.remembered_sessions)
        """The sessions that have come from other servers."""
        self._owners: dict[str, int] = {"": 0}  # numbers of theirs, for columns
        self._expiry = Expiry(self._end, metrics)

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Those of the calling principal that are open, by id."""
        return self.by_owner.get(calling.get().name, NO_SESSIONS)

    def open_sessions(self, owner: str) -> int:
        """How many a principal has open."""
        return len(self.by_owner.get(owner, NO_SESSIONS))

    def open_by_owner(self) -> dict[str, int]:
        """How many each principal has open, by its name; any thread may ask."""
        return {owner: len(own) for owner, own in list(self.by_owner.items()) if owner}

    def owner_number(self, owner: str) -> int:
        """What stands for a principal in `SlotManager.owners`; -1: it never had a session."""
        return self._owners.get(owner, -1)

    def wanted_owner(self, owner: str | None) -> str:
        """Whose sessions a caller means who names this owner, or none.

        Only an admin finds those of others: for the rest there are none.
        """
        who = calling.get()
        if owner is None or owner == who.name:
            return who.name
        return owner if who.grant.has(Role.ADMIN) else _NOBODYS

    def is_stranded(self, session_id: str, owner: str | None = None) -> bool:
        """Whether it is a session of the store whose model is not served."""
        return (self.wanted_owner(owner), session_id) in self.stranded

    @property
    def now_s(self) -> float:
        """By the clock that idleness is counted by."""
        return self._clock()

    @property
    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return self._wall_clock()

    def find(self, session_id: str, owner: str | None = None) -> Session:
        """An open session; see `wanted_owner` for whose.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            ModelChangedError: its model is not served.
        """
        owner = self.wanted_owner(owner)
        session = self.by_owner.get(owner, NO_SESSIONS).get(session_id)
        if session is not None:
            asked_model.set(session.served.label)
            return session
        key = owner, session_id
        self.stranded.check(key)
        self._tombstones.check(key)
        if not session_id:  # a client has misspelt the field, say, and its library left it out
            raise SessionUnknownError("session_id: it is empty or was left out; name a session")
        raise SessionUnknownError(f"session_id: '{session_id}' is not open here; open it first")

    def describe(self, session_id: str, owner: str | None = None) -> SessionInfo:
        """Where a session stands.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        return self.info(self.find(session_id, owner))

    def info(self, session: Session) -> SessionInfo:
        """Where an open session stands now."""
        table = session.shard.table
        slot, ephemeral = session.slot, session.shard.slots.ephemeral
        status = SessionStatus.OPEN
        if table.moving[slot]:
            status = SessionStatus.MOVING
        elif table.lost[slot] and not table.restoring[slot]:
            status = SessionStatus.LOST
        return SessionInfo(
            id=session.id,
            model=session.served.name,
            version=session.served.version,
            status=status,
            branch=int(table.branch[slot]),
            position=table.stands_at(slot),
            opened_s=float(table.opened_s[slot]),
            last_used_s=self._wall_clock() - (self._clock() - float(table.last_used_s[slot])),
            idle_timeout_s=float(ephemeral.idle_timeout_s[slot]),
            ephemeral=slot in ephemeral,
            tier=session.shard.tiers.tier(slot),
            owner=session.owner,
            history_position=session.shard.chronicles.position(slot),
        )

    def touch(self, session: Session) -> None:
        """A session is used, whatever for: also by what leaves it where it is, such as forecasts.

        It matters where the idle timeout is short.
        """
        session.shard.table.last_used_s[session.slot] = self._clock()

    def close(self, session_id: str, owner: str | None = None) -> int:
        """Close a session; steps that are queued, and not given to the device, are refused.

        Returns its position.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        key = self.wanted_owner(owner), session_id
        if key in self.stranded:
            return self._close_stranded(key)
        return self._close(self.find(session_id, owner))

    def _close_stranded(self, key: Key) -> int:
        row = self.stranded.row(key)
        self._tombstones.put(key, row.move_to if row.released else SessionClosedError)
        self.arrivals.ended(row.arrived)
        return self.stranded.close(key)

    def _close(self, session: Session) -> int:
        position = session.shard.table.stands_at(session.slot)
        self._end(session, SessionClosedError)
        self._metrics.session_events.labels("closed").inc()
        return position

    def close_slot(self, shard: Shard, slot: int, tenancy: int) -> None:
        """Close the session of a slot, unless the slot has changed hands since."""
        session: Session | None = shard.slots.tenant(slot, tenancy)
        if session is not None:
            self._close(session)

    def expire(self) -> int:
        """Close sessions that have been idle for too long, some at a time; returns how many."""
        for key in self.stranded.take_ephemeral():
            self._close_stranded(key)
        return self._expiry.expire(self._registry.shards(), now_s=self._clock())

    def _end(self, session: Session, how: type[SessionClosedError | SessionExpiredError]) -> None:
        own = self.by_owner[session.owner]
        del own[session.id]
        if not own:
            del self.by_owner[session.owner]
        moving = session.shard.table.moves.get(session.slot)
        has_moved = moving is not None and moving.released
        end = moving.move_to if moving and has_moved else how
        self._tombstones.put((session.owner, session.id), end)
        self.arrivals.ended(session.arrived)
        session.shard.end(session.slot)
