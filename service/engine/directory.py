"""Session ids: which session each one names, or what became of it.

Every principal has ids of its own. What another has is found nowhere a caller looks, as what nobody
has: there is no check that could be forgotten. Everything here runs on one event loop. Knows
nothing of steps or gRPC.
"""

import asyncio
import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from service.auth.principal import Role, calling
from service.engine.log.chronicle import ALL, Chronicle
from service.engine.log.commit_log import CommitLog
from service.engine.log.entries import SessionRow
from service.engine.log.recovery.stored import StoredSession
from service.engine.log.seeds import Seed
from service.engine.served.registry import Registry, ServedModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.initials import Initial
from service.engine.sessions.table import SessionStatus
from service.engine.shard.shard import Shard
from service.engine.stranded import Key, Stranded
from service.engine.work.flow import asked_model
from service.errors import (
    BadInputError,
    ModelChangedError,
    OverloadedError,
    QuotaExceededError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionLimitError,
    SessionUnknownError,
    moved_away,
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
    arrived: str = ""
    """What its move is known by that has led here, see `Arrivals`."""
    moving: asyncio.Lock | None = None
    """Is had by whoever moves it on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opening:
    """A session that is about to be open: it has an id and a slot, and nobody finds it."""

    session: Session
    idle_timeout_s: float
    ephemeral: bool
    keeps: int  # of what it reads, in steps, see `Chronicle`


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
        self._gone: OrderedDict[Key, type[SessionClosedError | SessionExpiredError] | str]
        self._gone = OrderedDict()  # how each has ended; or where it has moved to
        self.arrivals = Arrivals(settings.remembered_sessions)
        """The sessions that have come from other servers."""
        self._opening: dict[str, set[str]] = {}  # by owner, ids of sessions that are made
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
        _check_id(session_id, self._settings.max_id_length)
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
        longest_s = self.longest_timeout_s()
        default_s = min(settings.idle_timeout_s, longest_s)
        timeout_s = default_s if idle_timeout_s is None else idle_timeout_s
        if not 0 < timeout_s <= longest_s:
            raise BadInputError(
                "idle_timeout", f"{timeout_s:g} s is not above 0 and at most {longest_s:g} s"
            )
        keeps = settings.history_steps if history_steps is None else history_steps
        if keeps:
            served.shards[0].chronicles.memory.check()
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
            if not self._expire(served.shards):
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
                    retry_after_s=_LONGEST_RETRY_S / 10,
                )
            shard = self._shard_for(served, session.id)
            old, ephemeral = session.slot, session.shard.slots.ephemeral
            kept = session.shard.chronicles.find(old)
            slot = shard.slots.begin(
                owner=self._number(session.owner),
                opened_s=float(session.shard.table.opened_s[old]),
                now_s=self._clock(),
                idle_timeout_s=float(ephemeral.idle_timeout_s[old]),
                ephemeral=old in ephemeral,
            )
            own.add(session.id)
        finally:
            if not own:
                del self._opening[session.owner]
        shard.table.hide(slot)
        return Opening(
            session=Session(
                id=session.id,
                owner=session.owner,
                served=served,
                shard=shard,
                slot=slot,
            ),
            idle_timeout_s=float(ephemeral.idle_timeout_s[old]),
            ephemeral=old in ephemeral,
            keeps=0 if kept is None else kept.keeps,
        )

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
        base, tail = history.not_there(0)
        branch = int(new.shard.table.branch[new.slot])
        session.shard.table.goes_on(session.slot, branch=branch, position=history.end)
        new.shard.table.left[new.slot] = session.shard.table.branch[session.slot]
        new.shard.admit_inbox()
        session.shard.admit_inbox()
        # One after the other, so that they are in one group of the log.
        if session.shard.log is not None and new.shard.log is not None:
            initial = new.shard.initials.of(new.slot)
            session.shard.log.close(session.slot)
            new.shard.log.open(new.slot, self._row(opening, has_initial=initial is not None))
            if initial is not None:
                new.shard.log.begin_with(new.slot, initial)
            new.shard.log.has_read(new.slot, base, tail)
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
                self._row(opening, has_initial=initial is not None),
                seed,
            )
        if initial is not None:
            shard.begin_with(slot, initial)
        shard.chronicles.begin(slot, opening.keeps, seed)
        self._begun(session)
        if session.arrived:
            self.arrivals.came(session.arrived, (session.owner, session.id))
        self._gone.pop((session.owner, session.id), None)
        self._due_s.pop(session.owner, None)
        self._metrics.session_events.labels("opened").inc()
        return session

    def _row(self, opening: Opening, *, has_initial: bool) -> SessionRow:
        """What the catalogue is to say of a session."""
        session = opening.session
        served, table, slot = session.served, session.shard.table, session.slot
        assert session.shard.log is not None, "there is a catalogue"
        return SessionRow(
            number=session.shard.log.log.catalogue.new_number(),
            id=session.id,
            model=served.name,
            version=served.version,
            fingerprint=served.fingerprint,
            branch=int(table.branch[slot]),
            opened_s=float(table.opened_s[slot]),
            idle_timeout_s=opening.idle_timeout_s,
            ephemeral=opening.ephemeral,
            owner=session.owner,
            has_initial=has_initial,
            history_steps=opening.keeps,
            left=int(table.left[slot]),
            arrived=session.arrived,
        )

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
        due_s = self._due_s.get(owner, 0.0)
        if due_s < now_s:  # else none of them is: who comes again and again is refused cheaply
            shards, number = self._registry.shards(), self.owner_number(owner)
            self._expire(shards, owner=number)
            due_s = min(
                (shard.table.due_s(shard.slots.owned(number)) for shard in shards),
                default=np.inf,
            )
            self._due_s[owner] = due_s
        count = self.open_sessions(owner) + len(self._opening.get(owner, ()))
        if count < most:
            return
        mend = "close some, or wait until idle ones expire" if most else "ask who runs the server"
        raise QuotaExceededError(
            "max_sessions",
            f"'{owner}' has {count:,} sessions open and may have {most:,}: {mend}",
            retry_after_s=min(max(due_s - now_s, _LEAST_RETRY_S), _LONGEST_RETRY_S),
        )

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

    def longest_timeout_s(self) -> float:
        """The longest idle timeout that the calling principal may ask for."""
        own, all_s = calling.get().grant.quota.max_idle_timeout_s, self._settings.max_idle_timeout_s
        return all_s if own is None else min(own, all_s)

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
        if isinstance(gone, str):
            raise moved_away(gone)
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
        self._gone[key] = row.move_to if row.released else SessionClosedError
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
        moving = session.shard.table.moves.get(session.slot)
        has_moved = moving is not None and moving.released
        self._gone[session.owner, session.id] = moving.move_to if moving and has_moved else how
        self.arrivals.ended(session.arrived)
        while len(self._gone) > self._settings.remembered_sessions:
            self._gone.popitem(last=False)
        session.shard.end(session.slot)


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
