"""Which sessions are being read again, noted in the store: one that ends the process is found.

Sessions are noted before they are folded, many at a time. What was under way when the process ended
is folded alone from then on, one such session after the other; one that was under way alone in two
ends is set aside. Knows nothing of how sessions are folded.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.log.checking import read_of
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.keys import META
from service.store.records import Section, pack, unpack
from service.store.store import Store, StoreError

FOLDING = META + b"folding"
"""The key of the row that says it."""
_MOST_ENDS = 2  # of the process, while a session was folded alone
_log = structlog.get_logger(__name__)


class _State(IntEnum):
    WAITS = 0
    TOGETHER = 1  # it is folded, and so may others be
    ALONE = 2  # it is folded, and no other suspect is


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noted:
    """What is noted of a session.

    Attributes:
        branch: the session's.
        ends: of the process while it was folded alone.
        state: what goes on.
    """

    branch: int
    ends: int = 0
    state: _State = _State.WAITS


class Folding:
    """The sessions of one store that are being folded, or whose folds ended the process.

    All calls come from the event loop.

    Args:
        store: is read at once.
        write: writes or deletes a row of the table.
    """

    def __init__(
        self, store: Store, write: Callable[[bytes, bytes | None], Awaitable[Any]]
    ) -> None:
        self._write_row = write
        value = store.row(FOLDING)
        with read_of("its note of what was being read again"):
            self._suspects = {} if value is None else _read(unpack(value)[0])  # not under way
        self._is_there = value is not None
        self._under_way: dict[int, _Noted] = {}
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  # suspects
        self._going: list[Callable[[], None]] = []  # once what is known now is written
        self._is_stale = False
        self._writing: asyncio.Task[None] | None = None

    def compare(self, rows: Iterable[SessionRow]) -> set[int]:
        """Forget what is no suspect any more; returns the numbers of those to be set aside."""
        if not self._suspects:
            return set()
        branches = {row.number: row.branch for row in rows}
        self._suspects = {
            number: noted
            for number, noted in self._suspects.items()
            if branches.get(number) == noted.branch
        }
        return {number for number, own in self._suspects.items() if own.ends >= _MOST_ENDS}

    def is_suspect(self, row: SessionRow) -> bool:
        """Whether a session is to be folded alone."""
        noted = self._suspects.get(row.number)
        return noted is not None and noted.branch == row.branch

    def begin(self, rows: Iterable[SessionRow], go: Callable[[], None]) -> None:
        """Note some sessions, and call ``go`` once that is durable: they may be folded then.

        A suspect comes alone, and waits for its turn.
        """
        rows = list(rows)
        if len(rows) == 1 and self.is_suspect(rows[0]):
            self._waiting.append((rows[0].number, go))
            self._next_suspect()
            return
        for row in rows:
            self._under_way[row.number] = _Noted(branch=row.branch, state=_State.TOGETHER)
        self._going.append(go)
        self._note()

    def end(self, number: int) -> None:
        """A session has been folded, or could not be."""
        self._waiting = deque(own for own in self._waiting if own[0] != number)
        if self._under_way.pop(number, None) is not None:
            self._note()
            self._next_suspect()

    def forget(self, number: int) -> None:
        """A session has ended."""
        self.end(number)
        if self._suspects.pop(number, None) is not None:
            self._note()

    async def settle(self) -> None:
        """Let the store say how it is now."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))
        if self._suspects or self._under_way or self._is_there:
            await self._write()

    def _next_suspect(self) -> None:
        if not self._waiting or any(own.state is _State.ALONE for own in self._under_way.values()):
            return
        number, go = self._waiting.popleft()
        self._under_way[number] = replace(self._suspects.pop(number), state=_State.ALONE)
        self._going.append(go)
        self._note()

    def _note(self) -> None:
        self._is_stale = True
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._is_stale:
                self._is_stale = False
                going, self._going = self._going, []
                try:
                    await self._write()
                except (StoreError, RuntimeError) as error:  # the latter: it is closed
                    # They are folded all the same: no more than that is known of them.
                    _log.error("what is folded could not be noted", reason=str(error))
                for go in going:
                    go()
        finally:
            self._writing = None

    async def _write(self) -> None:
        known = {**self._suspects, **self._under_way}
        self._is_there = bool(known)
        await self._write_row(FOLDING, pack([_section(known)]) if known else None)


def _section(known: dict[int, _Noted]) -> Section:
    noted = known.values()
    columns: dict[str, NDArray[Any]] = {
        "session": np.array(list(known), np.int64),
        "branch": np.array([own.branch for own in noted], np.uint64),
        "ends": np.array([own.ends for own in noted], np.int64),
        "state": np.array([own.state for own in noted], np.uint8),
    }
    return Section("folding", {}, columns)


def _read(section: Section) -> dict[int, _Noted]:
    """What was noted when the process ended: one end more of what was under way alone."""
    names = ("session", "branch", "ends", "state")
    numbers, branches, ends, states = (section.columns[name].tolist() for name in names)
    only = [state for state in states if state != _State.WAITS] == [_State.TOGETHER]
    ended = {_State.ALONE, _State.TOGETHER} if only else {_State.ALONE}
    return {
        number: _Noted(branch=branch, ends=count + (state in ended))
        for number, branch, count, state in zip(numbers, branches, ends, states, strict=True)
    }
