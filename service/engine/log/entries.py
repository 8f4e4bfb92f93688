"""What is in a group of the journal: the steps that were applied, and what else moved sessions.

A group is a list of sections in the order in which things happened. A section of steps holds
columns; one of events holds what opened, closed and reset sessions; one of its own has the state of
a session that was moved otherwise. Knows nothing of models.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.log.checking import check_entries, check_facts
from service.engine.log.seeds import Seed
from service.engine.sessions.moving import Moving
from service.engine.work.columns import Floats, Inputs, Ints, Mask
from service.store.records import Section

EVERY_STEP = 1
"""Flag of an entry: the prediction after each of its steps was asked for."""
DRAWN = 2
"""Flag of an entry: the server drew its steps one by one; the last can be asked for again."""
PARTIAL = 128
"""Flag of an entry: its request goes on in the next entry of the session."""

# The columns of entries: what each is called in a section, and the least that it holds, which is
# taken off there. One that holds nothing else may be missing.
_STORED = {
    "sessions": ("session", 0),
    "positions": ("position", 0),
    "steps": ("steps", 1),
    "flags": ("flags", 0),
    "buckets": ("bucket", 0),
    "run_steps": ("run_steps", 0),
}
# Of a session that came back from so many crashes: who knows an older one is lost.
_PAST_BRANCHES = 8
# By how many bytes a number needs.
_SIZES = tuple(np.dtype(f"u{size}") for size in (1, 1, 2, 4, 4, 8, 8, 8, 8))
_STAYS = Moving(number=0, move_to="")
_UNSIGNED = {np.dtype(f"i{size}"): np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


class Entry(NamedTuple):
    """Steps of some sessions that were applied together, in columns.

    What they led to is not in it: the same inputs in the same runs lead there again. Of a model
    whose numbers hang on chance it would have to hold each row's new state; there are no sessions
    of such, as `probe` refuses them when they are loaded.
    """

    model: str  # "name/version"
    sessions: Ints  # (rows,) their numbers
    positions: Ints  # (rows,) before the steps
    steps: int  # of each row
    flags: int
    inputs: Inputs  # (rows * steps,) or (rows * steps, width): of a row after the other
    bucket: int = 0  # what the device padded their run to, where bits depend on that
    run_steps: int = 0  # time steps of their run, where bits depend on where requests are cut

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        return self.sessions.nbytes + self.positions.nbytes + self.inputs.nbytes + 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """What the catalogue says of a session."""

    number: int
    id: str
    model: str
    version: int
    fingerprint: str
    branch: int
    opened_s: float
    idle_timeout_s: float
    idle_s: float = 0.0
    """How long it has been idle, of the time that it was served."""
    seed: int = 0
    """The position of its checkpoint; 0: it has none on this branch."""
    seed_branch: int = 0
    """The branch that its checkpoint was written on; 0: its own."""
    past: tuple[tuple[int, int], ...] = ()
    """Branches that crashes have ended, the last one last, and how many steps of each were kept."""
    seed_group: int = 0
    """What it read in groups up to this one, its checkpoint has; 0: nobody knows."""
    left: int = 0
    """The branch that it has gone back from, see `SessionTable.go_back`; 0: none."""
    ephemeral: bool = False
    """See `EphemeralSessions`."""
    owner: str = ""
    """The principal that has opened it."""
    has_initial: bool = False
    """It was opened with a state of its own, see `Began`."""
    history_steps: int = 0
    """So many of its steps are kept at least, see `Chronicle`."""
    move_to: str = ""
    """It moves to another server, or has moved, see `Moving`."""
    move_secret: str = ""
    """The same."""
    frozen_s: float = 0.0
    """The same."""
    released: bool = False
    """The same."""
    arrived: str = ""
    """It came from another server: what its move is known by, see `Moving.transfer`."""

    @property
    def moving(self) -> "Moving | None":
        """How it moves, if it does."""
        if not self.move_to:
            return None
        return Moving(
            number=self.number,
            move_to=self.move_to,
            secret=self.move_secret,
            frozen_s=self.frozen_s,
            released=self.released,
        )

    def pack(self) -> Section:
        """For the table."""
        return Section("session", _facts(self), {})

    @classmethod
    def unpack(cls, section: Section) -> "SessionRow":
        """What `pack` made."""
        return _row(dict(section.meta))


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
        return cls(number=int(_whole(columns["session"])[0]), states=states)


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


def steps_section(model: str, entries: Sequence[Entry]) -> Section:
    """The entries of one model, one after the other."""
    columns: dict[str, NDArray[Any]] = {
        "session": _small(_joined([entry.sessions for entry in entries])),
        "position": _small(_joined([entry.positions for entry in entries])),
        "inputs": _small(_joined([entry.inputs for entry in entries])),
    }
    rows = [len(entry.sessions) for entry in entries]
    for name, values in (
        ("steps", [entry.steps - 1 for entry in entries]),
        ("flags", [entry.flags for entry in entries]),
        ("bucket", [entry.bucket for entry in entries]),
        ("run_steps", [entry.run_steps for entry in entries]),
    ):
        if any(values):
            columns[name] = _small(np.repeat(np.array(values, np.int64), rows))
    return Section("steps", {"model": model}, columns)


def drawn_entries(model: str, number: int, position: int, drawn: Inputs, runs: Ints) -> list[Entry]:
    """What a session has drawn and read from a position on, in what it ran in.

    Args:
        model: see `Entry`.
        number: the session's.
        position: before.
        drawn: the steps, (steps,) or (steps, width).
        runs: of each step the bucket and the time steps of its run, as in `Entry`, (steps, 2).
    """
    found: list[Entry] = []
    starts = np.flatnonzero(np.any(np.diff(runs, axis=0, prepend=-1), axis=1)).tolist()
    for start, stop in zip(starts, [*starts, len(drawn)][1:], strict=True):
        bucket, run_steps = runs[start].tolist()
        rows = stop - start if run_steps else 1  # each was a run of its own then, of one step
        at = position + start + np.arange(rows)
        steps, own = (stop - start) // rows, np.full(rows, number)
        found.append(Entry(model, own, at, steps, DRAWN, drawn[start:stop], bucket, run_steps))
    return found


def drawn_steps(position: int, drawn: Inputs, runs: Ints) -> "Steps":
    """The same, as it is read again."""
    if not len(drawn):
        nothing = np.zeros(0, np.int64)
        return Steps(**dict.fromkeys(_STORED, nothing), inputs=drawn)
    return Steps.of(steps_section("", drawn_entries("", 0, position, drawn, runs)))


def entries_of(model: str, number: int, tail: "Steps") -> list[Entry]:
    """The same steps as entries of a session's."""
    columns = [tail.steps, tail.flags, tail.buckets, tail.run_steps]
    changes = np.any(np.diff(np.stack(columns), axis=1, prepend=-1), axis=0)
    starts, stops = np.flatnonzero(changes).tolist(), np.cumsum(tail.steps).tolist()
    found: list[Entry] = []
    for start, stop in zip(starts, [*starts, len(tail)][1:], strict=True):
        steps, flags, bucket, run_steps = [int(column[start]) for column in columns]
        own, first = np.full(stop - start, number), stops[start] - steps
        inputs, at = tail.inputs[first : stops[stop - 1]], tail.positions[start:stop]
        found.append(Entry(model, own, at, steps, flags, inputs, bucket, run_steps))
    return found


def events_sections(events: Sequence[Event]) -> list[Section]:
    """Events, in order."""
    sections: list[Section] = []
    found: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Moved | Began):
            sections += [*_as_json(found), event.pack()]
            found = []
        elif isinstance(event, Opened):
            found.append({"event": "opened", **_facts(event.row)})
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
            events.append(Opened(row=_row(found)))
        else:
            event = _EVENTS[kind](**found)
            check_facts(event)
            events.append(event)
    return events


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Entries in columns, one row each, as they are read again."""

    sessions: Ints  # (entries,)
    positions: Ints  # (entries,)
    steps: Ints  # (entries,)
    flags: Ints  # (entries,)
    buckets: Ints  # (entries,)
    run_steps: Ints  # (entries,)
    inputs: NDArray[Any]  # (steps in all, ...)

    @classmethod
    def of(cls, section: Section) -> "Steps":
        """What `steps_section` was given.

        Raises:
            ValueError: its numbers are none.
        """
        columns, rows = section.columns, len(section.columns["session"])
        found = {
            name: _whole(columns.get(stored, np.zeros(rows, np.int64))) + least
            for name, (stored, least) in _STORED.items()
        }
        return cls(**found, inputs=columns["inputs"])

    @classmethod
    def joined(cls, parts: "Sequence[Steps]") -> "Steps":
        """All entries, in order.

        Raises:
            ValueError: they have other steps than inputs, or numbers that cannot be.
        """
        names = (*_STORED, "inputs")
        found = cls(
            **{name: np.concatenate([getattr(own, name) for own in parts]) for name in names}
        )
        columns = (getattr(found, name) for name in _STORED)
        check_entries(columns, found.steps, len(found.inputs))
        return found

    def take(self, entries: Ints) -> "Steps":
        """Some of the entries, in that order."""
        steps = self.steps[entries]
        stops = np.cumsum(steps)
        starts = (np.cumsum(self.steps) - self.steps)[entries]
        # Where each step of the chosen entries lies among all steps.
        places = np.arange(int(stops[-1]) if len(stops) else 0)
        places += np.repeat(starts - (stops - steps), steps)
        return self._only(entries, self.inputs[places])

    def part(self, start: int, stop: int, *, first_step: int) -> "Steps":
        """The entries from one on, up to another; views. The inputs of the first begin there."""
        own = slice(start, stop)
        return self._only(own, self.inputs[first_step : first_step + int(self.steps[own].sum())])

    def _only(self, entries: Ints | slice, inputs: NDArray[Any]) -> "Steps":
        columns = {name: getattr(self, name)[entries] for name in _STORED}
        return Steps(**columns, inputs=inputs)

    def first(self, count: int) -> "Steps":
        """So many of the steps; the last entry may be cut for that."""
        stops = np.minimum(np.cumsum(self.steps), count)
        steps = np.diff(stops, prepend=0)
        some = steps > 0
        found = self._only(np.flatnonzero(some), self.inputs[:count])
        return replace(found, steps=steps[some])

    def anyhow(self, entries: Mask) -> "Steps":
        """With some of the entries, (entries,), in whatever runs suit."""
        return replace(
            self,
            buckets=np.where(entries, 0, self.buckets),
            run_steps=np.where(entries, 0, self.run_steps),
        )

    def __len__(self) -> int:
        return len(self.sessions)


def after_reset(row: SessionRow, branch: int) -> SessionRow:
    """The session, back at position 0."""
    return replace(
        row,
        branch=branch,
        seed=0,
        seed_group=0,
        seed_branch=0,
        past=(),
        left=0,
        move_to="",
        move_secret="",
        frozen_s=0.0,
        released=False,
    )


def after_move(row: SessionRow, event: Moved) -> SessionRow:
    """The session where it was put: its checkpoint is of the branch before."""
    return replace(after_reset(row, event.branch), left=event.left)


def after_moving(row: SessionRow, event: Moving) -> SessionRow:
    """The session, as it moves to another server then."""
    return replace(
        row,
        move_to=event.move_to,
        move_secret=event.secret,
        frozen_s=event.frozen_s,
        released=event.released,
    )


def as_moving(row: SessionRow, latest: SessionRow) -> SessionRow:
    """A session, that was looked at before, as it moves by now."""
    return row if row.moving == latest.moving else after_moving(row, latest.moving or _STAYS)


def after_crash(row: SessionRow, branch: int, position: int) -> SessionRow:
    """The session, on a branch that begins with so many steps of its former one."""
    return replace(
        row,
        branch=branch,
        seed_branch=(row.seed_branch or row.branch) if row.seed else 0,
        past=(*row.past, (row.branch, position))[-_PAST_BRANCHES:],
        left=0,
    )


def with_seed(row: SessionRow, position: int, group: int, idle_s: float) -> SessionRow:
    """The session with a checkpoint at a position, which has all of the groups up to one."""
    return replace(row, seed=position, seed_group=group, seed_branch=0, idle_s=idle_s)


def _facts(row: SessionRow) -> dict[str, Any]:
    """For a store; what no crash and no way back has touched says nothing of these.

    Nor does a session that is not ephemeral, or that nobody was asked about.
    """
    # `asdict` takes nine times as long, and there may be 100,000 at a stop.
    facts = {name: getattr(row, name) for name in row.__slots__}
    for name in (
        "seed_branch", "past", "left", "ephemeral", "owner", "has_initial", "history_steps",
        "move_to", "move_secret", "frozen_s", "released", "arrived",
    ):  # fmt: skip
        if not facts[name]:
            del facts[name]
    return facts


def _row(facts: dict[str, Any]) -> SessionRow:
    """What `_facts` told of."""
    if "past" in facts:
        facts["past"] = tuple((int(branch), int(steps)) for branch, steps in facts["past"])
    row = SessionRow(**facts)
    check_facts(row)
    assert row.moving is None or row.moving.move_to, "it makes sense"
    return row


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _whole(column: NDArray[Any]) -> Ints:
    if column.dtype.kind not in "iu":
        raise ValueError(f"a column of {column.dtype} for whole numbers")
    return column.astype(np.int64)


def _small(column: NDArray[Any]) -> NDArray[Any]:
    """Integers in as few bytes as hold them: they are most of the journal."""
    unsigned = _UNSIGNED.get(column.dtype)
    numbers = column if unsigned is None else column.view(unsigned)
    if numbers.dtype.kind != "u":
        return np.ascontiguousarray(column)
    largest = int(numbers.max(initial=0))
    if unsigned is not None and largest >> (8 * column.itemsize - 1):  # some are negative
        return np.ascontiguousarray(column)
    return column.astype(_SIZES[(largest.bit_length() + 7) // 8])
