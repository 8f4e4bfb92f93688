"""What is in a group of the journal: the steps that were applied, and what else moved sessions.

A group is a list of sections in the order in which things happened. A section of steps holds
columns; one of events holds what opened, closed and reset sessions. Knows nothing of models.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Inputs, Ints, Mask
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
    """The position of its checkpoint; 0: it has none."""
    seed_branch: int = 0
    """The branch that its checkpoint was written on; 0: its own."""
    past: tuple[tuple[int, int], ...] = ()
    """Branches that crashes have ended, the last one last, and how many steps of each were kept."""
    seed_group: int = 0
    """What it read in groups up to this one, its checkpoint has; 0: nobody knows."""

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


Event = Opened | Closed | Reset | Rebranched
_EVENTS: dict[str, type[Any]] = {"closed": Closed, "reset": Reset, "rebranched": Rebranched}


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


def events_section(events: Sequence[Event]) -> Section:
    """Events, in order."""
    found: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Opened):
            found.append({"event": "opened", **_facts(event.row)})
        else:
            found.append({"event": type(event).__name__.lower(), **asdict(event)})
    text = json.dumps(found, separators=(",", ":")).encode()
    return Section("events", {}, {"json": np.frombuffer(text, np.uint8)})


def events_of(section: Section) -> list[Event]:
    """What `events_section` was given."""
    events: list[Event] = []
    for found in json.loads(section.columns["json"].tobytes()):
        kind = found.pop("event")
        if kind == "opened":
            events.append(Opened(row=_row(found)))
        else:
            events.append(_EVENTS[kind](**found))
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
        """What `steps_section` was given."""
        columns, rows = section.columns, len(section.columns["session"])
        found = {
            name: columns.get(stored, np.zeros(rows)).astype(np.int64) + least
            for name, (stored, least) in _STORED.items()
        }
        return cls(**found, inputs=columns["inputs"])

    @classmethod
    def joined(cls, parts: "Sequence[Steps]") -> "Steps":
        """All entries, in order."""
        names = (*_STORED, "inputs")
        return cls(
            **{name: np.concatenate([getattr(own, name) for own in parts]) for name in names}
        )

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
    return replace(row, branch=branch, seed=0, seed_group=0, seed_branch=0, past=())


def after_crash(row: SessionRow, branch: int, position: int) -> SessionRow:
    """The session, on a branch that begins with so many steps of its former one."""
    return replace(
        row,
        branch=branch,
        seed_branch=(row.seed_branch or row.branch) if row.seed else 0,
        past=(*row.past, (row.branch, position))[-_PAST_BRANCHES:],
    )


def _facts(row: SessionRow) -> dict[str, Any]:
    """For a store; what no crash has touched says nothing of crashes."""
    # `asdict` takes nine times as long, and there may be 100,000 at a stop.
    facts = {name: getattr(row, name) for name in row.__slots__}
    for name in ("seed_branch", "past"):
        if not facts[name]:
            del facts[name]
    return facts


def _row(facts: dict[str, Any]) -> SessionRow:
    """What `_facts` told of."""
    if "past" in facts:
        facts["past"] = tuple((int(branch), int(steps)) for branch, steps in facts["past"])
    return SessionRow(**facts)


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


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
