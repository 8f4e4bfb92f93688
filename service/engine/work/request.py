"""What callers ask of the sessions of one model: some steps for each of some sessions."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.engine.work.lones import Lones, Tags
from service.engine.work.work import (
    Caller,
    Draws,
    Inputs,
    Ints,
    Outputs,
    Sampling,
    has_repeats,
)

UNCHECKED = -1
_FIRST = np.zeros(1, np.int64)


@dataclass(slots=True, eq=False, kw_only=True)
class Lone:
    """One step of one session, checked and ready to be queued.

    Those that come in one turn of the event loop are merged into one request, so that a thousand
    callers with a step each cost little more than one caller with a thousand.
    """

    slot: int
    inputs: Inputs  # (1,) or (1, width)
    position: int | None  # or unchecked
    outputs: Outputs
    sampling: Sampling | None
    caller: Caller

    submitted_s: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Steps in all."""
        return 1

    @property
    def callers(self) -> tuple[Caller]:
        """The one who asked."""
        return (self.caller,)


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """Steps for several sessions, checked and ready to be queued; no session twice."""

    slots: Ints  # (rows,)
    steps: Ints | None  # (rows,) each at least 1; None: one each
    inputs: Inputs  # the steps of all rows, concatenated: (steps,) or (steps, width)
    positions: Ints | None  # (rows,), UNCHECKED where a row may be applied at any; or all may
    outputs: Outputs
    draws: Draws | None
    callers: Sequence[Caller] = ()  # one for all rows, or one per row
    tags: Tags | None = None  # instead of callers: lone steps of streams
    commit: bool = True
    origin: Ints | None = None  # (rows,) rows of the one caller's request; None: 0, 1, 2, ...
    submitted_s: float = field(default_factory=time.monotonic)
    size: int = field(init=False)  # steps in all

    def __post_init__(self) -> None:
        self.size = len(self.inputs)

    @classmethod
    def merged(cls, lones: Sequence[Lone]) -> "Request":
        """One request for steps of different sessions, which want the same outputs."""
        first = lones[0]
        return cls(
            slots=np.array([lone.slot for lone in lones], np.int64),
            steps=None,
            inputs=np.concatenate([lone.inputs for lone in lones]),
            positions=(
                None
                if first.position is None
                else np.array([lone.position for lone in lones], np.int64)
            ),
            outputs=first.outputs,
            draws=(
                Draws.of([lone.sampling for lone in lones if lone.sampling is not None])
                if first.outputs.sample
                else None
            ),
            callers=[lone.caller for lone in lones],
            origin=_FIRST if len(lones) == 1 else np.zeros(len(lones), np.int64),
            submitted_s=first.submitted_s,
        )

    @classmethod
    def of_lones(cls, lones: Lones, rows: slice = slice(None)) -> "Request":
        """One request for lone steps of different sessions."""
        slots, inputs, positions, channels, numbers, senders = zip(*lones.rows[rows], strict=True)
        outputs = lones.kind.outputs
        draws = None
        if outputs.sample:
            draws = Draws.of([s for sender in senders if (s := sender.sampling) is not None])
        return cls(
            slots=np.array(slots, np.int64),
            steps=None,
            inputs=(
                np.array(inputs, np.int64) if isinstance(inputs[0], int) else np.concatenate(inputs)
            ),
            positions=np.array(positions, np.int64),
            outputs=outputs,
            draws=draws,
            tags=Tags(
                channels=channels, numbers=numbers, senders=senders, encode=lones.kind.encode
            ),
            submitted_s=lones.submitted_s,
        )

    def is_called_off(self) -> bool:
        """Whether somebody waits for their row no more."""
        if self.tags is not None:
            return any(self.tags.called_off())
        return any(caller.cancelled for caller in self.callers)

    def called_off(self) -> NDArray[np.bool_]:
        """Which rows nobody waits for any more, (rows,)."""
        if self.tags is not None:
            return np.array(self.tags.called_off())
        gone = [caller.cancelled for caller in self.callers]
        return np.array(gone if len(gone) == len(self.slots) else gone * len(self.slots))

    def caller(self, row: int) -> Caller:
        """Who asked for a row."""
        if self.tags is not None:
            return self.tags.caller(row)
        return self.callers[0 if len(self.callers) == 1 else row]

    def origin_of(self, rows: Ints) -> Ints:
        """Which rows of their callers' requests some rows are."""
        if self.tags is not None:
            return np.zeros(len(rows), np.int64)
        return rows if self.origin is None else self.origin[rows]

    def steps_of(self, rows: Ints) -> Ints:
        """The steps of some rows, (rows,)."""
        return np.ones(len(rows), np.int64) if self.steps is None else self.steps[rows]

    def only(self, row: int) -> "Request":
        """The request for one of its rows."""
        start, count = row, 1
        if self.steps is not None:
            start, count = int(self.steps[:row].sum()), int(self.steps[row])
        one = slice(row, row + 1)
        return Request(
            slots=self.slots[one],
            steps=None if self.steps is None else self.steps[one],
            inputs=self.inputs[start : start + count],
            positions=None if self.positions is None else self.positions[one],
            outputs=self.outputs,
            draws=None if self.draws is None else self.draws.take(one),
            callers=(self.caller(row),),
            commit=self.commit,
            origin=self.origin_of(np.array([row])),
            submitted_s=self.submitted_s,
        )

    def position(self, row: int) -> int:
        """The position that a row claims; only rows that claim one are judged by it."""
        assert self.positions is not None, "a row without a position is never refused for it"
        return int(self.positions[row])

    def contents(self) -> Ints:
        """A digest of each row's inputs, (rows,), equal for equal inputs in any company.

        A single token or value is its own digest.
        """
        scalar = self.inputs.ndim == 1 or self.inputs.shape[1] == 1
        flat = self.inputs.reshape(-1)
        bits: Ints = (flat.view(np.int32) if flat.dtype == np.float32 else flat).astype(
            np.int64, copy=False
        )
        if self.steps is None:
            if scalar:
                return bits
            return np.array([_digest(row[None], self.outputs) for row in self.inputs], np.int64)
        stops = np.cumsum(self.steps)
        found = np.zeros(len(self.slots), np.int64)
        hashed = np.arange(len(self.slots))
        if scalar:
            found[:] = bits[stops - 1]
            hashed = np.flatnonzero(self.steps > 1)
        for row in hashed.tolist():
            own = self.inputs[stops[row] - self.steps[row] : stops[row]]
            found[row] = _digest(own, self.outputs)
        return found


def requests_of(entries: Iterable[Lone | Lones | Request]) -> Iterator[Lone | Request]:
    """What came in, in order, with lone steps of streams as requests."""
    for entry in entries:
        if not isinstance(entry, Lones):
            yield entry
        elif entry.are_distinct:
            yield Request.of_lones(entry)
        else:
            start, seen = 0, set[int]()
            for row, (slot, *_) in enumerate(entry.rows):
                if slot in seen:
                    yield Request.of_lones(entry, slice(start, row))
                    start, seen = row, set()
                seen.add(slot)
            yield Request.of_lones(entry, slice(start, len(entry.rows)))


def runs(entries: Iterable[Lone | Request]) -> Iterator[list[Lone | Request]]:
    """Cut what came in, in order, so that no session appears twice in a run."""
    run: list[Lone | Request] = []
    seen: set[int] = set()
    for entry in entries:
        slots = {entry.slot} if isinstance(entry, Lone) else set(entry.slots.tolist())
        if not seen.isdisjoint(slots):
            yield run
            run, seen = [], set()
        run.append(entry)
        seen |= slots
    yield run


def are_distinct(entries: Sequence[Lone | Request]) -> bool:
    """Whether no session appears twice."""
    if len(entries) == 1:
        return True
    slots = [entry.slot for entry in entries if isinstance(entry, Lone)]
    if len(slots) == len(entries):
        return len(set(slots)) == len(slots)
    columns = [entry.slots for entry in entries if isinstance(entry, Request)]
    return not has_repeats(np.concatenate([np.array(slots, np.int64), *columns]))


def _digest(inputs: Inputs, outputs: Outputs) -> int:
    salt = b"every" if outputs.every_step else b"last"
    digest = hashlib.blake2b(inputs.tobytes(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "little", signed=True)
