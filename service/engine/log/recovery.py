"""What a store says of the sessions in it, when a server starts.

The catalogue is in the table, as of some group; what opened, closed and reset sessions since is in
the journal, and so is what each session has read since its checkpoint. Knows nothing of models.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import structlog

from service.engine.log.entries import (
    Closed,
    Event,
    Moved,
    Opened,
    Rebranched,
    Reset,
    SessionRow,
    Steps,
    after_crash,
    after_move,
    after_reset,
    events_of,
)
from service.engine.log.seeds import Seed
from service.engine.work.columns import Ints
from service.store.records import DamagedError, Section, unpack
from service.store.store import Store

SESSION, CHECKPOINT, META = b"s", b"c", b"m"
"""What keys of the table begin with."""
ARITHMETIC = META + b"arithmetic/"
"""What the keys of a model's `Arithmetics` begin with; "name/version" follows."""
APPLIED = META + b"applied"
"""The group up to which the table knows what opened, closed and reset sessions."""
IN_DOUBT = META + b"in_doubt"
"""There while a server runs that may lose acknowledged steps when it ends in no good order."""

_NEVER = np.iinfo(np.int64).max
_log = structlog.get_logger(__name__)


def key(kind: bytes, number: int) -> bytes:
    """The key of a session's row."""
    return kind + number.to_bytes(8, "big")


@dataclass(slots=True, kw_only=True)
class Tail:
    """What a session has read since its checkpoint, among the entries of its model."""

    entries: Steps  # session after session, those of each in order
    groups: Ints  # (entries,) in which each is
    start: int
    stop: int
    first_step: int  # where its inputs begin

    @property
    def own_groups(self) -> Ints:
        """In which group each of the session's is, (entries of the session,)."""
        return self.groups[self.start : self.stop]

    def read(self) -> Steps:
        """The session's own."""
        return self.entries.part(self.start, self.stop, first_step=self.first_step)

    def since(self, position: int) -> "Tail | None":
        """What was read from a position on."""
        own = self.entries.positions[self.start : self.stop]
        start = self.start + int(np.searchsorted(own, position))
        if start == self.stop:
            return None
        before = int(self.entries.steps[self.start : start].sum())
        return replace(self, start=start, first_step=self.first_step + before)


@dataclass(slots=True, kw_only=True)
class StoredSession:
    """A session in the store.

    Attributes:
        row: what the catalogue says of it.
        position: where it stands; what it has read is whole up to there.
        first_group: where its tail begins, or its seed is, or what is lost of it; 0 where it has
            none of these.
        last_group: where its tail ends; 0 where it has none.
        tail: what it has read since its checkpoint.
        seed: where it has no checkpoint on its branch, what the journal has instead, if it was
            moved there.
        is_damaged: some of what it had read is lost; it stands where it was before.
        is_aside: to read its tail has ended the process; it is not read any more.
    """

    row: SessionRow
    position: int = 0
    first_group: int = 0
    last_group: int = 0
    tail: Tail | None = None
    seed: Seed | None = None
    is_damaged: bool = False
    is_aside: bool = False

    @property
    def begins(self) -> int:
        """Where its tail begins: the position of its checkpoint, or of its seed in the journal."""
        return self.row.seed if self.seed is None else self.seed.position

    @property
    def tail_steps(self) -> int:
        """Steps since its checkpoint."""
        return self.position - self.begins

    def move_on(self, seed: int) -> None:
        """It has a later checkpoint by now: only what was read since then is its tail."""
        self.row, self.seed = replace(self.row, seed=seed), None
        if self.tail is not None:
            self.tail = self.tail.since(seed)


@dataclass(slots=True, kw_only=True)
class Stored:
    """All that a store holds.

    Attributes:
        sessions: by number.
        last_group: the number of the last group; 0 where there was none.
        applied: the group up to which the catalogue is in the table.
        changes: of the catalogue, since then.
        next_number: of a session that is opened.
    """

    sessions: dict[int, StoredSession] = field(default_factory=dict)
    last_group: int = 0
    applied: int = 0
    changes: dict[int, SessionRow | None] = field(default_factory=dict)
    next_number: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Damage:
    """Something in the journal that cannot be read.

    Attributes:
        place: in the journal.
        group: which.
        position: of the entry; -1 where that cannot be read either.
    """

    place: int
    group: int
    position: int = -1


@dataclass(slots=True)
class _Read:
    """What was found in the journal, in order."""

    parts: dict[str, list[Steps]] = field(default_factory=dict)  # by model
    groups: dict[str, list[int]] = field(default_factory=dict)  # of each part
    places: dict[str, list[int]] = field(default_factory=dict)  # in the journal, of each part
    # The place where a session's present branch begins: its last reset, or move.
    begins: dict[int, int] = field(default_factory=dict)
    # If it was a move: that, its group, and the branch that crashes have led to since.
    moved: dict[int, tuple[Moved, int, int]] = field(default_factory=dict)
    # Of a session, the places where crashes have ended a branch, and the steps that were kept.
    crashes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    opened: dict[int, int] = field(default_factory=dict)  # the place where it was opened
    damaged: dict[int, list[_Damage]] = field(default_factory=dict)  # entries of a session
    last_group: int = 0
    unknown: list[_Damage] = field(default_factory=list)  # nobody can say whose

    def happened(self, event: Event, *, place: int, group: int) -> None:
        """Note what an event says of entries before it; whoever else knows of it."""
        match event:
            case Opened(row=row):
                self.opened[row.number] = place
            case Reset(number=number):  # what was read before is on another branch
                self.begins[number] = place
                self.moved.pop(number, None)
            case Moved(number=number):
                self.begins[number] = place
                self.moved[number] = event, group, event.branch
            case Rebranched(number=number, branch=branch, position=position):
                self.crashes.setdefault(number, []).append((place, position))
                if number in self.moved:
                    self.moved[number] = *self.moved[number][:2], branch

    def damage_of(self, session: "StoredSession") -> _Damage | None:
        """The first of what is lost of a session since its checkpoint."""
        own = self.damaged.get(session.row.number, ())
        return next((one for one in own if self._concerns(one, session)), None)

    def may_damage(self, session: "StoredSession") -> _Damage | None:
        """The first of what may be a session's: it has read on behind it where it is not."""
        behind = [one for one in self.unknown if one.group >= session.last_group]
        return next((one for one in behind if self._concerns(one, session)), None)

    def _concerns(self, damage: _Damage, session: "StoredSession") -> bool:
        """Whether it is of the session as it is now, and not in its checkpoint."""
        row = session.row
        since = max(self.begins.get(row.number, -1), self.opened.get(row.number, -1))
        is_seeded = damage.group <= row.seed_group or 0 <= damage.position < row.seed
        return damage.place > since and not is_seeded


def read_store(store: Store) -> Stored:
    """Read what is in a store."""
    stored, rows = Stored(), dict[int, SessionRow]()
    for _, value in store.rows(SESSION):
        row = SessionRow.unpack(unpack(value)[0])
        rows[row.number] = row
    applied = store.row(APPLIED)
    if applied is not None:
        stored.applied = stored.last_group = int(unpack(applied)[0].meta["group"])
        stored.next_number = int(unpack(applied)[0].meta["next_number"])

    def happened(number: int, events: list[Event]) -> None:
        if number > stored.applied:
            _apply(events, rows, stored)

    found = _read(store, happened)
    stored.last_group = max(stored.last_group, found.last_group)
    stored.sessions = _with_tails(rows, found)
    stored.next_number = max([stored.next_number, *[number + 1 for number in rows]])
    return stored


def read_sessions(store: Store, rows: Mapping[int, SessionRow]) -> dict[int, StoredSession]:
    """Some sessions of a store, of which the catalogue says this."""
    return _with_tails(rows, _read(store, lambda _number, _events: None))


def _with_tails(rows: Mapping[int, SessionRow], found: _Read) -> dict[int, StoredSession]:
    sessions = {number: StoredSession(row=row, position=row.seed) for number, row in rows.items()}
    for number, (event, group, branch) in found.moved.items():
        session = sessions.get(number)
        # Of a branch that was left again, or before a checkpoint, it says nothing any more.
        if session is not None and session.row.branch == branch and not session.row.seed:
            session.seed, session.position = event.seed, event.seed.position
            session.first_group = session.last_group = group
    for model, parts in found.parts.items():
        _tails(model, parts, found, sessions)
    for number in found.damaged:
        if number in sessions:
            _lose(sessions[number], found.damage_of(sessions[number]))
    if found.unknown:
        for session in sessions.values():
            _lose(session, found.may_damage(session))
    return sessions


def _lose(session: StoredSession, damage: _Damage | None) -> None:
    """Some of what a session has read is lost; the journal is kept from there on."""
    if damage is not None:
        session.is_damaged = True
        session.first_group = min(session.first_group or damage.group, damage.group)


def _read(store: Store, happened: Callable[[int, list[Event]], None]) -> _Read:
    """Read the journal."""
    found, place = _Read(), 0
    for number, data in store.groups():
        found.last_group = number
        for section in _sections(number, data, found, place):
            place += 1
            if section.kind in ("events", "moved"):
                events = events_of(section)
                for own in events:
                    found.happened(own, place=place, group=number)
                happened(number, events)
            elif section.kind == "steps":
                model = str(section.meta["model"])
                found.parts.setdefault(model, []).append(Steps.of(section))
                found.groups.setdefault(model, []).append(number)
                found.places.setdefault(model, []).append(place)
        place += 1
    return found


def _sections(number: int, data: bytes, found: _Read, place: int) -> Iterator[Section]:
    try:
        yield from unpack(data)
    except DamagedError as error:
        _log.error("store damaged", group=number, reason=str(error))
        if not error.sections:
            found.unknown.append(_Damage(place=place + 1, group=number))
        for index, section in enumerate(error.sections):
            place += 1  # as whoever reads counts them
            if index not in error.damaged:
                yield section
                continue
            yield Section("damaged", {}, {})
            whose = section.columns.get("session")
            if section.kind not in ("steps", "moved") or whose is None:
                found.unknown.append(_Damage(place=place, group=number))
                continue
            positions = section.columns.get("position", np.full(len(whose), -1))
            for session, position in zip(whose.tolist(), positions.tolist(), strict=True):
                damage = _Damage(place=place, group=number, position=position)
                found.damaged.setdefault(session, []).append(damage)


def _apply(events: list[Event], rows: dict[int, SessionRow], stored: Stored) -> None:
    """Let the catalogue know what has happened since it was written."""
    for event in events:
        match event:
            case Opened(row=row):
                rows[row.number] = stored.changes[row.number] = row
                stored.next_number = max(stored.next_number, row.number + 1)
            case Closed(number=number):
                rows.pop(number, None)
                stored.changes[number] = None
            case Reset(number=number, branch=branch):
                if number in rows:
                    row = after_reset(rows[number], branch)
                    rows[number] = stored.changes[number] = row
            case Moved(number=number):
                if number in rows:
                    row = after_move(rows[number], event)
                    rows[number] = stored.changes[number] = row
            case Rebranched(number=number, branch=branch, position=position):
                if number in rows and rows[number].branch != branch:  # the table may know it
                    row = after_crash(rows[number], branch, position)
                    rows[number] = stored.changes[number] = row


def _tails(
    model: str, parts: list[Steps], found: _Read, sessions: Mapping[int, StoredSession]
) -> None:
    """Find what each session of a model has read since its checkpoint.

    There may be millions of entries and 100,000 sessions, so this goes by columns.
    """
    entries = Steps.joined(parts)
    lengths = [len(part) for part in parts]
    parts.clear()  # hundreds of MB, of millions of entries
    places = np.repeat(np.array(found.places[model], np.int64), lengths)
    numbers, whose = np.unique(entries.sessions, return_inverse=True)
    own = [sessions.get(number) for number in numbers.tolist()]
    seeds = np.array([_NEVER if session is None else session.begins for session in own])
    branches = np.array([found.begins.get(number, -1) for number in numbers.tolist()])
    damaged = np.full(len(own), _NEVER)
    for index, session in enumerate(own):
        if session is not None and session.row.number in found.damaged:
            lost = found.damage_of(session)
            damaged[index] = _NEVER if lost is None else lost.place
    # What was read before the checkpoint, on an earlier branch too, stands before it; sessions
    # that have ended need nothing.
    needs = entries.positions >= seeds[whose]
    needs &= (places > branches[whose]) & (places < damaged[whose])
    all_ends = entries.positions + entries.steps
    crashes = [found.crashes.get(number, ()) for number in numbers.tolist()]
    for turn in range(max(map(len, crashes), default=0)):  # what a crash took is not there again
        own_turn = [ended[turn] if turn < len(ended) else (-1, _NEVER) for ended in crashes]
        until, kept = np.array(own_turn, np.int64).T
        needs &= (places > until[whose]) | (all_ends <= kept[whose])
    needed = np.flatnonzero(needs)
    order = needed[np.argsort(whose[needed], kind="stable")]
    whose, entries = whose[order], entries.take(order)
    groups = np.repeat(np.array(found.groups[model], np.int64), lengths)[order]
    # In what is left each entry begins where the one before it ended.
    ends = entries.positions + entries.steps
    first_steps = np.cumsum(entries.steps) - entries.steps
    starts = np.flatnonzero(np.diff(whose, prepend=-1))
    begins = np.concatenate([[0], ends[:-1]])[: len(ends)]
    begins[starts] = seeds[whose[starts]]
    gaps = np.flatnonzero(entries.positions != begins)
    stops = [*starts[1:].tolist(), len(ends)]
    first_gaps = [*gaps.tolist(), len(ends)]
    for which, start, end, gap in zip(
        whose[starts].tolist(),
        starts.tolist(),
        stops,
        np.searchsorted(gaps, starts).tolist(),
        strict=False,
    ):
        session = own[which]
        assert session is not None, "entries of others were left out"
        stop = min(end, first_gaps[gap])
        if stop < end:
            _lose(session, _Damage(place=0, group=int(groups[stop])))
        if start < stop:
            session.position = int(ends[stop - 1])
            first = int(groups[start])
            session.first_group = min(session.first_group or first, first)
            session.last_group = int(groups[stop - 1])
            session.tail = Tail(
                entries=entries,
                groups=groups,
                start=start,
                stop=stop,
                first_step=int(first_steps[start]),
            )


def with_seed(row: SessionRow, position: int, group: int, idle_s: float) -> SessionRow:
    """The session with a checkpoint at a position, which has all of the groups up to one."""
    return replace(row, seed=position, seed_group=group, seed_branch=0, idle_s=idle_s)
