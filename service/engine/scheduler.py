"""Chooses which work runs together. Knows nothing of time, asyncio, devices or gRPC.

Invariants, each held by a property test:

* a batch never holds two rows of one session;
* a session's work runs in the order it was submitted;
* nobody waits behind somebody else's long chunk: chunks are cut into bounded pieces, and the
  kinds of work take turns;
* work that was submitted is delivered by exactly one batch, or cancelled, never both.

Order is kept by tickets. Every row draws the next ticket of its slot when it is submitted, and
may run when it is the one its slot serves; a slot serves its next ticket once the row before is
complete. One comparison of two columns finds the runnable rows of a whole frame.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from service.engine.batch import Batch, Chunk, Fork, Ints, Kind, Part, Peek, Steps, Work
from service.engine.slots import SlotAllocator

_TURNS = (Kind.STEPS, Kind.CHUNKS, Kind.PEEK, Kind.FORK)


@dataclass(slots=True, eq=False)
class _Entry:
    """Queued work and the rows of it that have not run yet."""

    work: Work
    rows: Ints


class Scheduler:
    """Queues of work, and the turn of each kind.

    Args:
        slots: rows of the arena in all.
        spares: the slots that long chunks and forks may borrow.
        max_batch: the most rows of a batch; a batch of chunks has as many time steps at most.
        chunk_steps: the most time steps of one piece of a chunk.
    """

    def __init__(
        self, *, slots: int, spares: SlotAllocator, max_batch: int, chunk_steps: int
    ) -> None:
        self._next_ticket = np.zeros(slots, np.int64)
        self._serving = np.zeros(slots, np.int64)
        self._queues: dict[Kind, deque[_Entry]] = {kind: deque() for kind in _TURNS}
        self._turn = 0
        self._spares = spares
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps
        self.pending_steps = 0

    def submit(self, work: Work) -> None:
        """Queue work; its rows follow everything their sessions have queued already."""
        slots = work.slots
        if isinstance(work, Fork):
            # One session, read once: a row each for the copies would be rows of one session.
            assert len(slots) == 1, "a fork has one source"
        work.tickets = self._next_ticket[slots]
        self._next_ticket[slots] += 1
        self._queues[_kind(work)].append(_Entry(work, np.arange(len(slots))))
        self.pending_steps += work.size

    def schedule(self) -> Batch | None:
        """The next batch, or ``None`` when nothing can run now."""
        for offset in range(len(_TURNS)):
            kind = _TURNS[(self._turn + offset) % len(_TURNS)]
            queue = self._queues[kind]
            if not queue:
                continue
            parts = self._chunks(queue) if kind is Kind.CHUNKS else self._rows(kind, queue)
            if parts:
                self._turn = (_TURNS.index(kind) + 1) % len(_TURNS)
                return Batch(kind=kind, parts=tuple(parts))
        return None

    def complete(self, batch: Batch) -> None:
        """The batch has run: serve what comes after it."""
        for part in batch.parts:
            work = part.work
            if isinstance(work, Chunk):
                if not part.is_last:
                    work.done = part.stop
                    self._queues[Kind.CHUNKS].append(_Entry(work, part.rows))
                    continue
                self._return_spare(work)
                self.pending_steps -= work.size
            else:
                self.pending_steps -= len(part.rows)
            self._serving[part.slots] += 1

    def retire(self, part: Part) -> None:
        """Rows that were scheduled but must not run: serve what comes after them."""
        if isinstance(part.work, Chunk):
            self._return_spare(part.work)
            self.pending_steps -= part.work.size
        else:
            self.pending_steps -= len(part.rows)
        self._serving[part.slots] += 1

    def queued(self, slots: Ints) -> Ints:
        """Rows queued or running per slot, (slots,)."""
        return self._next_ticket[slots] - self._serving[slots]

    def is_idle(self, slot: int) -> bool:
        """Whether a slot has nothing queued or running."""
        return bool(self._next_ticket[slot] == self._serving[slot])

    def _rows(self, kind: Kind, queue: deque[_Entry]) -> list[Part]:
        """Runnable rows of single steps, peeks or forks, first come first served."""
        parts: list[Part] = []
        room = self._max_batch if kind is not Kind.FORK else 1
        waiting: list[_Entry] = []
        while queue and room > 0:
            entry = queue.popleft()
            work, rows = entry.work, entry.rows
            whole = len(rows) == len(work.slots)
            slots = work.slots if whole else work.slots[rows]
            tickets = work.tickets if whole else work.tickets[rows]
            runnable = self._serving[slots] == tickets
            if isinstance(work, Fork) and runnable[0]:
                if work.copies > self._spares.free:
                    runnable[0] = False
                else:
                    work.spares = self._spares.allocate_many(work.copies)
            if runnable.all() and len(rows) <= room:
                parts.append(Part(work=work, rows=rows))
                room -= len(rows)
                continue
            taken = rows[runnable][:room]
            if len(taken):
                parts.append(Part(work=work, rows=taken))
                room -= len(taken)
                entry.rows = np.setdiff1d(rows, taken, assume_unique=True)
            waiting.append(entry)
        queue.extendleft(reversed(waiting))
        return _grouped(parts)

    def _chunks(self, queue: deque[_Entry]) -> list[Part]:
        """The next piece of each runnable chunk, in turn."""
        parts: list[Part] = []
        waiting: list[_Entry] = []
        room = self._max_batch
        # A fork needs many spares at once: while one waits, no chunk takes another.
        spares_open = not self._queues[Kind.FORK]
        while queue and room >= self._chunk_steps:
            entry = queue.popleft()
            work = entry.work
            assert isinstance(work, Chunk)
            stop = min(work.done + self._chunk_steps, len(work.inputs))
            runnable = self._serving[work.slot] == work.tickets[0]
            if runnable and stop < len(work.inputs) and work.spare is None and not work.cancelled:
                if spares_open and self._spares.free:
                    work.spare = self._spares.allocate()
                else:
                    runnable = np.False_
            if not runnable:
                waiting.append(entry)
                continue
            parts.append(Part(work=work, rows=entry.rows, start=work.done, stop=stop))
            room -= self._chunk_steps
        queue.extendleft(reversed(waiting))
        return parts

    def _return_spare(self, work: Chunk) -> None:
        if work.spare is not None:
            self._spares.release(work.spare)
            work.spare = None


def _kind(work: Work) -> Kind:
    match work:
        case Steps():
            return Kind.STEPS
        case Chunk():
            return Kind.CHUNKS
        case Peek():
            return Kind.PEEK
        case Fork():
            return Kind.FORK
    raise TypeError(f"unknown work {type(work).__name__}")


def _grouped(parts: Iterable[Part]) -> list[Part]:
    """Parts with equal outputs side by side, otherwise in order."""
    groups: dict[object, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.work.outputs, []).append(part)
    return [part for group in groups.values() for part in group]
