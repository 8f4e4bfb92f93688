"""Chooses which work runs together. Knows nothing of time, asyncio, devices or gRPC.

Invariants, held by a property test over any mix of work, ticks and cancellations:

* a batch never holds two rows of one session, nor do two batches at once;
* a session's work runs in the order it was submitted (see `SessionTable` for the tickets);
* nobody waits behind somebody else's long chunk, nor behind his long queue: chunks are cut into
  bounded pieces, flows take turns (see `FairQueue`), and so do the kinds of work;
* every row that was submitted is handed out once, to be completed or dropped.

Batching is continuous: rows join and leave at any batch, and those that feed back (see
`Feedback`) share the batches of everybody's single steps. Work of which no row can run is parked
under one of the tickets it waits for, so that a long queue behind one session costs the others
nothing.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.engine.scheduler.fair_queue import FairQueue
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.sessions.allocator import SlotAllocator
from service.engine.sessions.slots import SlotManager
from service.engine.sessions.table.table import SessionTable
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import Ints, Mask, has_repeats
from service.engine.work.flow import Flow
from service.engine.work.work import Chunk, Fork, Kind, Load, Work

_KINDS = tuple(Kind)
_MOVE_STATES = (Kind.SAVE, Kind.LOAD)
_NO_SLOTS = np.empty(0, np.int64)
_NO_TICKETS = np.empty(0, np.int32)
_Key: TypeAlias = tuple[int, int]
_Row: TypeAlias = tuple[Work, int]  # one that waits by itself: cheaper than an entry
QUANTUM = 64  # rows of one flow in a round: enough for its share of what a batch saves


@dataclass(slots=True, eq=False)
class _Entry:
    """Queued work and the rows of it that have not run yet."""

    work: Work
    indices: Ints | None  # None: all rows

    @property
    def rows(self) -> Ints:
        """Something of each of these rows, (rows,)."""
        return self.work.slots if self.indices is None else self.indices

    @property
    def tickets(self) -> NDArray[np.int32]:
        """Of these rows, (rows,)."""
        return self.work.tickets if self.indices is None else self.work.tickets[self.indices]

    @property
    def part(self) -> Part:
        """All of these rows."""
        indices = self.indices
        slots = self.work.slots if indices is None else self.work.slots[indices]
        return Part(work=self.work, slots=slots, indices=indices, bucket=self.work.bucket)


class Scheduler:
    """Queues of work, and the turn of each kind.

    Args:
        table: what is queued for each slot.
        slots: lends spare ones to forks.
        chunk_spares: the slots that chunks of several pieces borrow.
        max_batch: the most rows of a batch; a batch of chunks has as many time steps at most.
        chunk_steps: the most time steps of one piece of a chunk.
    """

    def __init__(
        self,
        table: SessionTable,
        feedback: Feedback,
        *,
        slots: SlotManager,
        chunk_spares: SlotAllocator,
        max_batch: int,
        chunk_steps: int,
    ) -> None:
        self.parked: dict[_Key, list[_Entry | _Row]] = {}  # by slot and ticket
        self.waiting = 0  # pieces of work that are queued, parked ones too
        self.ready_rows = 0  # rows of single steps that may be handed out
        self.moving_states = 0  # pieces of work that may be, and move states: whoever comes
        self.pending_steps = 0  # queued or running
        self._table = table
        self._feedback = feedback
        self._holds: dict[
            object, tuple[Ints, NDArray[np.int32]]
        ] = {}  # slots and tickets, see `hold`
        self._released: set[_Key] = set()  # slots and tickets that hold nobody any more
        self._left: dict[Work, int] = {}  # rows of each piece of work that have not finished
        self._ready = self._queues(chunk_steps)
        self._next_kind = 0
        self._moved_states = False  # the last batch did
        self._slots = slots
        self._chunk_spares = chunk_spares
        self._spareless: dict[Flow | None, deque[_Entry]] = {}  # chunks that want a spare slot
        self._borrowed: Counter[Hashable] = Counter()  # spare slots of chunks, see `Work.party`
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps

    def submit(self, work: Work) -> None:
        """Queue work; its rows follow everything their sessions have queued already."""
        slots = work.slots
        assert len(slots) == 1 or not has_repeats(slots), "a session has one row in a piece of work"
        self._left[work] = len(slots)
        work.tickets = self._table.tickets[slots]
        self._table.tickets[slots] += 1
        self.pending_steps += work.row_steps * len(slots)
        self._enqueue(_Entry(work, None))

    def hold(self, slots: Ints) -> object:
        """Let what is queued for these from here on wait until they are released."""
        token = object()
        self._holds[token] = slots, self.hold_each(slots)
        return token

    def release(self, token: object) -> None:
        """Let go of what `hold` has returned this for, if nothing else has."""
        self.let_go(*self._holds.pop(token, (_NO_SLOTS, _NO_TICKETS)))

    def hold_each(self, slots: Ints) -> NDArray[np.int32]:
        """Let what is queued for these from here on wait; returns the tickets that hold it."""
        tickets = self._table.tickets[slots]
        self._table.tickets[slots] = tickets + 1
        return tickets

    def let_go(self, slots: Ints, tickets: NDArray[np.int32]) -> None:
        """Let go of some that `hold_each` has taken, which whoever took them does once.

        Not after `forget`, with which nothing is held any more.
        """
        turn = self._table.serving[slots] == tickets
        for key in zip(slots[~turn].tolist(), tickets[~turn].tolist(), strict=True):
            self._released.add(key)  # what was queued before comes first
            self.parked.setdefault(key, [])  # so that its turn is looked at
        slots = slots[turn]
        self._table.serving[slots] += 1
        if self.parked:
            self.unpark(slots)

    @staticmethod
    def _queues(chunk_steps: int) -> dict[Kind, FairQueue[_Entry]]:
        sizes: dict[Kind, Callable[[_Entry], int]] = {Kind.CHUNKS: lambda _: chunk_steps}
        rows: Callable[[_Entry], int] = lambda entry: len(entry.rows)  # noqa: E731
        return {kind: FairQueue(QUANTUM, size=sizes.get(kind, rows)) for kind in _KINDS}

    def place(self, flow: Flow, rows: int) -> tuple[int, Hashable | None]:
        """The round in which the next single steps of a flow begin, see `FairQueue.join`."""
        return self._ready[Kind.STEPS].join(flow, rows, flow.allowance)

    def schedule(
        self, *, decode_steps: int = 1, feedback_rows: int | None = None, room: int | None = None
    ) -> Batch | None:
        """The next batch, or ``None`` when nothing can run now.

        Args:
            decode_steps: steps that rows that feed back read at once, in a batch of their own; one
                step shares the batch of everybody's single steps.
            feedback_rows: the most rows that feed back; ``None`` sets no limit.
            room: the most rows, or time steps of chunks; ``None`` for what a batch can hold.
        """
        room = self._max_batch if room is None else room
        if self._spareless:
            self._lend()
        for kind in self._turns():
            ready = self._ready[kind]
            match kind:
                case Kind.STEPS if decode_steps == 1:
                    # However many others wait, half of a batch is for those that feed back.
                    fed_back = min(self._feedback.ready_rows, room // 2)
                    parts = self._rows(ready, room - fed_back)
                    if not (parts and parts[0].bucket):
                        parts += self._fed_back(parts, 1, feedback_rows, room)
                case Kind.DECODE if decode_steps > 1:
                    parts = self._fed_back([], decode_steps, feedback_rows, self._max_batch)
                case _ if not ready:
                    continue
                case Kind.CHUNKS:
                    parts = self._chunk_parts(ready, room)
                case Kind.FORK:
                    parts = self._fork(ready)
                case _:
                    parts = self._rows(ready, room)
            if parts:
                if kind is not Kind.STEPS or not self._moved_states:
                    self._next_kind = (_KINDS.index(kind) + 1) % len(_KINDS)
                self._moved_states = kind in _MOVE_STATES
                kind = parts[0].work.kind  # few steps that are left to rows that feed back are one
                return batch_of(kind, _grouped(parts) if len(parts) > 1 else parts)
        return None

    def _turns(self) -> Sequence[Kind]:
        """The kinds of work in the order of their turns.

        Behind states that came or went single steps have one turn more: who waits for those waits
        for no more than one batch of others'.
        """
        turns = _KINDS[self._next_kind :] + _KINDS[: self._next_kind]
        return (Kind.STEPS, *turns) if self._moved_states else turns

    def complete(self, batch: Batch) -> None:
        """The batch has run: serve what comes after it."""
        for part in batch.parts:
            if part.is_last:
                self.finish(part)
            else:
                work = part.work
                assert isinstance(work, Chunk), "all other work ends with its batch"
                work.done = part.stop
                self._make_ready(_Entry(work, part.indices))

    def finish(self, part: Part) -> None:
        """These rows have run, or must not run any more: serve what comes after them."""
        work = part.work
        if isinstance(work, Chunk) and work.spare is not None:
            self._chunk_spares.release(work.spare)
            work.spare = None
            self._borrowed[work.party] -= 1
            if not self._borrowed[work.party]:
                del self._borrowed[work.party]
        self.pending_steps -= work.row_steps * len(part.slots)
        self._table.serving[part.slots] += 1
        # Last: after a fault above, whoever waits for it is still known.
        left = self._left.get(work, 0) - len(part.slots)
        if left > 0:
            self._left[work] = left
        else:
            self._left.pop(work, None)
        if self.parked:
            self.unpark(part.slots)

    def finish_whole(self, work: Work) -> None:
        """Single steps have all run, in one batch: what `finish` does, for the most frequent."""
        self._left.pop(work, None)
        self.pending_steps -= len(work.slots)
        self._table.serving[work.slots] += 1
        if self.parked:
            self.unpark(work.slots)

    def unpark(self, slots: Ints) -> None:
        """Slots serve their next tickets: what waits for these may run."""
        alone: dict[Work, list[int]] = {}
        keys = list(zip(slots.tolist(), self._table.serving[slots].tolist(), strict=True))
        for key in keys:
            if key in self._released:
                self._released.remove(key)
                self._table.serving[key[0]] += 1
                keys.append((key[0], self._table.serving.item(key[0])))
            for entry in self.parked.pop(key, ()):
                self.waiting -= 1
                if isinstance(entry, _Entry):
                    self._make_ready(entry)
                else:
                    alone.setdefault(entry[0], []).append(entry[1])
        for work, rows in alone.items():  # what has waited alone runs together
            indices = np.sort(np.array(rows, np.int64))
            self._make_ready(_Entry(work, indices if len(rows) < len(work.slots) else None))

    def forget(self, running: Sequence[Part]) -> list[Work]:
        """Forget all work but some parts of it that run; returns the work, to be refused.

        For when the queue is in doubt: nothing is relied on but what was queued, and where the
        sessions stand. Rows that run, or have finished, are among those of the work.
        """
        works = list(self._left)
        self._holds, self._released = {}, set()
        known, self._left = self._left, {}
        for part in running:
            if part.work in known:
                self._left[part.work] = self._left.get(part.work, 0) + len(part.slots)
        self._ready = self._queues(self._chunk_steps)
        self._spareless = {}
        self.parked = {}
        self.waiting = self.ready_rows = self.moving_states = 0
        self.pending_steps = sum(part.work.row_steps * len(part.slots) for part in running)
        chunks = [part.work for part in running if isinstance(part.work, Chunk)]
        self._chunk_spares.keep_only({chunk.spare for chunk in chunks if chunk.spare is not None})
        self._borrowed = Counter(chunk.party for chunk in chunks if chunk.spare is not None)
        for work in works:
            if isinstance(work, Chunk) and work not in self._left:
                work.spare = None
        slots = [part.slots for part in running]
        steps = [self._moves(part) for part in running]
        nothing = np.empty(0, np.int64)
        self._table.settle(np.concatenate([nothing, *slots]), np.concatenate([nothing, *steps]))
        return works

    def _moves(self, part: Part) -> Ints:
        """By how much its sessions will have moved once a part has run, (rows,)."""
        work = part.work
        if isinstance(work, Load):
            moves: Ints = part.column(work.positions) - self._table.position[part.slots]
            return moves
        return np.full(len(part.slots), work.row_steps if work.commit else 0)

    @property
    def forks_wait(self) -> bool:
        """Whether somebody wants spare slots and has none yet."""
        return bool(self._ready[Kind.FORK])

    def waiting_for_spares(self, slot: int) -> list[Work]:
        """Work of a slot that could run but for a spare slot; it waits for it no longer."""
        chunks: list[_Entry] = []
        for flow, entries in list(self._spareless.items()):
            own = [entry for entry in entries if entry.work.slots[0] == slot]
            for entry in own:
                entries.remove(entry)
                self._ready[Kind.CHUNKS].append(entry, 0, entry.work.principal)
            if not entries:
                del self._spareless[flow]
            chunks += own
        forks = [entry for entry in self._ready[Kind.FORK] if entry.work.slots[0] == slot]
        return [entry.work for entry in forks + chunks]

    def _enqueue(self, entry: _Entry) -> None:
        """Put an entry where it belongs: ready if some row can run, else parked."""
        part, tickets = entry.part, entry.tickets
        blocked = self._table.serving[part.slots] != tickets
        if not blocked.all():
            self._make_ready(entry)
            return
        if len(blocked) > 1:
            # Those that wait for a row of the arena wait alone: the others may have to run first,
            # so that there is one.
            seatless = self._table.row[part.slots] < 0
            if seatless.any():
                self._enqueue_apart(entry, seatless)
                return
        key = (int(part.slots[0]), int(tickets[0]))
        self.parked.setdefault(key, []).append(entry)
        self.waiting += 1

    def _enqueue_apart(self, entry: _Entry, apart: Mask) -> None:
        work, indices = entry.work, entry.part.all_indices
        alone = indices[apart]
        slots, tickets = work.slots[alone].tolist(), work.tickets[alone].tolist()
        for key, index in zip(zip(slots, tickets, strict=True), alone.tolist(), strict=True):
            self.parked.setdefault(key, []).append((work, index))
        self.waiting += len(alone)
        if len(alone) < len(indices):
            self._enqueue(_Entry(work, indices[~apart]))

    def _make_ready(self, entry: _Entry) -> None:
        work, ready = entry.work, self._ready[entry.work.kind]
        start, principal, flow = work.round, work.turns_of, work.flow
        if flow is not None:
            principal = flow.allowance
            if ready:
                rows = self._chunk_steps if work.kind is Kind.CHUNKS else len(entry.rows)
                start = ready.place(flow, rows, principal)
        ready.append(entry, start, principal)
        self._count_ready(entry, 1)

    def _put_back(self, entry: _Entry, rows_taken: int = 0) -> None:
        """What was taken last is to be the first again, but for some of its rows."""
        self._ready[entry.work.kind].put_back(entry, rows_taken, entry.work.principal)
        self._count_ready(entry, 1)

    def _take(self, ready: FairQueue[_Entry]) -> _Entry:
        entry = ready.popleft()
        self._count_ready(entry, -1)
        return entry

    def _count_ready(self, entry: _Entry, sign: int) -> None:
        self.waiting += sign
        if entry.work.kind is Kind.STEPS:
            self.ready_rows += sign * len(entry.rows)
        elif entry.work.kind in _MOVE_STATES:
            self.moving_states += sign

    def _rows(self, ready: FairQueue[_Entry], room: int) -> list[Part]:
        """So many runnable rows at most, those of a flow in order, and flows in turn.

        Those that want to run in a bucket run among their like.
        """
        parts: list[Part] = []
        bucket = ready.first().work.bucket if ready else 0
        room = min(room, bucket) if bucket else room
        while ready and room > 0 and ready.first().work.bucket == bucket:
            entry = self._take(ready)
            part = entry.part
            has_turns = part.work.flow is not None or part.work.principal is not None
            most = min(room, QUANTUM) if has_turns and ready.is_shared else room
            runnable = self._table.serving[part.slots] == entry.tickets
            if len(part.slots) <= most and runnable.all():
                parts.append(part)
                room -= len(part.slots)
                continue
            indices = part.all_indices
            can_run = indices[runnable]
            taken = can_run[:most]
            slots = part.work.slots[taken]
            parts.append(Part(work=part.work, slots=slots, indices=taken, bucket=part.bucket))
            room -= len(taken)
            entry.indices = np.setdiff1d(indices, taken, assume_unique=True)
            if len(taken) < len(can_run):
                self._put_back(entry, len(taken))
            else:
                self._enqueue(entry)
        return _by_work(parts)

    def _fed_back(
        self, others: list[Part], steps: int, at_most: int | None, room: int
    ) -> list[Part]:
        """Rows that feed back, as many as have room beside others."""
        room -= sum(len(part.slots) for part in others)
        if at_most is not None:
            room = min(room, at_most)
        if not self._feedback.ready_rows or room <= 0:
            return []
        work = self._feedback.work(steps=steps, room=room)
        if work is None:
            return []
        self.pending_steps += work.row_steps * len(work.slots)
        return [Part(work=work, slots=work.slots)]

    def _chunk_parts(self, ready: FairQueue[_Entry], room: int) -> list[Part]:
        """The next piece of each chunk, in turn, while they may share a run."""
        parts: list[Part] = []
        room = max(room, self._chunk_steps)
        while ready and room >= self._chunk_steps:
            work = ready.first().work
            assert isinstance(work, Chunk), "the queue of chunks holds nothing else"
            stop, bucket, run_steps = work.next_piece(self._chunk_steps)
            if parts and (
                (bucket, run_steps) != (parts[0].bucket, parts[0].run_steps)
                or (bucket and len(parts) == bucket)
            ):
                break
            entry = self._take(ready)
            is_last = stop == len(work.inputs)
            if not is_last and work.spare is None and not (work.borrowed or work.cancelled):
                if not self._may_borrow(work.flow):
                    self._spareless.setdefault(work.flow, deque()).append(entry)
                    self._count_ready(entry, 1)
                    continue
                self._borrow(work)
            part = entry.part
            part.start, part.stop, part.is_last = work.done, stop, is_last
            part.bucket, part.run_steps = bucket, run_steps
            parts.append(part)
            room -= self._chunk_steps
        return parts

    def _lend(self) -> None:
        """Let chunks that wait for a spare slot go on, one of each flow in turn."""
        served = True
        while served and self._spareless and self._chunk_spares.free:
            served = False
            for flow in list(self._spareless):
                if not self._chunk_spares.free:
                    return
                if not self._may_borrow(flow):
                    continue
                entries = self._spareless.pop(flow)
                entry = entries.popleft()
                if entries:
                    self._spareless[flow] = entries  # behind the others
                work = entry.work
                assert isinstance(work, Chunk), "nothing else wants one"
                self._borrow(work)
                self._ready[Kind.CHUNKS].append(entry, 0, work.principal)
                served = True

    def _borrow(self, work: Chunk) -> None:
        work.spare = self._chunk_spares.allocate()
        self._borrowed[work.party] += 1

    def _may_borrow(self, flow: Flow | None) -> bool:
        """Whether there is a spare slot for a chunk; half of them are left to other parties."""
        spares = self._chunk_spares
        if flow is None:
            return spares.free > 0
        return spares.free > 0 and self._borrowed[flow.party] < max(1, spares.capacity // 2)

    def _fork(self, ready: FairQueue[_Entry]) -> list[Part]:
        """The first fork, once all its copies have a slot; a smaller one does not overtake it."""
        work = ready.first().work
        assert isinstance(work, Fork), "the queue of forks holds nothing else"
        if work.failure is None and not work.reply_to.cancelled:
            if work.row_cost > self._slots.spares.free:
                return []
            self._slots.lend_spares(work)
        return [self._take(ready).part]


def batch_of(kind: Kind, parts: Sequence[Part]) -> Batch:
    """A batch of some parts."""
    part, work = parts[0], parts[0].work
    slots, expected = work.slots, work.expected
    if len(parts) > 1 or part.indices is not None:
        slots = np.concatenate([part.slots for part in parts])
        if len(expected):  # work of this kind expects positions
            expected = np.concatenate([part.column(part.work.expected) for part in parts])
    rows = len(slots)
    if kind is Kind.CHUNKS:
        rows = sum([part.stop - part.start for part in parts])
    times = work.row_steps if kind is Kind.DECODE else 1
    return Batch(
        kind=kind,
        parts=parts,
        slots=slots,
        expected=expected,
        steps=rows * times,
        cost_rows=max(rows, *[part.work.row_cost * len(part.slots) for part in parts]),
        times=times,
    )


def _by_work(parts: list[Part]) -> list[Part]:
    """The same rows with one part of each piece of work: it is answered at once."""
    works: dict[Work, list[Part]] = {}
    for part in parts:
        works.setdefault(part.work, []).append(part)
    if len(works) == len(parts):
        return parts
    found: list[Part] = []
    for work, own in works.items():
        if len(own) == 1:
            found += own
            continue
        indices = np.sort(np.concatenate([part.all_indices for part in own]))
        is_all = len(indices) == len(work.slots)
        found.append(
            Part(
                work=work,
                slots=work.slots if is_all else work.slots[indices],
                indices=None if is_all else indices,
                bucket=own[0].bucket,
            )
        )
    return found


def _grouped(parts: Iterable[Part]) -> list[Part]:
    """Parts with equal outputs side by side, otherwise in order."""
    groups: dict[object, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.work.outputs, []).append(part)
    return [part for group in groups.values() for part in group]
