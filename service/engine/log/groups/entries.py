"""Steps that were applied, in a group of the journal, in columns. Knows nothing of models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.log.checking import check_entries
from service.engine.log.groups.numbers import small, whole_numbers
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


def steps_section(model: str, entries: Sequence[Entry]) -> Section:
    """The entries of one model, one after the other."""
    columns: dict[str, NDArray[Any]] = {
        "session": small(_joined([entry.sessions for entry in entries])),
        "position": small(_joined([entry.positions for entry in entries])),
        "inputs": small(_joined([entry.inputs for entry in entries])),
    }
    rows = [len(entry.sessions) for entry in entries]
    for name, values in (
        ("steps", [entry.steps - 1 for entry in entries]),
        ("flags", [entry.flags for entry in entries]),
        ("bucket", [entry.bucket for entry in entries]),
        ("run_steps", [entry.run_steps for entry in entries]),
    ):
        if any(values):
            columns[name] = small(np.repeat(np.array(values, np.int64), rows))
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
            name: whole_numbers(columns.get(stored, np.zeros(rows, np.int64))) + least
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


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)
