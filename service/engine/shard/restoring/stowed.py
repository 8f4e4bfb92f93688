"""The states of stowed sessions, on their way from the store: read off the event loop.

A session that was stowed in this process is, in the table, where it was: its load can be queued at
once, and waits, with all that is asked behind it, until its state is read. That is only once it has
a row of the arena, so that whoever waits for one takes no memory. A thread reads many states at
once; the event loop makes sense of a few of them at a time. Knows nothing of tails.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from service.engine.log.checking import read_of
from service.engine.log.keys import CHECKPOINT, key
from service.engine.log.recovery.stored import StoredSession
from service.engine.log.seeds import Seed
from service.engine.scheduler.holds import Holds
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Ints
from service.engine.work.work import Load
from service.store.records import unpack
from service.store.store import Store, StoreError, StoreFailedError

_READ_AT_ONCE = 256
_PUT_AT_ONCE = 8  # some 0.2 ms: others on the event loop wait for no more
_LOADED_AT_ONCE = 64  # a run of few costs as much as one of these
_PAUSE_S = 0.001  # between them: a step takes several turns of the loop, in none of which one is
_log = structlog.get_logger(__name__)


class _Wanted(NamedTuple):
    """One that comes back, and the ticket that holds its load."""

    slot: int
    session: StoredSession
    load: Load
    row: int  # of that
    ticket: int


class StowedStates:
    """Those of one shard.

    Args:
        store: where they are.
        holds: lets what is queued for slots wait.
        set_aside: is told of a slot whose state cannot be read, and why.
    """

    def __init__(
        self,
        table: SessionTable,
        store: Store,
        holds: Holds,
        *,
        set_aside: Callable[[int, str], None],
    ) -> None:
        self._table = table
        self._store = store
        self._holds = holds
        self._set_aside = set_aside
        self._wanted: dict[int, _Wanted] = {}  # by slot
        self._ready: deque[_Wanted] = deque()  # those that have rows
        self._reading: asyncio.Task[None] | None = None

    def load(self, slots: Ints, sessions: Sequence[StoredSession]) -> Load:
        """What will put them into their slots, (rows,), for the caller to queue at once."""
        table = self._table
        last_steps, contents = table.last_request(slots)
        load = Load(
            slots=slots,
            states=[],
            positions=table.position[slots],
            last_steps=last_steps,
            contents=contents,
            unread=np.ones(len(slots), np.bool_),
        )
        tickets = self._holds.hold_each(slots).tolist()
        columns = zip(slots.tolist(), sessions, tickets, strict=True)
        for index, (slot, session, ticket) in enumerate(columns):
            self._wanted[slot] = _Wanted(slot, session, load, index, ticket)
        self.seated(slots[table.row[slots] >= 0])
        return load

    def seated(self, slots: Ints) -> None:
        """Sessions have rows of the arena now, some of which may have waited for that."""
        if not self._wanted:
            return
        found = (self._wanted.get(slot) for slot in slots.tolist())
        self._ready.extend(wanted for wanted in found if wanted is not None)
        if self._ready and self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())

    def forget(self, slot: int) -> None:
        """A session ends: what is queued for it is refused."""
        wanted = self._wanted.get(slot)
        if wanted is not None:
            self._go_on([wanted])

    def drop(self, slot: int) -> None:
        """What was queued for a session was given up, and is held no longer."""
        self._wanted.pop(slot, None)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._ready:
                count = min(len(self._ready), _READ_AT_ONCE)
                some = self._left([self._ready.popleft() for _ in range(count)])
                keys = [key(CHECKPOINT, own.session.row.number) for own in some]
                try:
                    values = await loop.run_in_executor(None, self._store.rows_at, keys)
                except Exception as fault:
                    for own in self._left(some):
                        self._refuse(own, fault)
                    self._go_on(self._left(some))
                    continue
                await self._put_all(some, values)
        finally:
            self._reading = None

    def _left(self, some: list[_Wanted]) -> list[_Wanted]:
        """Those of some that have not ended meanwhile."""
        return [own for own in some if self._wanted.get(own.slot) is own]

    async def _put_all(self, some: list[_Wanted], values: Sequence[bytes | None]) -> None:
        for start in range(0, len(some), _LOADED_AT_ONCE):
            stop = min(start + _LOADED_AT_ONCE, len(some))
            for first in range(start, stop, _PUT_AT_ONCE):
                if first:
                    await asyncio.sleep(_PAUSE_S)
                part = slice(first, min(first + _PUT_AT_ONCE, stop))
                self._put(some[part], values[part])
            self._go_on(self._left(some[start:stop]))

    def _put(self, some: list[_Wanted], values: Sequence[bytes | None]) -> None:
        for own, value in zip(some, values, strict=True):
            if self._wanted.get(own.slot) is not own:
                continue
            try:
                _fill(own, value)
            except Exception as fault:
                self._refuse(own, fault)

    def _go_on(self, some: list[_Wanted]) -> None:
        if not some:
            return
        for own in some:
            del self._wanted[own.slot]
        slots = np.array([own.slot for own in some], np.int64)
        self._holds.let_go(slots, np.array([own.ticket for own in some], np.int32))

    def _refuse(self, own: _Wanted, fault: Exception) -> None:
        """Its row of the load stays unread, and is refused."""
        table, slot = self._table, own.slot
        if isinstance(fault, StoreFailedError):  # it is not lost: the server ends
            table.lost[slot] = table.restoring[slot] = True
        elif isinstance(fault, StoreError):
            self._set_aside(slot, str(fault))
        else:  # of ours: once more
            _log.error("a state could not be read", exc_info=fault)


def _fill(own: _Wanted, value: bytes | None) -> None:
    """Put what the store has of a session into its row of the load.

    Raises:
        StoreError: that is not there, or not what it should be.
    """
    row, load, index = own.session.row, own.load, own.row
    if value is None:
        raise StoreError("its checkpoint is not in the store")
    with read_of("its checkpoint"):
        seed = Seed.unpack(unpack(value)[0])
        if not load.states:
            shapes = [(len(load.slots), *state.shape) for state in seed.states]
            dtypes = [state.dtype for state in seed.states]
            load.states = [np.empty(*each) for each in zip(shapes, dtypes, strict=True)]
        for whole, state in zip(load.states, seed.states, strict=True):
            if whole.shape[1:] != state.shape:
                raise ValueError("a state of another shape")
            whole[index] = state
    if seed.branch != row.branch or seed.position != load.positions[index]:
        raise StoreError("its checkpoint is of another position than the catalogue says")
    if seed.history is not None:
        load.histories[own.slot] = seed.history
    assert load.unread is not None, "it is read here"
    load.unread[index] = False
