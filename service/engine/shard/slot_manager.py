"""Which session lives in which slot, and when a slot is free for the next one.

A slot is handed on only once nothing is queued for it: a step of one session can then never
reach another. Knows nothing of models or requests.
"""

from collections.abc import Callable

from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.slots import SlotAllocator
from service.engine.sessions.table import Session, SessionTable
from service.engine.work.work import Fork, Ints
from service.errors import SessionClosedError


class Residents:
    """The sessions of one shard.

    Args:
        slots: the slots of sessions.
        spares: the slots that forks borrow.
        table: where each session stands.
        scheduler: what is queued for each slot.
        forget: called with a slot whose session is gone for good.
        wake: tells that work may run that could not before.
    """

    def __init__(
        self,
        slots: SlotAllocator,
        spares: SlotAllocator,
        table: SessionTable,
        scheduler: Scheduler,
        *,
        forget: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        self._slots = slots
        self._spares = spares
        self._table = table
        self._scheduler = scheduler
        self._forget = forget
        self._wake = wake
        self._sessions: list[Session | None] = []  # by slot; as long as slots were handed out
        self._leaving: set[int] = set()  # slots to free once nothing is queued for them

    def begin(
        self, session: Session, *, opened_s: float, now_s: float, idle_timeout_s: float
    ) -> None:
        """Start a session in the slot it was given."""
        slot = session.slot
        if slot == len(self._sessions):  # slots are handed out in order the first time
            self._sessions.append(session)
        else:
            self._sessions[slot] = session
        self._table.open(slot, opened_s=opened_s, now_s=now_s, idle_timeout_s=idle_timeout_s)

    def end(self, slot: int) -> None:
        """End the session of a slot; its queued steps are refused, then the slot is free."""
        self._sessions[slot] = None
        self._table.close(slot)
        for work in self._scheduler.waiting_for_spares(slot):
            work.cancelled = True
            work.failure = SessionClosedError("the session was closed before the steps ran")
        self._leave(slot)
        self._wake()

    def at(self, slot: int, generation: int) -> Session | None:
        """The session of a slot, if the slot has not changed hands since that generation."""
        return self._sessions[slot] if self._slots.generation[slot] == generation else None

    def idle(self, now_s: float, *, at_most: int) -> list[Session]:
        """Sessions that have been idle for longer than their timeout."""
        return [
            session
            for slot in self._table.idle(now_s)[:at_most].tolist()
            if self._scheduler.is_idle(slot) and (session := self._sessions[slot]) is not None
        ]

    def return_spares(self, fork: Fork) -> None:
        """Give back the spare slots of a fork, each once nothing is queued for it."""
        for spare in fork.spares.tolist():
            self._leave(spare)
        fork.spares = fork.spares[:0]
        self._wake()  # another fork may wait for them

    def finished(self, slots: Ints) -> None:
        """Rows of these slots have run or were refused: free those that were waiting for it."""
        if self._leaving:
            for slot in self._leaving.intersection(slots.tolist()):
                if self._scheduler.is_idle(slot):
                    self._leaving.discard(slot)
                    self._free(slot)

    def _leave(self, slot: int) -> None:
        if self._scheduler.is_idle(slot):
            self._free(slot)
        else:
            self._leaving.add(slot)

    def _free(self, slot: int) -> None:
        if slot < self._slots.capacity:
            self._forget(slot)
            self._slots.release(slot)
        else:
            self._spares.release(slot)
            self._wake()
