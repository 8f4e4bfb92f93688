"""Session ids: which session each one names, or what became of it; and how it came to be.

Everything here runs on one event loop. Knows nothing of steps or gRPC.
"""

import uuid
from collections.abc import Callable

import numpy as np

from service.auth.principal import calling
from service.engine.directory import limits
from service.engine.directory.open_sessions import OpenSessions
from service.engine.directory.session import NO_SESSIONS, Opening, Session
from service.engine.directory.upgrading import begin_beside, go_on_there
from service.engine.log.chronicle import ALL, Chronicle
from service.engine.log.commit_log import CommitLog
from service.engine.log.recovery.stored import StoredSession
from service.engine.log.seeds import Seed
from service.engine.served.registry import Registry, ServedModel
from service.engine.sessions.initials import Initial
from service.engine.shard.shard import Shard
from service.errors import (
    ModelChangedError,
    OverloadedError,
    SessionClosedError,
    SessionExistsError,
    SessionLimitError,
)
from service.metrics import Metrics
from service.settings import EngineSettings


class Directory(OpenSessions):
    """The sessions that are open, those that are opened, and some of those that were.

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
        super().__init__(settings, metrics, registry, clock=clock, wall_clock=wall_clock)
        self._opening: dict[str, set[str]] = {}  # by owner, ids of sessions that are made

    def open(
        self,
        served: ServedModel,
        session_id: str = "",
        *,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
        initial: Initial | None = None,
        history_steps: int | None = None,
        arrived: str = "",
    ) -> Session:
        """Open a session of the calling principal at position 0.

        Where every slot is taken, those that are due expire now.

        Args:
            served: the model.
            session_id: empty lets the server choose.
            idle_timeout_s: ``None`` is the server's, or the longest that the principal may have.
            ephemeral: whether it ends with its last stream, see `EphemeralSessions`.
            initial: what it starts from; ``None`` is the model's own.
            history_steps: so many of the steps that it reads are kept at least, see `Chronicle`;
                ``None`` is the server's.
            arrived: what its move is known by that has led here; empty: none has.

        Raises:
            OverloadedError: there is no room for what it would keep.
            BadInputError: the id or the timeout cannot be used.
            SessionExistsError: the id is open already.
            SessionLimitError: every slot is taken.
            QuotaExceededError: the principal has as many as it may.
            NotStreamableError: the model has no states.
        """
        opening = self._begin(
            served,
            session_id,
            idle_timeout_s=idle_timeout_s,
            ephemeral=ephemeral,
            history_steps=history_steps,
            arrived=arrived,
        )
        return self._open(opening, initial=initial)

    def begin(
        self,
        served: ServedModel,
        session_id: str = "",
        *,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
        history_steps: int | None = None,
        arrived: str = "",
    ) -> Opening:
        """Begin to open a session of the calling principal, as `open` does; nobody finds it yet.

        Its id is taken and its slot counted until `adopt` or `call_off`, one of which must follow.

        Raises:
            CellarError: as `open`.
        """
        opening = self._begin(
            served,
            session_id,
            idle_timeout_s=idle_timeout_s,
            ephemeral=ephemeral,
            history_steps=history_steps,
            arrived=arrived,
        )
        session = opening.session
        session.shard.table.hide(session.slot)
        if arrived:
            self.arrivals.came(arrived, (session.owner, session.id))
        self._opening.setdefault(session.owner, set()).add(session.id)
        return opening

    def adopt(self, opening: Opening, seed: Seed) -> Session:
        """Let a session be open whose slot has a seed, which is of its branch."""
        session = opening.session
        self._no_longer_opening(session)
        session.shard.slots.show(session.slot, now_s=self._clock())
        return self._open(opening, seed)

    def call_off(self, opening: Opening) -> None:
        """A session could not be made: its id is free, and its slot once nothing is queued."""
        self._no_longer_opening(opening.session)
        self.arrivals.came_not(opening.session.arrived)
        opening.session.shard.end(opening.session.slot)

    def _no_longer_opening(self, session: Session) -> None:
        own = self._opening[session.owner]
        own.remove(session.id)
        if not own:
            del self._opening[session.owner]

    def check_free(self, session_id: str) -> None:
        """Check that the calling principal may open a session of this id.

        Raises:
            BadInputError: it cannot be used.
            SessionExistsError: it is open already.
        """
        owner = calling.get().name
        limits.check_id(session_id, self._settings.max_id_length)
        if session_id in self._opening.get(owner, ()):
            raise SessionExistsError(f"session_id: '{session_id}' is being opened already")
        is_open = session_id in self.by_owner.get(owner, NO_SESSIONS)
        if is_open or (owner, session_id) in self.stranded:
            raise SessionExistsError(f"session_id: '{session_id}' is open already")

    def _begin(
        self,
        served: ServedModel,
        session_id: str,
        *,
        idle_timeout_s: float | None,
        ephemeral: bool,
        history_steps: int | None,
        arrived: str,
    ) -> Opening:
        """Check all that is asked of an open, and take a slot."""
        served.require_streamable()
        who = calling.get()
        quota, owned = who.grant.quota, self.by_owner.get(who.name, NO_SESSIONS)
        session_id = session_id or uuid.uuid4().hex
        settings = self._settings
        self.check_free(session_id)
        opening = self._opening.get(who.name, ())
        timeout_s = limits.timeout_s(settings, idle_timeout_s)
        keeps = settings.history_steps if history_steps is None else history_steps
        if keeps:
            served.shards[0].chronicles.memory.check(self._number(who.name))
        if quota.max_sessions is not None and len(owned) + len(opening) >= quota.max_sessions:
            self._check_sessions(who.name, quota.max_sessions)
        shard = self._shard_for(served, session_id)
        slot = shard.slots.begin(
            owner=self._number(who.name),
            opened_s=self._wall_clock(),
            now_s=self._clock(),
            idle_timeout_s=timeout_s,
            ephemeral=ephemeral,
        )
        session = Session(
            id=session_id,
            owner=who.name,
            served=served,
            shard=shard,
            slot=slot,
            arrived=arrived,
        )
        return Opening(
            session=session,
            idle_timeout_s=timeout_s,
            ephemeral=ephemeral,
            keeps=min(keeps, ALL),
        )

    def _shard_for(self, served: ServedModel, session_id: str) -> Shard:
        """Where a new session goes; where every slot is taken, those that are due expire."""
        try:
            return served.shard_for(session_id)
        except SessionLimitError:
            if not self._expiry.expire(served.shards, now_s=self._clock()):
                raise
            return served.shard_for(session_id)

    def begin_upgrade(self, session: Session, served: ServedModel) -> Opening:
        """Begin to put an open session into a slot of another version, until which nobody finds it.

        `upgrade` or `call_off` must follow. It takes a slot more meanwhile, of the quota, too.

        Raises:
            OverloadedError: it is on its way already.
            SessionLimitError: every slot of the version is taken.
        """
        own = self._opening.setdefault(session.owner, set())
        try:
            if session.id in own:
                raise OverloadedError(
                    f"session_id: '{session.id}' is being upgraded already: ask again when it is",
                    retry_after_s=limits.LONGEST_RETRY_S / 10,
                )
            shard = self._shard_for(served, session.id)
            opening = begin_beside(
                session,
                served,
                shard,
                owner=self._number(session.owner),
                now_s=self._clock(),
            )
            own.add(session.id)
        finally:
            if not own:
                del self._opening[session.owner]
        return opening

    def upgrade(self, session: Session, opening: Opening, history: Chronicle) -> None:
        """Let an open session be in the slot that was begun for it, which has read all it has.

        Args:
            session: as it was.
            opening: where it is then.
            history: all that it has read.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it was closed.
            SessionMovingError: it moves to another server by now.
        """
        if self.sessions.get(session.id) is not session:
            self.find(session.id)
            raise SessionClosedError(f"session_id: '{session.id}' was closed, and opened anew")
        session.shard.check_stays(session.slot)
        new = opening.session
        new.arrived = session.arrived
        go_on_there(session, opening, history)
        self._no_longer_opening(new)
        new.shard.slots.show(new.slot, now_s=self._clock())
        new.shard.chronicles.put(new.slot, history)
        self._begun(new)
        session.shard.end(session.slot)
        self._metrics.session_events.labels("upgraded").inc()

    def _open(
        self, opening: Opening, seed: Seed | None = None, *, initial: Initial | None = None
    ) -> Session:
        """Let a session be found, and tell the log of it."""
        session = opening.session
        shard, slot = session.shard, session.slot
        if shard.log is not None:
            shard.log.open(
                slot,
                opening.row(has_initial=initial is not None),
                seed,
            )
        if initial is not None:
            shard.begin_with(slot, initial)
        shard.chronicles.begin(slot, opening.keeps, seed)
        self._begun(session)
        if session.arrived:
            self.arrivals.came(session.arrived, (session.owner, session.id))
        self._tombstones.remove((session.owner, session.id))
        self._expiry.has_more(session.owner)
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
            seated=False,
        )
        shard.store.restore(slot, stored)
        shard.chronicles.restore(slot, stored)
        if row.ephemeral:  # its streams have ended with the process
            shard.slots.ephemeral.leave_alone(np.array([slot]), now_s=self._clock())
        if row.moving is not None:
            shard.freeze(slot, row.moving)
        session = Session(
            id=row.id,
            owner=row.owner,
            served=served,
            shard=shard,
            slot=slot,
            arrived=row.arrived,
        )
        self._begun(session)
        if row.arrived:
            self.arrivals.came(row.arrived, (row.owner, row.id))

    def strand(self, stored: StoredSession, why: ModelChangedError, log: CommitLog) -> None:
        """Keep a session of the store whose model is not served."""
        self.stranded.add(stored, why, log)
        if stored.row.arrived:
            self.arrivals.came(stored.row.arrived, (stored.row.owner, stored.row.id))

    def _begun(self, session: Session) -> None:
        session.shard.slots.settle(session.slot, session)
        self.by_owner.setdefault(session.owner, {})[session.id] = session

    def _number(self, owner: str) -> int:
        return self._owners.setdefault(owner, len(self._owners))

    def _check_sessions(self, owner: str, most: int) -> None:
        """Let those of a principal expire that are due; it has as many as it may.

        Raises:
            QuotaExceededError: none was.
        """
        now_s = self._clock()
        number = self.owner_number(owner)
        due_s = self._expiry.expire_of(owner, number, self._registry.shards, now_s=now_s)
        count = self.open_sessions(owner) + len(self._opening.get(owner, ()))
        if count >= most:
            raise limits.too_many(owner, count=count, most=most, next_s=due_s - now_s)

    def longest_timeout_s(self) -> float:
        """The longest idle timeout that the calling principal may ask for."""
        return limits.longest_timeout_s(self._settings)
