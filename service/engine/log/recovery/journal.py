"""What the journal of a store holds, in the order in which it was written, damage included."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import structlog

from service.engine.log.checking import read_of
from service.engine.log.groups.entries import Steps
from service.engine.log.groups.events import Event, Moved, Opened, Rebranched, Reset, events_of
from service.engine.log.recovery.stored import StoredSession
from service.store.records import DamagedError, Section, unpack
from service.store.store import Store

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
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
class Found:
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
    damaged: dict[int, list[Damage]] = field(default_factory=dict)  # entries of a session
    last_group: int = 0
    damaged_groups: int = 0
    unknown: list[Damage] = field(default_factory=list)  # nobody can say whose

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

    def damage_of(self, session: StoredSession) -> Damage | None:
        """The first of what is lost of a session since its checkpoint."""
        own = self.damaged.get(session.row.number, ())
        return next((one for one in own if self._concerns(one, session)), None)

    def may_damage(self, session: StoredSession) -> Damage | None:
        """The first of what may be a session's: it has read on behind it where it is not."""
        behind = [one for one in self.unknown if one.group >= session.last_group]
        return next((one for one in behind if self._concerns(one, session)), None)

    def _concerns(self, damage: Damage, session: StoredSession) -> bool:
        """Whether it is of the session as it is now, and not in its checkpoint."""
        row = session.row
        since = max(self.begins.get(row.number, -1), self.opened.get(row.number, -1))
        is_seeded = damage.group <= row.seed_group or 0 <= damage.position < row.seed
        return damage.place > since and not is_seeded


def read_journal(store: Store, happened: Callable[[int, list[Event]], None]) -> Found:
    """Read the journal; ``happened`` is told the number of each group's events, and these.

    Raises:
        StoreError: something in it makes no sense, though its checksum holds.
    """
    found, place = Found(), 0
    for number, data in store.groups():
        found.last_group = number
        with read_of(f"group {number} of the journal"):
            for section in _sections(number, data, found, place):
                place += 1
                if section.kind in ("events", "moved", "began"):
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


def _sections(number: int, data: bytes, found: Found, place: int) -> Iterator[Section]:
    try:
        yield from unpack(data)
    except DamagedError as error:
        _log.error("store damaged", group=number, reason=str(error))
        found.damaged_groups += 1
        if not error.sections:
            found.unknown.append(Damage(place=place + 1, group=number))
        for index, section in enumerate(error.sections):
            place += 1  # as whoever reads counts them
            if index not in error.damaged:
                yield section
                continue
            yield Section("damaged", {}, {})
            whose = section.columns.get("session")
            if section.kind == "began" and whose is not None:
                continue  # the table may have it: else it is missed there
            if section.kind not in ("steps", "moved") or whose is None:
                found.unknown.append(Damage(place=place, group=number))
                continue
            positions = section.columns.get("position", np.full(len(whose), -1))
            for session, position in zip(whose.tolist(), positions.tolist(), strict=True):
                damage = Damage(place=place, group=number, position=position)
                found.damaged.setdefault(session, []).append(damage)
