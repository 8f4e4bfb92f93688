"""One shard's side of the log."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.log.commit_log import CommitLog
from service.engine.log.groups.entries import PARTIAL, Entry, Steps, entries_of
from service.engine.log.groups.events import Began, Moved
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.seeds import Seed
from service.engine.sessions.moving import Moving
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Floats, Ints
from service.engine.work.replies import UNKNOWN, Delivery
from service.engine.work.work import Chunk, Piece, Save, Work, cannot_tell, hand_over

_log = structlog.get_logger(__name__)


def tell(
    log: "ShardLog | None", work: Work, delivery: Delivery, slots: Ints, *, fail: bool = False
) -> None:
    """Answer some rows of work as `hand_over` does, once that may be known outside.

    With ``fail`` that is behind what its other rows are told.
    """
    if log is None or work.reply_to.is_inside:
        hand_over(work, delivery, fail=fail)
        return
    told = partial(hand_over, work, delivery, fail=fail)
    try:
        if fail:
            log.hold_last(told)
        else:
            log.hold(slots, told)
    except Exception:  # nobody knows when it may be told
        _log.exception("replies cannot wait for the store")
        cannot_tell(work, delivery.rows, np.full(len(delivery.rows), UNKNOWN))


class ShardLog:
    """Notes what the sessions of one shard read, and lets what tells of them wait for that.

    Args:
        model: the shard's, as "name/version".
    """

    def __init__(self, log: CommitLog, table: SessionTable, model: str) -> None:
        self.log = log
        self._table = table
        self._model = model

    # -- what happens ---------------------------------------------------------------------

    def steps(
        self,
        slots: Ints,
        positions: Ints,
        inputs: NDArray[Any],
        *,
        steps: int = 1,
        flags: int = 0,
        bucket: int = 0,
        run_steps: int = 0,
    ) -> None:
        """Sessions have read steps, so many each; spare slots have no session, and no entry.

        Args:
            slots: whose, (rows,).
            positions: where they stood before, (rows,).
            inputs: what they have read, (rows * steps,) or (rows * steps, width).
            steps: of each row.
            flags: see `Entry`.
            bucket: the same.
            run_steps: the same.
        """
        numbers = self._table.number[slots]
        own = numbers != 0
        if not own.all():
            if not own.any():
                return
            inputs = inputs.reshape(len(slots), -1)[own].reshape(-1, *inputs.shape[1:])
            slots, positions, numbers = slots[own], positions[own], numbers[own]
        if self.log.tells_later:
            self._table.enter_group(
                slots, positions, group=self.log.group, durable=self.log.durable
            )
        if self.log.keeps_steps:
            self.log.add(
                Entry(self._model, numbers, positions, steps, flags, inputs, bucket, run_steps)
            )
        self._table.log(slots, group=self.log.group, steps=steps, is_kept=self.log.keeps_steps)

    def chunk(self, chunk: Chunk, *, flags: int) -> None:
        """A session has read several steps; each run that its bits hang on is an entry."""
        start = 0
        for piece in chunk.pieces or [Piece(chunk.row_steps)]:
            goes_on = PARTIAL if piece.stop < chunk.row_steps else 0
            self.steps(
                chunk.slots,
                chunk.expected + start,
                chunk.inputs[start : piece.stop],
                steps=piece.stop - start,
                flags=flags | goes_on,
                bucket=piece.bucket,
                run_steps=piece.run_steps,
            )
            start = piece.stop

    def open(self, slot: int, row: SessionRow, seed: Seed | None = None) -> None:
        """A session was opened in a slot, at position 0 or with a seed, which is of its branch."""
        self._table.number[slot] = row.number
        self.log.open(row)
        self._table.group[slot] = self.log.group
        if seed is not None:  # in the same group: one without the other is never found
            self.log.move(Moved(number=row.number, seed=seed), first_group=0)
            self._table.moved(slot, group=self.log.group, steps=0)

    def begin_with(self, slot: int, states: Sequence[Floats]) -> None:
        """The session that was just opened in a slot starts from this state."""
        self.log.begin_with(Began(number=int(self._table.number[slot]), states=states))

    def has_read(self, slot: int, base: Seed, tail: Steps) -> None:
        """The session that was just opened in a slot has read all this; it comes from elsewhere.

        Args:
            slot: the session's.
            base: a state that it had; at position 0 what it was opened with.
            tail: what it has read from there on.
        """
        table = self._table
        number = int(table.number[slot])
        if base.position:
            seed = replace(base, branch=int(table.branch[slot]))
            self.log.move(Moved(number=number, seed=seed), first_group=0)
        for entry in entries_of(self._model, number, tail):
            self.log.add(entry)
        table.moved(slot, group=self.log.group, steps=len(tail.inputs))

    def reset(self, slot: int) -> None:
        """A session was put back to position 0, unless it has ended meanwhile."""
        table = self._table
        number, first_group = int(table.number[slot]), int(table.first_group[slot])
        if not number:
            return
        self.log.reset(number, int(table.branch[slot]), first_group=first_group)
        table.group[slot] = self.log.group
        table.first_group[slot] = table.tail_steps[slot] = 0

    def moved(self, slot: int, seed: Seed, tail: Steps, history: int | None = None) -> None:
        """A session was put to a seed, on the branch that it is on, and reads a tail again.

        Whether steps are kept or not, the seed is not all of it without that. For ``history`` see
        `Moved`.
        """
        table = self._table
        number = int(table.number[slot])
        if not number:
            return  # it has ended
        seed = replace(seed, branch=int(table.branch[slot]))
        left = int(table.left[slot])
        event = Moved(number=number, seed=seed, left=left, history=history)
        self.log.move(event, first_group=int(table.first_group[slot]))
        for entry in entries_of(self._model, number, tail):
            self.log.add(entry)
        table.moved(slot, group=self.log.group, steps=len(tail.inputs))

    def moving(self, slot: int, moving: Moving) -> None:
        """A session moves to another server, or does so no more; unless it has ended."""
        table = self._table
        if table.number[slot]:
            self.log.moving(replace(moving, number=int(table.number[slot])))
            table.group[slot] = self.log.group

    def close(self, slot: int) -> None:
        """A session has ended; what is told of it still waits for that."""
        table = self._table
        if not table.number[slot]:
            return  # it was being opened, and the log has not heard of it
        self.log.close(int(table.number[slot]), first_group=int(table.first_group[slot]))
        table.group[slot] = self.log.group
        table.number[slot] = table.first_group[slot] = table.tail_steps[slot] = 0

    def saved(self, slots: Ints, save: Save, at: Ints) -> None:
        """Their states have been read: what they read from here on is their tail."""
        table = self._table
        stay = ~table.returning[slots]  # where the others stand is on the branch before
        slots, at = slots[stay], at[stay]
        save.numbers[at] = table.number[slots]
        save.first_groups[at] = table.first_group[slots]
        table.first_group[slots] = table.tail_steps[slots] = 0

    def unsave(self, save: Save) -> None:
        """What was read could not be kept: their tails begin where they did."""
        table, slots = self._table, save.slots
        same = (table.number[slots] == save.numbers) & (table.branch[slots] == save.saved_branches)
        same &= save.first_groups > 0
        table.first_group[slots[same]] = save.first_groups[same]

    # -- what waits for it ----------------------------------------------------------------

    def hold(self, slots: Ints, release: Callable[[], None]) -> None:
        """Call it once what these sessions have read is durable, if anybody is to wait for that."""
        if self.log.holds_steps:
            self.log.hold(int(self._table.group[slots].max(initial=0)), release)
        else:
            release()

    def hold_last(self, release: Callable[[], None]) -> None:
        """Call it behind all that is held now."""
        if self.log.holds_steps:
            self.log.hold(self.log.last_group, release)
        else:
            release()

    async def wait(self, slots: Ints) -> None:
        """Wait until what these sessions have read is durable, and what became of them."""
        await self.log.wait(int(self._table.group[slots].max(initial=0)))

    def durable_position(self, slot: int, *, position: int, branch: int) -> int:
        """As far as this a session that stood at a position of a branch is known to be durable.

        Whoever tells that position must have waited as `hold` lets him.
        """
        log, table = self.log, self._table
        if log.holds_steps:
            return position
        if table.branch.item(slot) != branch:
            return 0  # it was reset, or has ended: nobody remembers
        if log.keeps_steps:
            return min(position, table.durable_position(slot, log.durable))
        row = log.find(table.number.item(slot))
        return 0 if row is None else min(position, row.seed)

    def kept(self, slot: int, branch: int) -> int | None:
        """How much of a former branch of a session was kept, if it was a crash that ended it."""
        row = self.log.find(int(self._table.number[slot]))
        return None if row is None else dict(row.past).get(branch)

    def told(self, slots: Ints, positions: Ints) -> Ints:
        """Positions that may be told: what is queued may be lost before it is durable."""
        if not self.log.holds_steps:
            return positions
        return np.where(positions == self._table.position[slots], positions, UNKNOWN)
