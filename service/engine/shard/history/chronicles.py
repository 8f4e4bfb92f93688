"""The histories of one shard's sessions: what they have read, so that they can be put back there.

Most sessions have none, and cost nothing here. What the others read is noted where it is committed,
in memory that is counted; what was promised is kept, in the table of a store too. Beside that each
session's last generation is kept for a while, so that it can be put back within that. Knows nothing
of files.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import structlog

from service.engine.log.checking import read_of
from service.engine.log.chronicle import Chronicle, Part
from service.engine.log.groups.entries import Steps
from service.engine.log.recovery.stored import StoredSession
from service.engine.log.seeds import Seed
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.history.generated import Generations
from service.engine.shard.history.memory import HistoryMemory
from service.engine.shard.history.unstored import Unstored
from service.engine.work.columns import Inputs, Ints, Mask
from service.engine.work.replies import Delivery, InsideReceiver
from service.engine.work.work import Chunk, Piece, Save, Work
from service.errors import BadInputError, HistoryMissingError
from service.store.records import unpack
from service.store.store import StoreError

_GENERATIONS_PART = 8  # of as much memory, one of which is for generations that have ended
_log = structlog.get_logger(__name__)


class Chronicles:
    """The histories of the sessions of one shard, by slot.

    Attributes:
        some: whether any session has one.
        memory: where they are counted.
        generations: what sessions have read in their last ones.

    Args:
        width: values of a step; 0 for tokens.
        owner: the number of the owner of a slot's session.
        initial: the state at position 0 of a slot's session, once it is asked for.
        put: queues work.
        call_soon: calls something when what is done now is done.
    """

    def __init__(
        self,
        table: SessionTable,
        *,
        memory: HistoryMemory,
        width: int,
        owner: Callable[[int], int],
        initial: Callable[[int], Seed],
        put: Callable[[Work], None],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self.some = False
        self.arithmetic = ""
        """Under which steps are run; see `Arithmetics`."""
        self.memory = memory
        self.generations = Generations(memory.limit // _GENERATIONS_PART, owner=owner)
        self._table = table
        self._width = width
        self._owner = owner
        self._initial = initial
        self._put = put
        self._call_soon = call_soon
        self._keeps = np.zeros(len(table), np.bool_)
        self._own: dict[int, Chronicle] = {}

    # -- lives ----------------------------------------------------------------------------

    def begin(self, slot: int, keeps: int, base: Seed | None = None) -> None:
        """The session of a slot keeps a history from where it stands now.

        Args:
            slot: the session's.
            keeps: so many steps at least; with 0 it keeps none.
            base: its state there; ``None``: the initial one.
        """
        if keeps:
            self.put(slot, self.begun(slot, keeps, base))

    def begun(self, slot: int, keeps: int, base: Seed | None = None) -> Chronicle:
        """A history that begins with a state, as in `begin`; the session does not have it yet."""
        own = Chronicle(keeps, self._width)
        own.begin(self._initial(slot) if base is None else base)
        return own

    def require(self, slot: int) -> None:
        """Check that a slot's session may have all it has read, wherever its state is.

        Raises:
            HistoryMissingError: it does not.
        """
        own = self._own.get(slot)
        if own is None or own.begins:
            raise HistoryMissingError(0, self.position(slot), upgrades=True)

    def whole(self, slot: int) -> Chronicle:
        """All that a slot's session has read, from position 0 on.

        Raises:
            HistoryMissingError: it is not kept.
        """
        own = self._own.get(slot)
        if own is None or own.begins or own.end != self._table.position[slot]:
            raise HistoryMissingError(0, self.position(slot), upgrades=True)
        return own

    def put(self, slot: int, own: Chronicle) -> None:
        """The session of a slot has this history."""
        own.owner = self._owner(slot)
        self._own[slot] = own
        self._keeps[slot] = self.some = True
        self._count(slot)

    def restore(self, slot: int, session: StoredSession) -> None:
        """The session of a slot is one of a store, where its history is, if it keeps one.

        What it has read since its checkpoint comes to that as it is read again.
        """
        keeps, begins = session.row.history_steps, session.begins
        if not keeps:
            return
        own = Chronicle(keeps, self._width)
        if session.seed is not None:
            own.begin(session.seed)
        parts = own.parts
        for position in sorted(session.history, reverse=True):
            follows = parts[0].base.position if parts else begins
            if position > follows or (position == follows and parts):
                continue  # of a branch that was left
            part = None
            if position >= session.history_begins:
                part = self._read(slot, session, position)
            if part is None or part.end < follows:
                break
            part.cut(follows)
            parts.insert(0, part)
        if not parts and not begins:
            own.begin(self._initial(slot))
        self.put(slot, own)  # else it begins with the next state that is saved

    def _read(self, slot: int, session: StoredSession, position: int) -> Part | None:
        """A part of a history, as it is in the table; ``None`` where it makes no sense."""
        shapes = [(row.shape, row.dtype) for row in self._initial(slot).states]
        try:
            with read_of("a history"):
                found = Part.unpack(unpack(session.history[position]), self.arithmetic)
                theirs = [(row.shape, row.dtype) for row in found.base.states]
                if (found.base.position, found.width, theirs) != (position, self._width, shapes):
                    raise ValueError("it is of another model")
                return found
        except StoreError as error:
            number = session.row.number
            _log.error("history damaged", session=number, position=position, reason=str(error))
            return None

    def unstored(self, slot: int, position: int) -> Unstored | None:
        """What is to be written of a history with a checkpoint at a position, if there is one."""
        own = self._own.get(slot)
        return None if own is None else Unstored(own, position, self.arithmetic)

    def find(self, slot: int) -> Chronicle | None:
        """The history of a slot's session, if it has one."""
        return self._own.get(slot)

    def position(self, slot: int) -> int | None:
        """The earliest position that a session can be put to; ``None``: it has no history."""
        own = self._own.get(slot)
        return None if own is None else own.begins

    def forget(self, slot: int) -> None:
        """The session of a slot has ended."""
        own = self._own.pop(slot, None)
        if own is not None:
            self.memory.count(own.owner, -own.counted)
            self._keeps[slot] = False
            self.some = bool(self._own)
        self.generations.forget(slot)

    def reset(self, slot: int) -> None:
        """A session is at position 0 again."""
        own = self._own.get(slot)
        if own is not None:
            own.begin(self._initial(slot))
            own.waits = False
            self._count(slot)

    def went_back(self, slot: int, position: int, seed: Seed) -> None:
        """A session stands at an earlier position, to which it comes by reading on from a seed."""
        table = self._table
        before, branch = int(table.left[slot]), int(table.branch[slot])
        self.generations.went_back(slot, position, before=before, branch=branch)
        own = self._own.get(slot)
        if own is None:
            return
        if not own.cut(position):
            own.begin(seed)
        own.waits = False
        self._count(slot)

    # -- what they read -------------------------------------------------------------------

    def steps(
        self,
        slots: Ints,
        positions: Ints,
        inputs: Inputs,
        *,
        steps: int = 1,
        pieces: Sequence[Piece] = (),
        is_fold: bool = False,
    ) -> None:
        """Sessions have read steps, so many each; what they read again is known already.

        Args:
            slots: whose, (rows,).
            positions: where they stood before, (rows,).
            inputs: what they have read, (rows * steps,) or (rows * steps, width).
            steps: of each row.
            pieces: what they ran in, where bits depend on that.
            is_fold: they were read before.
        """
        rows = np.flatnonzero(self._keeps[slots])
        if not len(rows):
            return
        own_slots, before = slots[rows], positions[rows].tolist()
        columns = inputs.reshape(len(slots), -1)[rows]
        data = columns.astype(np.float32 if self._width else np.int32).tobytes()
        size = len(data) // len(rows)
        plain = not (pieces or is_fold or self._table.returning[own_slots].any())
        for index, slot in enumerate(own_slots.tolist()):
            own, position = self._own[slot], before[index]
            # Most are: the rest costs ten times as much.
            if plain and own.read_plainly(position, data[index * size : (index + 1) * size]):
                self.memory.count(own.owner, size)
            else:
                read = inputs[rows[index] * steps : (rows[index] + 1) * steps]
                self._take(slot, own, position, read, pieces, is_fold=is_fold)
            if own.wants_base:
                own.waits = True
                branch = int(self._table.branch[slot])
                self._call_soon(partial(self._save, slot, own, branch))

    def _take(
        self,
        slot: int,
        own: Chronicle,
        position: int,
        inputs: Inputs,
        pieces: Sequence[Piece],
        *,
        is_fold: bool,
    ) -> None:
        if self._table.returning[slot] and not is_fold:
            return  # it is on another branch by now
        if not is_fold and own.end > position:
            own.cut(position)  # a run that failed behind its commit
            self._count(slot)
        last = own.parts[-1] if own.parts else None
        before = 0 if last is None else last.nbytes
        own.read(position, inputs, pieces)
        if last is None or not own.parts:
            self._count(slot)
            return
        grown = last.nbytes - before  # all of them would be many
        own.counted += grown
        self.memory.count(own.owner, grown)

    def chunk(self, chunk: Chunk) -> None:
        """A session has read several steps."""
        self.steps(
            chunk.slots,
            chunk.expected,
            chunk.inputs,
            steps=chunk.row_steps,
            pieces=chunk.pieces,
            is_fold=chunk.is_fold,
        )

    def _save(self, slot: int, own: Chronicle, branch: int) -> None:
        """Have a session's state saved: its next base."""
        if self._own.get(slot) is not own or self._table.branch[slot] != branch:
            return  # it was told so then
        save = Save(slots=np.array([slot]), branches=np.array([branch], np.uint64))
        save.reply_to = _Saved(partial(self._saved, slot, own, branch, save))
        self._put(save)

    def _saved(self, slot: int, own: Chronicle, branch: int, save: Save, is_done: bool) -> None:
        if self._own.get(slot) is not own or self._table.branch[slot] != branch:
            return
        own.waits = False
        if is_done:
            own.add(
                Seed(
                    branch=branch,
                    position=int(save.positions[0]),
                    last_steps=int(save.last_steps[0]),
                    content=int(save.contents[0]),
                    states=[rows[0] for rows in save.states],
                )
            )
            self._count(slot)

    # -- going back -----------------------------------------------------------------------

    def back_to(self, slot: int, position: int, *, generated: bool = False) -> tuple[Seed, Steps]:
        """What puts a session to a position, or where it stood at one.

        Args:
            slot: the session's.
            position: where it is to stand, or stood.
            generated: only within its last generation, and if it has read nothing since.

        Returns:
            A state that it had, and what it reads from there on.

        Raises:
            BadInputError: the session has not been there yet.
            HistoryMissingError: that is not kept.
        """
        stands = self._table.stands_at(slot)
        if position > stands:
            raise BadInputError(
                "position",
                f"{position} is ahead of the session, which is at {stands}",
            )
        own = self._own.get(slot)
        found = None if own is None or generated else own.back_to(position)
        if found is None:
            branch = int(self._table.branch[slot])
            found = self.generations.back_to(slot, position, branch=branch, stands=stands)
        if found is None:
            raise HistoryMissingError(position, self.position(slot), generated=generated)
        return found

    def not_there(self, slot: int, seed: Seed, tail: Steps) -> tuple[Seed, Steps, int | None]:
        """What the log has to be told of a session that is put to a seed and reads a tail again.

        That alone, or more, where not all of its history before that is in the table of a store:
        what it read on the branch before, the log forgets. And where that history begins.
        """
        own = self._own.get(slot)
        if own is None or own.end != seed.position + len(tail.inputs):
            return seed, tail, None
        return (*own.not_there(seed.position), own.begins)

    # -- where there is no room for more --------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether some sessions may not read on: there is no room for more of their histories."""
        return self.some and self.memory.is_full_for_some

    def full(self, slots: Ints) -> Mask | None:
        """Which sessions may not read on, (rows,); ``None``: all may."""
        if not self.is_full:
            return None
        full: Mask = self._keeps[slots]
        if not self.memory.is_full:
            of = self.memory.full_owners
            full &= np.array([self._owner(slot) in of for slot in slots.tolist()], np.bool_)
        return full if full.any() else None

    def _count(self, slot: int) -> None:
        """Count anew what one takes."""
        own = self._own[slot]
        before, own.counted = own.counted, own.nbytes
        self.memory.count(own.owner, own.counted - before)


class _Saved(InsideReceiver):
    """Hears whether a state was saved."""

    def __init__(self, heard: Callable[[bool], None]) -> None:
        self._heard = heard

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self._heard(delivery.error is None)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        del delivery
        self._heard(False)
