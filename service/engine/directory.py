"""Session ids: which session each one names, or what became of it.

Every principal has ids of its own. What another has is found nowhere a caller looks, as what nobody
has: there is no check that could be forgotten. Everything here runs on one event loop. Knows
nothing of steps or gRPC.
"""

import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from service.auth.principal import Role, calling
from service.engine.log.entries import SessionRow
from service.engine.log.recovery.stored import StoredSession
from service.engine.served.registry import Registry, ServedModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.table import SessionStatus, SessionTier
from service.engine.shard.shard import Shard
from service.engine.stranded import Key, Stranded
from service.engine.work.flow import asked_model
from service.errors import (
    BadInputError,
    QuotaExceededError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionLimitError,
    SessionUnknownError,
)
from service.metrics import Metrics
from service.settings import EngineSettings

NO_SESSIONS: Mapping[str, "Session"] = {}
_NOBODYS = "\n"  # who has no sessions: no principal is called so
_LEAST_RETRY_S = 0.05
_LONGEST_RETRY_S = 10.0  # somebody may close one
_EXPIRED_AT_ONCE = 256  # per shard and call, so that steps need not wait for long


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One client-visible sequence in progress, and where it lives.

    Attributes:
        id: unique among its owner's.
        owner: the principal that has opened it.
    """

    id: str
    owner: str
    served: ServedModel
    shard: Shard
    slot: int


class Directory:
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
        self._gone: OrderedDict[Key, type[SessionClosedError | SessionExpiredError]]
        self._gone = OrderedDict()
        self._owners: dict[str, int] = {"": 0}  # numbers of theirs, for columns
        self._due_s: dict[str, float] = {}  # by owner: none of its sessions expires before

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

    def open(
        self,
        served: ServedModel,
        session_id: str = "",
        *,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
    ) -> Session:
        """Open a session of the calling principal at position 0.

        Where every slot is taken, those that are due expire now.

        Args:
            served: the model.
            session_id: empty lets the server choose.
            idle_timeout_s: ``None`` is the server's, or the longest that the principal may have.
            ephemeral: whether it ends with its last stream, see `EphemeralSessions`.

        Raises:
            BadInputError: the id or the timeout cannot be used.
            SessionExistsError: the id is open already.
            SessionLimitError: every slot is taken.
            QuotaExceededError: the principal has as many as it may.
            NotStreamableError: the model has no states.
        """
        served.require_streamable()
        who = calling.get()
        quota, owned = who.grant.quota, self.by_owner.get(who.name, NO_SESSIONS)
        session_id = session_id or uuid.uuid4().hex
        settings = self._settings
        _check_id(session_id, settings.max_id_length)
        if session_id in owned or (who.name, session_id) in self.stranded:
            raise SessionExistsError(f"session_id: '{session_id}' is open already")
        longest_s = settings.max_idle_timeout_s
        if quota.max_idle_timeout_s is not None:
            longest_s = min(longest_s, quota.max_idle_timeout_s)
        default_s = min(settings.idle_timeout_s, longest_s)
        timeout_s = default_s if idle_timeout_s is None else idle_timeout_s
        if not 0 < timeout_s <= longest_s:
            raise BadInputError(
                "idle_timeout", f"{timeout_s:g} s is not above 0 and at most {longest_s:g} s"
            )
        if quota.max_sessions is not None and len(owned) >= quota.max_sessions:
            self._check_sessions(who.name, quota.max_sessions)
        try:
            shard = served.shard_for(session_id)
        except SessionLimitError:
            if not self._expire(served.shards):
                raise
            shard = served.shard_for(session_id)
        slot = shard.slots.begin(
            owner=self._number(who.name),
            opened_s=self._wall_clock(),
            now_s=self._clock(),
            idle_timeout_s=timeout_s,
            ephemeral=ephemeral,
        )
        if shard.log is not None:
            table = shard.table
            shard.log.open(
                slot,
                SessionRow(
                    number=shard.log.log.catalogue.new_number(),
                    id=session_id,
                    model=served.name,
                    version=served.version,
                    fingerprint=served.fingerprint,
                    branch=int(table.branch[slot]),
                    opened_s=float(table.opened_s[slot]),
                    idle_timeout_s=timeout_s,
                    ephemeral=ephemeral,
                    owner=who.name,
                ),
            )
        session = self._begun(session_id, who.name, served, shard, slot)
        self._gone.pop((who.name, session_id), None)
        self._due_s.pop(who.name, None)
        self._metrics.session_events.labels("opened").inc()
        return session

    def restore(self, served: ServedModel, stored: StoredSession) -> None:
        """Let a session of the store be open again.

        Raises:
            SessionLimitError: every slot is taken.
        """
        row = stored.row
        shard = served.shard_for(row.id)
        slot = shard.slots.begin(
            owner=self._number(row.owner),
            opened_s=row.opened_s,
            now_s=self._clock(),
            idle_timeout_s=row.idle_timeout_s,
            ephemeral=row.ephemeral,
        )
        shard.store.restore(slot, stored)
        if row.ephemeral:  # its streams have ended with the process
            shard.slots.ephemeral.leave_alone(np.array([slot]), now_s=self._clock())
        self._begun(row.id, row.owner, served, shard, slot)

    def _begun(
        self, session_id: str, owner: str, served: ServedModel, shard: Shard, slot: int
    ) -> Session:
        session = Session(id=session_id, owner=owner, served=served, shard=shard, slot=slot)
        shard.slots.settle(slot, session)
        self.by_owner.setdefault(owner, {})[session_id] = session
        return session

    def _number(self, owner: str) -> int:
        return self._owners.setdefault(owner, len(self._owners))

    def _check_sessions(self, owner: str, most: int) -> None:
        """Let those of a principal expire that are due; it has as many as it may.

        Raises:
            QuotaExceededError: none was.
        """
        now_s = self._clock()
        due_s = self._due_s.get(owner, 0.0)
        if due_s < now_s:  # else none of them is: who comes again and again is refused cheaply
            shards, number = self._registry.shards(), self.owner_number(owner)
            self._expire(shards, owner=number)
            due_s = min(
                (shard.table.due_s(shard.slots.owned(number)) for shard in shards),
                default=np.inf,
            )
            self._due_s[owner] = due_s
        if self.open_sessions(owner) < most:
            return
        mend = "close some, or wait until idle ones expire" if most else "ask who runs the server"
        raise QuotaExceededError(
            "max_sessions",
            f"'{owner}' has {self.open_sessions(owner):,} sessions open and may have {most:,}: "
            f"{mend}",
            retry_after_s=min(max(due_s - now_s, _LEAST_RETRY_S), _LONGEST_RETRY_S),
        )

    def is_stranded(self, session_id: str, owner: str | None = None) -> bool:
        """Whether it is a session of the store whose model is not served."""
        return (self.wanted_owner(owner), session_id) in self.stranded

    @property
    def now_s(self) -> float:
        """By the clock that idleness is counted by."""
        return self._clock()

    def touch(self, session: Session) -> None:
        """A session is used, whatever for: also by what leaves it where it is, such as forecasts.

        It matters where the idle timeout is short.
        """
        session.shard.table.last_used_s[session.slot] = self._clock()

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
        gone = self._gone.get(key)
        if gone is SessionExpiredError:
            raise SessionExpiredError(
                f"session_id: '{session_id}' was idle for too long and expired; open a new session"
            )
        if gone is SessionClosedError:
            raise SessionClosedError(f"session_id: '{session_id}' is closed; open a new session")
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
        lost = table.lost[slot] and not table.restoring[slot]
        return SessionInfo(
            id=session.id,
            model=session.served.name,
            version=session.served.version,
            status=SessionStatus.LOST if lost else SessionStatus.OPEN,
            branch=int(table.branch[slot]),
            position=table.stands_at(slot),
            opened_s=float(table.opened_s[slot]),
            last_used_s=self._wall_clock() - (self._clock() - float(table.last_used_s[slot])),
            idle_timeout_s=float(ephemeral.idle_timeout_s[slot]),
            ephemeral=slot in ephemeral,
            tier=SessionTier.STORE if table.cold[slot] else SessionTier.DEVICE,
            owner=session.owner,
        )

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
        self._gone[key] = SessionClosedError
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
        return self._expire(self._registry.shards())

    def _expire(self, shards: Iterable[Shard], *, owner: int | None = None) -> int:
        now_s = self._clock()
        count = 0
        session: Session
        for shard in shards:
            for session in shard.expired_sessions(now_s, at_most=_EXPIRED_AT_ONCE, owner=owner):
                left = shard.slots.ephemeral.is_alone(session.slot)  # it ends as its owner asked
                self._end(session, SessionClosedError if left else SessionExpiredError)
                self._metrics.session_events.labels("closed" if left else "expired").inc()
                count += 1
        return count

    def _end(self, session: Session, how: type[SessionClosedError | SessionExpiredError]) -> None:
        own = self.by_owner[session.owner]
        del own[session.id]
        if not own:
            del self.by_owner[session.owner]
        self._gone[session.owner, session.id] = how
        while len(self._gone) > self._settings.remembered_sessions:
            self._gone.popitem(last=False)
        session.shard.end(session.slot)


def _check_id(session_id: str, most: int) -> None:
    if len(session_id) <= most and session_id.isprintable():
        return
    wish = f"use at most {most} printable characters"
    for number, character in enumerate(session_id[:most], 1):
        if not character.isprintable():
            is_control = unicodedata.category(character) == "Cc"
            what = "a control character" if is_control else "one that cannot be printed"
            raise BadInputError(
                "session_id", f"character {number}, {character!a}, is {what}: {wish}"
            )
    raise BadInputError("session_id", f"it has {len(session_id)} characters: {wish}")
