"""One shard's side of the store: sessions come out of it, and their states go into it."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from service.engine.log.groups.session_row import SessionRow
from service.engine.log.recovery.arithmetics import Arithmetics
from service.engine.log.recovery.folding import Folding
from service.engine.log.recovery.stored import StoredSession
from service.engine.log.seeds import Seed
from service.engine.log.shard_log import ShardLog
from service.engine.scheduler.holds import Holds
from service.engine.sessions.initials import Initials
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.restoring.lost import Lost
from service.engine.shard.restoring.restorer import Restorer
from service.engine.work.columns import Ints, Mask
from service.engine.work.replies import Delivery
from service.engine.work.work import Save, Work


class Saved:
    """What a `Save` found of sessions that are in the log, without those that were refused.

    Attributes:
        slots: of the sessions.
        numbers: the same.
        branches: the same.
        first_groups: where their tails began; 0 for none.
        idle_s: for how long each has been idle.
    """

    def __init__(self, save: Save, idle_s: NDArray[np.float64] | None = None) -> None:
        self.save = save
        rows = np.flatnonzero(save.numbers).tolist()
        self.slots = save.slots[rows].tolist()
        self.numbers = save.numbers[rows].tolist()
        self.branches = save.saved_branches[rows].tolist()
        self.first_groups = save.first_groups[rows].tolist()
        self.idle_s = [] if idle_s is None else idle_s[rows].tolist()
        self._rows = rows

    def seed(self, index: int) -> Seed:
        """The state of one of them."""
        save, row = self.save, self._rows[index]
        return Seed(
            branch=int(save.saved_branches[row]),
            position=int(save.positions[row]),
            last_steps=int(save.last_steps[row]),
            content=int(save.contents[row]),
            states=[state[row] for state in save.states],
            history=save.histories.get(int(save.slots[row])),
        )


class ShardStore:
    """The sessions of one shard as far as they are in the store.

    Args:
        log: ``None`` where there is no store: nothing is brought back then.
        initials: what sessions were opened with.
        queue: takes work for their slots, behind what is queued.
        holds: lets what is queued for slots wait.
        bring: see `Shard.bring`.
        stays: is told of slots whose sessions could not come, and are in the store as before.
        is_back: is told of slots whose sessions are here again.
        gather: queues work, and waits for what became of it.
        is_idle: whether a slot has nothing queued or running.
        wake: tells that work is queued.
        give_up: is told of a fault that left the queue in doubt.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        table: SessionTable,
        log: ShardLog | None,
        initials: Initials,
        *,
        queue: Callable[[Work], None],
        holds: Holds,
        bring: Callable[[Ints], None],
        stays: Callable[[Ints], None],
        is_back: Callable[[Ints], None],
        gather: Callable[[Work], Awaitable[list[Delivery]]],
        is_idle: Callable[[int], bool],
        wake: Callable[[], None],
        give_up: Callable[[Exception], None],
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._log = log
        self._initials = initials
        self._gather = gather
        self._wake = wake
        self._give_up = give_up
        self._clock = clock
        self._restorer: Restorer | None = None
        self._lost: Lost | None = None
        if log is not None:
            self._restorer = Restorer(
                table,
                initials,
                log.log.store,
                queue=queue,
                holds=holds,
                again=self.bring_back if log.log.keeps_steps else None,
                stays=stays,
                is_back=is_back,
            )
            self._lost = Lost(
                table, log.log, self._restorer, is_idle=is_idle, wake=wake, bring=bring
            )

    # -- out of it ------------------------------------------------------------------------

    def restore(self, slot: int, session: StoredSession) -> None:
        """Let a session that was opened in a slot stand where the store says."""
        assert self._restorer is not None, "there is a log"
        row, table = session.row, self._table
        position = session.position
        table.restore(slot, position=position, branch=row.branch, idle_s=row.idle_s, left=row.left)
        table.number[slot] = row.number
        if row.has_initial:
            self._initials.restore(slot, session.initial)
        table.first_group[slot], table.tail_steps[slot] = session.first_group, session.tail_steps
        if session.is_damaged or session.is_aside:  # it has no row, either: it stays cold
            why = "some of what it had read is damaged"
            if session.is_aside:
                why = "to read again what it had read has ended the process, twice"
            self._restorer.set_aside(slot, why)
        else:
            self._restorer.keep(slot, session)

    def expect(self, arithmetics: Arithmetics, folding: Folding) -> None:
        """Say under which arithmetics the journal's steps were run, and where folds are noted."""
        if self._restorer is not None:
            self._restorer.arithmetics, self._restorer.folding = arithmetics, folding

    def has(self, slot: int) -> bool:
        """Whether the state of a session is in the store alone."""
        return self._restorer is not None and slot in self._restorer.cold

    def are_in(self, slots: Ints) -> Mask:
        """The states of which sessions are in the store alone, (rows,)."""
        if self._restorer is None or not self._restorer.cold:
            return np.zeros(len(slots), np.bool_)
        cold = self._restorer.cold
        return np.array([slot in cold for slot in slots.tolist()], np.bool_)

    @property
    def cold(self) -> int:
        """Sessions whose state is in the store alone."""
        return 0 if self._restorer is None else len(self._restorer.cold)

    def stow(self, slot: int, row: SessionRow) -> None:
        """All that an idle session is, is in the store: its checkpoint, and what it is told by."""
        assert self._restorer is not None, "there is a log"
        position = self._table.position.item(slot)
        is_stowed = row.seed > 0  # else it begins with what it was opened with
        self._restorer.keep(slot, StoredSession(row=row, position=position, is_stowed=is_stowed))

    @property
    def is_thawing(self) -> bool:
        """Whether some of these are on their way."""
        return self._restorer is not None and self._restorer.is_busy

    @property
    def restored(self) -> int:
        """How often a session was brought back."""
        return 0 if self._restorer is None else self._restorer.restored

    @property
    def not_restored(self) -> int:
        """Sessions whose state could not be brought back; they are lost."""
        return 0 if self._restorer is None else len(self._restorer.failed)

    def left(self) -> list[int]:
        """Slots of the sessions whose state is in the store alone, those to be read on first."""
        if self._restorer is None:
            return []
        found = self._restorer.cold
        return sorted(found, key=lambda slot: found[slot].tail is None)

    @property
    def is_behind(self) -> bool:
        """Whether some of them have to read again what came after their checkpoints."""
        return any(map(self.has_tail, self.left()))

    def has_tail(self, slot: int) -> bool:
        """Whether a session in the store has to read again what came after its checkpoint."""
        return self._restorer is not None and self._restorer.has_tail(slot)

    def thaw(self, slots: Ints) -> None:
        """Bring these back, if they are in the store: see `Shard.bring`, which gives them rows."""
        if self._restorer is None:
            return
        try:
            self._restorer.thaw(slots.tolist())
        except Exception as fault:
            self._give_up(fault)

    def stay(self, slots: Ints) -> None:
        """The states of sessions could not come: they are in the store as before."""
        if self._restorer is not None:
            self._restorer.stay(slots.tolist())

    def seated(self, slots: Ints) -> None:
        """Sessions that had to wait for them have rows of the arena now."""
        if self._restorer is not None:
            self._restorer.seated(slots)

    def forget(self, slot: int) -> None:
        """A session has ended, and need not be brought back."""
        if self._restorer is not None:
            self._restorer.forget(slot)

    # -- lost sessions --------------------------------------------------------------------

    def bring_back(self, slots: Ints) -> None:
        """A run has failed: the states that it wrote are in doubt, what they had read is not."""
        if self._lost is not None and self._log is not None and self._log.log.keeps_steps:
            self._lost.bring_back(slots)

    @property
    def brings_back(self) -> bool:
        """Whether there is a log that can."""
        return self._log is not None and self._log.log.keeps_steps

    @property
    def bringing(self) -> asyncio.Task[None] | None:
        """What brings lost sessions back, while there are any."""
        return None if self._lost is None else self._lost.bringing

    # -- into it --------------------------------------------------------------------------

    async def save(self, slots: Ints) -> Saved:
        """Copies of sessions' states, once what these have read is durable.

        Those that are lost, or end meanwhile, are left out.
        """
        assert self._log is not None, "there is a log"
        save = Save(slots=slots, is_checkpoint=True)
        try:
            for delivery in await self._gather(save):
                if delivery.error is not None:
                    save.numbers[delivery.rows] = 0
            if not save.numbers.any():
                return Saved(save)
            await self._log.log.wait(int(self._table.group[slots].max()))
        except BaseException:  # nobody is left to keep them
            self._log.unsave(save)
            raise
        return Saved(save, self.idle_s(slots))

    def unsave(self, saved: Saved) -> None:
        """Copies could not be kept."""
        if self._log is not None:
            self._log.unsave(saved.save)

    def idle_s(self, slots: Ints) -> NDArray[np.float64]:
        """For how long sessions have been idle, (rows,)."""
        idle_s: NDArray[np.float64] = self._clock() - self._table.last_used_s[slots]
        return np.maximum(idle_s, 0.0)
