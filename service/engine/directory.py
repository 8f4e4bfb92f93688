"""Session ids: which session each one names, or what became of it.

Everything here runs on one event loop. Knows nothing of steps or gRPC.
"""

import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from service.engine.log.commit_log import CommitLog
from service.engine.log.entries import SessionRow
from service.engine.log.recovery.stored import StoredSession
from service.engine.served.registry import Registry, ServedModel
from service.engine.sessions.table import SessionStatus, SessionTier
from service.engine.shard.shard import Shard
from service.engine.work.flow import asked_model
from service.errors import (
    BadInputError,
    ModelChangedError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionLimitError,
    SessionUnknownError,
)
from service.metrics import Metrics
from service.settings import EngineSettings

_EXPIRED_AT_ONCE = 256  # per shard and call, so that steps need not wait for long


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One client-visible sequence in progress, and where it lives."""

    id: str
    served: ServedModel
    shard: Shard
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as a client sees it; times are seconds since the epoch."""

    id: str
    model: str
    version: int
    status: SessionStatus
    branch: int
    position: int
    opened_s: float
    last_used_s: float
    idle_timeout_s: float
    ephemeral: bool
    tier: SessionTier
    owner: str = ""  # nobody asks yet who calls


class Directory:
    """The sessions that are open, by id, and some of those that were.

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
        self.sessions: dict[str, Session] = {}
        """Those that are open."""
        self._settings = settings
        self._metrics = metrics
        self._registry = registry
        self._clock = clock
        self._wall_clock = wall_clock
        # Those of the store whose model is not served.
        self._stranded: dict[str, tuple[StoredSession, ModelChangedError, CommitLog]] = {}
        self._stranded_order: list[str] = []  # their ids, also of those that were closed since
        self._stranded_ephemeral: list[str] = []
        self._gone: OrderedDict[str, type[SessionClosedError | SessionExpiredError]] = OrderedDict()

    def open(
        self,
        served: ServedModel,
        session_id: str = "",
        *,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
    ) -> Session:
        """Open a session at position 0; where every slot is taken, those that are due expire now.

        Args:
            served: the model.
            session_id: empty lets the server choose.
            idle_timeout_s: ``None`` is the server's.
            ephemeral: whether it ends with its last stream, see `EphemeralSessions`.

        Raises:
            BadInputError: the id or the timeout cannot be used.
            SessionExistsError: the id is open already.
            SessionLimitError: every slot is taken.
            NotStreamableError: the model has no states.
        """
        served.require_streamable()
        session_id = session_id or uuid.uuid4().hex
        settings = self._settings
        _check_id(session_id, settings.max_id_length)
        if session_id in self.sessions or session_id in self._stranded:
            raise SessionExistsError(f"session_id: '{session_id}' is open already")
        timeout_s = settings.idle_timeout_s if idle_timeout_s is None else idle_timeout_s
        if not 0 < timeout_s <= settings.max_idle_timeout_s:
            raise BadInputError(
                "idle_timeout",
                f"{timeout_s:g} s is not above 0 and at most {settings.max_idle_timeout_s:g} s",
            )
        try:
            shard = served.shard_for(session_id)
        except SessionLimitError:
            if not self._expire(served.shards):
                raise
            shard = served.shard_for(session_id)
        slot = shard.slots.begin(
            session_id,
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
                ),
            )
        session = Session(id=session_id, served=served, shard=shard, slot=slot)
        self.sessions[session_id] = session
        self._gone.pop(session_id, None)
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
            row.id,
            opened_s=row.opened_s,
            now_s=self._clock(),
            idle_timeout_s=row.idle_timeout_s,
            ephemeral=row.ephemeral,
        )
        shard.store.restore(slot, stored)
        if row.ephemeral:  # its streams have ended with the process
            shard.slots.ephemeral.leave_alone(np.array([slot]), now_s=self._clock())
        self.sessions[row.id] = Session(id=row.id, served=served, shard=shard, slot=slot)

    def strand(self, stored: StoredSession, why: ModelChangedError, log: CommitLog) -> None:
        """A session of the store cannot go on: it is kept, and can be closed."""
        self._stranded[stored.row.id] = stored, why, log
        self._stranded_order.append(stored.row.id)
        if stored.row.ephemeral:  # the file may be back at another start, and this is gone by then
            self._stranded_ephemeral.append(stored.row.id)

    def is_stranded(self, session_id: str) -> bool:
        """Whether it is a session of the store whose model is not served."""
        return session_id in self._stranded

    @property
    def stranded(self) -> int:
        """How many sessions of the store have a model that is not served."""
        return len(self._stranded)

    @property
    def stranded_before(self) -> int:
        """The same, and those that were closed since."""
        return len(self._stranded_order)

    def stranded_session(self, number: int) -> SessionInfo | None:
        """One of those, counted from 0, as it stands; ``None`` where it was closed."""
        found = self._stranded.get(self._stranded_order[number])
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
        )

    def stranded_groups(self) -> list[int]:
        """Where the tails of the sessions begin whose model is not served."""
        return [own.first_group for own, _, _ in self._stranded.values() if own.first_group]

    @property
    def now_s(self) -> float:
        """By the clock that idleness is counted by."""
        return self._clock()

    def touch(self, session: Session) -> None:
        """A session is used, whatever for: also by what leaves it where it is, such as forecasts.

        It matters where the idle timeout is short.
        """
        session.shard.table.last_used_s[session.slot] = self._clock()

    def find(self, session_id: str) -> Session:
        """An open session.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        session = self.sessions.get(session_id)
        if session is not None:
            asked_model.set(session.served.label)
            return session
        if session_id in self._stranded:
            raise self._stranded[session_id][1]
        gone = self._gone.get(session_id)
        if gone is SessionExpiredError:
            raise SessionExpiredError(
                f"session_id: '{session_id}' was idle for too long and expired; open a new session"
            )
        if gone is SessionClosedError:
            raise SessionClosedError(f"session_id: '{session_id}' is closed; open a new session")
        if not session_id:  # a client has misspelt the field, say, and its library left it out
            raise SessionUnknownError("session_id: it is empty or was left out; name a session")
        raise SessionUnknownError(f"session_id: '{session_id}' is not open here; open it first")

    def describe(self, session_id: str) -> SessionInfo:
        """Where a session stands.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        return self.info(self.find(session_id))

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
        )

    def close(self, session_id: str) -> int:
        """Close a session; steps that are queued, and not given to the device, are refused.

        Returns its position.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        stranded = self._stranded.pop(session_id, None)
        if stranded is not None:
            stored, _, log = stranded
            log.close(stored.row.number, first_group=stored.first_group)
            self._gone[session_id] = SessionClosedError
            return stored.position
        session = self.find(session_id)
        position = session.shard.table.stands_at(session.slot)
        self._end(session, SessionClosedError)
        self._metrics.session_events.labels("closed").inc()
        return position

    def close_slot(self, shard: Shard, slot: int, tenancy: int) -> None:
        """Close the session of a slot, unless the slot has changed hands since."""
        tenant = shard.slots.tenant(slot, tenancy)
        if tenant is not None:
            self.close(tenant)

    def expire(self) -> int:
        """Close sessions that have been idle for too long, some at a time; returns how many."""
        for session_id in self._stranded_ephemeral:
            if session_id in self._stranded:
                self.close(session_id)
        self._stranded_ephemeral.clear()
        return self._expire(self._registry.shards())

    def _expire(self, shards: Iterable[Shard]) -> int:
        now_s = self._clock()
        count = 0
        for shard in shards:
            for session_id in shard.expired_sessions(now_s, at_most=_EXPIRED_AT_ONCE):
                session = self.sessions[session_id]
                left = shard.slots.ephemeral.is_alone(session.slot)  # it ends as its owner asked
                self._end(session, SessionClosedError if left else SessionExpiredError)
                self._metrics.session_events.labels("closed" if left else "expired").inc()
                count += 1
        return count

    def _end(self, session: Session, how: type[SessionClosedError | SessionExpiredError]) -> None:
        del self.sessions[session.id]
        self._gone[session.id] = how
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
