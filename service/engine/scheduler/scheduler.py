"""Chooses which work runs together. Knows nothing of time, asyncio, devices or gRPC.

Invariants, held by a property test over any mix of work, ticks and cancellations:

* a batch never holds two rows of one session, nor do two batches at once;
* a session's work runs in the order it was submitted;
* nobody waits behind somebody else's long chunk: chunks are cut into bounded pieces, and the
  kinds of work take turns;
* every row that was submitted is handed out once, to be completed or dropped.

Order is kept by tickets. Every row draws the next ticket of its slot when it is submitted, and
may run when it is the one its slot serves; a slot serves its next ticket once the row before is
finished. One comparison of two columns finds the runnable rows of a whole frame. Work of which no
row can run is parked under one of the tickets it waits for, so that a long queue behind one
session costs the others nothing.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.slots import SlotAllocator
from service.engine.work.work import Batch, Chunk, Fork, Ints, Kind, Part, Work, has_repeats

_TURNS = tuple(Kind)
_ROWS = (Kind.STEPS, Kind.DECODE)


@dataclass(slots=True, eq=False)
class _Entry:
    """Queued work and the rows of it that have not run yet."""

    work: Work
    rows: Ints


class Scheduler:
    """Queues of work, and the turn of each kind.

    Args:
        slots: rows of the arena in all.
        fork_spares: the slots that forks borrow.
        chunk_spares: the slots that chunks of several pieces borrow.
        max_batch: the most rows of a batch; a batch of chunks has as many time steps at most.
        chunk_steps: the most time steps of one piece of a chunk.
    """

    def __init__(
        self,
        *,
        slots: int,
        fork_spares: SlotAllocator,
        chunk_spares: SlotAllocator,
        max_batch: int,
        chunk_steps: int,
    ) -> None:
        # Only compared and counted up: they may wrap around.
        self._next_ticket = np.zeros(slots, np.int32)
        self._serving = np.zeros(slots, np.int32)
        self._ready: dict[Kind, deque[_Entry]] = {kind: deque() for kind in _TURNS}
        self._parked: dict[tuple[int, int], list[_Entry]] = {}  # by slot and ticket
        self._turn = 0
        self._fork_spares = fork_spares
        self._chunk_spares = chunk_spares
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps
        self.ready_rows = 0  # single steps and decodes that may be handed out, by rows
        self.pending_steps = 0  # queued or running
        self.decoding_steps = 0  # those of them that sessions draw for themselves

    def submit(self, work: Work) -> None:
        """Queue work; its rows follow everything their sessions have queued already."""
        slots = work.slots
        assert len(slots) == 1 or not has_repeats(slots), "a session has one row in a piece of work"
        work.tickets = self._next_ticket[slots]
        self._next_ticket[slots] += 1
        self._count(work, work.weight * len(slots))
        self._enqueue(_Entry(work, np.arange(len(slots))))

    def schedule(self) -> Batch | None:
        """The next batch, or ``None`` when nothing can run now."""
        for offset in range(len(_TURNS)):
            kind = _TURNS[(self._turn + offset) % len(_TURNS)]
            ready = self._ready[kind]
            if not ready:
                continue
            match kind:
                case Kind.CHUNKS:
                    parts = self._pieces(ready)
                case Kind.FORK:
                    parts = self._fork(ready)
                case Kind.DECODE:  # works differ in how many steps they take
                    parts = self._rows(ready, works=1)
                case _:
                    parts = self._rows(ready)
            if parts:
                self._turn = (_TURNS.index(kind) + 1) % len(_TURNS)
                return Batch(kind=kind, parts=tuple(parts))
        return None

    def complete(self, batch: Batch) -> None:
        """The batch has run: serve what comes after it."""
        for part in batch.parts:
            work = part.work
            if isinstance(work, Chunk) and not part.is_last:
                work.done = part.stop
                self._make_ready(_Entry(work, part.rows))
            else:
                self.finish(part)

    def finish(self, part: Part) -> None:
        """These rows have run, or must not run any more: serve what comes after them."""
        work = part.work
        if isinstance(work, Chunk) and work.spare is not None:
            self._chunk_spares.release(work.spare)
            work.spare = None
        self._count(work, -work.weight * len(part.rows))
        self._serve_next(part.slots)

    def hold(self, slots: Ints) -> None:
        """A step of each of these sessions, which are idle, runs without having been queued."""
        self._next_ticket[slots] += 1
        self.pending_steps += len(slots)

    def release(self, slots: Ints) -> None:
        """It has run: serve what comes after it."""
        self.pending_steps -= len(slots)
        self._serve_next(slots)

    def _serve_next(self, slots: Ints) -> None:
        self._serving[slots] += 1
        if self._parked:
            for key in zip(slots.tolist(), self._serving[slots].tolist(), strict=True):
                for entry in self._parked.pop(key, ()):
                    self._make_ready(entry)

    def _count(self, work: Work, steps: int) -> None:
        self.pending_steps += steps
        if work.kind is Kind.DECODE:
            self.decoding_steps += steps

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued, though something may run."""
        return not self._parked and not any(self._ready.values())

    def are_idle(self, slots: Ints) -> NDArray[np.bool_]:
        """Which slots have nothing queued or running, (slots,)."""
        idle: NDArray[np.bool_] = self._next_ticket[slots] == self._serving[slots]
        return idle

    def is_idle(self, slot: int) -> bool:
        """Whether a slot has nothing queued or running."""
        return bool(self._next_ticket[slot] == self._serving[slot])

    @property
    def forks_wait(self) -> bool:
        """Whether somebody wants spare slots and has none yet."""
        return bool(self._ready[Kind.FORK])

    def waiting_for_spares(self, slot: int) -> list[Work]:
        """Work of a slot that could run but for a spare slot."""
        return [
            entry.work
            for kind in (Kind.FORK, Kind.CHUNKS)
            for entry in self._ready[kind]
            if entry.work.slots[0] == slot
        ]

    def _enqueue(self, entry: _Entry) -> None:
        """Put an entry where it belongs: ready if some row can run, else parked."""
        work, rows = entry.work, entry.rows
        blocked = self._serving[work.slots[rows]] != work.tickets[rows]
        if blocked.all():
            row = rows[0]
            key = (int(work.slots[row]), int(work.tickets[row]))
            self._parked.setdefault(key, []).append(entry)
        else:
            self._make_ready(entry)

    def _make_ready(self, entry: _Entry, *, first: bool = False) -> None:
        kind = entry.work.kind
        if first:
            self._ready[kind].appendleft(entry)
        else:
            self._ready[kind].append(entry)
        if kind in _ROWS:
            self.ready_rows += len(entry.rows)

    def _rows(self, ready: deque[_Entry], *, works: int | None = None) -> list[Part]:
        """Runnable rows, first come first served, of so many works at most."""
        parts: list[Part] = []
        room = self._max_batch
        while ready and room > 0 and len(parts) != works:
            entry = ready.popleft()
            work, rows = entry.work, entry.rows
            if work.kind in _ROWS:
                self.ready_rows -= len(rows)
            whole = len(rows) == len(work.slots)
            slots = work.slots if whole else work.slots[rows]
            tickets = work.tickets if whole else work.tickets[rows]
            runnable = self._serving[slots] == tickets
            if len(rows) <= room and runnable.all():
                parts.append(Part(work=work, rows=rows))
                room -= len(rows)
                continue
            can_run = rows[runnable]
            taken = can_run[:room]
            parts.append(Part(work=work, rows=taken))
            room -= len(taken)
            entry.rows = np.setdiff1d(rows, taken, assume_unique=True)
            if len(taken) < len(can_run):
                self._make_ready(entry, first=True)
            else:
                self._enqueue(entry)
        return _grouped(parts)

    def _pieces(self, ready: deque[_Entry]) -> list[Part]:
        """The next piece of each chunk, in turn."""
        parts: list[Part] = []
        waiting: list[_Entry] = []
        room = self._max_batch
        while ready and room >= self._chunk_steps:
            entry = ready.popleft()
            work = entry.work
            assert isinstance(work, Chunk), "the queue of chunks holds nothing else"
            stop = min(work.done + self._chunk_steps, len(work.inputs))
            wants_spare = work.spare is None and not work.borrowed
            if stop < len(work.inputs) and wants_spare and not work.cancelled:
                if not self._chunk_spares.free:
                    waiting.append(entry)
                    continue
                work.spare = self._chunk_spares.allocate()
            parts.append(Part(work=work, rows=entry.rows, start=work.done, stop=stop))
            room -= self._chunk_steps
        ready.extendleft(reversed(waiting))
        return parts

    def _fork(self, ready: deque[_Entry]) -> list[Part]:
        """The first fork, once all its copies have a slot; a smaller one does not overtake it."""
        work = ready[0].work
        assert isinstance(work, Fork), "the queue of forks holds nothing else"
        if not work.cancelled:
            if work.copies > self._fork_spares.free:
                return []
            work.spares = self._fork_spares.allocate_many(work.copies)
        return [Part(work=work, rows=ready.popleft().rows)]


def _grouped(parts: Iterable[Part]) -> list[Part]:
    """Parts with equal outputs side by side, otherwise in order."""
    groups: dict[object, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.work.outputs, []).append(part)
    return [part for group in groups.values() for part in group]
