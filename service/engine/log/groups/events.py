"""What moves sessions otherwise than steps do, in a group of the journal.

A group is a list of sections in the order in which things happened. One of events holds what
opened, closed and reset sessions; one of its own has the state that a session began with, or that
it was moved to. Knows nothing of models.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from service.engine.log.checking import check_facts
from service.engine.log.groups.numbers import whole_numbers
from service.engine.log.groups.session_row import SessionRow, after_reset, facts_of, row_of
from service.engine.log.seeds import Seed
from service.engine.sessions.moving import Moving
from service.engine.work.columns import Floats
from service.store.records import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session was opened, at position 0."""

    row: SessionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """The session that was just opened starts from this state, and is reset to it."""

    number: int
    states: Sequence[Floats]  # of each tensor of the arena, its row

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        return sum([row.nbytes for row in self.states])

    def pack(self) -> Section:
        """For the table, or a group."""
        columns: dict[str, Any] = {f"state{n}": row for n, row in enumerate(self.states)}
        return Section("began", {}, {"session": np.array([self.number]), **columns})

    @classmethod
    def unpack(cls, section: Section) -> "Began":
        """What `pack` made."""
        columns = section.columns
        states = [columns[f"state{n}"] for n in range(len(columns) - 1)]
        return cls(number=int(whole_numbers(columns["session"])[0]), states=states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A session has ended."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """A session was put back to position 0, on another branch."""

    number: int
    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebranched:
    """A session goes on from a position on another branch: what came behind that is lost."""

    number: int
    branch: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A session was put to another position, on another branch, by what is no step and no reset.

    What it has read before is on the branch before: it begins anew with the seed.
    """

    number: int
    seed: Seed  # on the new branch
    left: int = 0
    """The branch that it has gone back from; 0: it comes from elsewhere."""
    history: int | None = None
    """Where its history begins, of which the table has all before the seed; ``None``: with that.
    What else is there of before is of other branches."""

    @property
    def branch(self) -> int:
        """The new one."""
        return self.seed.branch

    def pack(self) -> Section:
        """For a group."""
        seed = self.seed.pack()
        # A column, as in sections of steps: where others are damaged it still says whose they are.
        columns = {"session": np.array([self.number]), **seed.columns}
        begins = self.seed.position if self.history is None else self.history
        return Section("moved", {**seed.meta, "left": self.left, "history": begins}, columns)

    @classmethod
    def unpack(cls, section: Section) -> "Moved":
        """What `pack` made."""
        columns = dict(section.columns)
        number = int(columns.pop("session")[0])
        seed = Seed.unpack(Section("checkpoint", section.meta, columns))
        meta = section.meta
        history = int(meta.get("history", seed.position))
        return cls(number=number, seed=seed, left=int(meta["left"]), history=history)


Event = Opened | Began | Closed | Reset | Rebranched | Moved | Moving
_EVENTS: dict[str, type[Any]] = {
    "closed": Closed,
    "reset": Reset,
    "rebranched": Rebranched,
    "moving": Moving,
}


def events_sections(events: Sequence[Event]) -> list[Section]:
    """Events, in order."""
    sections: list[Section] = []
    found: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Moved | Began):
            sections += [*_as_json(found), event.pack()]
            found = []
        elif isinstance(event, Opened):
            found.append({"event": "opened", **facts_of(event.row)})
        else:
            found.append({"event": type(event).__name__.lower(), **asdict(event)})
    return [*sections, *_as_json(found)]


def _as_json(events: Sequence[dict[str, Any]]) -> list[Section]:
    if not events:
        return []
    text = json.dumps(events, separators=(",", ":")).encode()
    return [Section("events", {}, {"json": np.frombuffer(text, np.uint8)})]


def events_of(section: Section) -> list[Event]:
    """What `events_sections` was given and this section of it holds."""
    if section.kind == "moved":
        return [Moved.unpack(section)]
    if section.kind == "began":
        return [Began.unpack(section)]
    events: list[Event] = []
    for found in json.loads(section.columns["json"].tobytes()):
        kind = found.pop("event")
        if kind == "opened":
            events.append(Opened(row=row_of(found)))
        else:
            event = _EVENTS[kind](**found)
            check_facts(event)
            events.append(event)
    return events


def after_move(row: SessionRow, event: Moved) -> SessionRow:
    """The session where it was put: its checkpoint is of the branch before."""
    return replace(after_reset(row, event.branch), left=event.left)
