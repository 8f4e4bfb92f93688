"""A store in memory that knows what would have survived a crash."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Self

from service.store.store import StoreError, StoreFailedError, StoreFullError

LAST_NUMBER = 2**64 - 1
LONGEST_KEY = 511


class FakeStore:
    """Keeps groups and rows, and apart from them what has reached the disk.

    Set its attributes at any time, from any thread:

    Attributes:
        full: Appends find no room, and the table takes deletes alone, as a real store's ballast
            allows.
        fails_at: The n-th append or write from now (1: the next) fails in doubt, and so does every
            later call on that side.
        gate: While it is there and not set, an append or a write waits before it is durable.
        delay_s: How long an append or a write takes.
        lies: Appends return before they are durable, which a store must never do; ``sync`` makes
            them so.
        appends: How often a group was appended.
        writes: How often rows were written.
        erasures: How often what was dropped was erased.
    """

    def __init__(self) -> None:
        self.full = False
        self.fails_at: int | None = None
        self.gate: threading.Event | None = None
        self.delay_s = 0.0
        self.lies = False
        self.appends = 0
        self.writes = 0
        self.erasures = 0
        self._lock = threading.Lock()
        self._failed: dict[str, str] = {}
        self._closed = False
        self._groups: dict[int, bytes] = {}
        self._rows: dict[bytes, bytes] = {}
        self._last = -1
        # What a crash leaves, and what a crash may leave beside it.
        self._durable_groups: dict[int, bytes] = {}
        self._durable_rows: dict[bytes, bytes] = {}
        self._pending_groups: list[tuple[int, bytes]] = []
        self._pending_rows: tuple[dict[bytes, bytes], list[bytes]] | None = None

    # ---- what a store does ----

    def append(self, number: int, group: bytes) -> None:
        if not self._last < number <= LAST_NUMBER:
            raise ValueError(f"group {number} does not follow group {self._last}")
        with self._lock:
            self._check("journal")
            if self.full:
                raise StoreFullError("the fake store is full")
            self.appends += 1
            self._pending_groups.append((number, bytes(group)))
            fails = self._is_the_one_to_fail()
        self._wait()
        with self._lock:
            self._check("journal")
            if fails:
                raise self._fail("journal")
            self._groups[number] = bytes(group)
            self._last = number
            if not self.lies:
                self._sync_journal()

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        with self._lock:
            self._check("journal")
            kept = sorted(self._groups.items())
        yield from (each for each in kept if each[0] >= first)

    def drop(self, before: int) -> None:
        # Not durable before the next append: a crash brings dropped groups back.
        with self._lock:
            self._check("journal")
            for number in [number for number in self._groups if number < before]:
                del self._groups[number]

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        rows, gone = {bytes(k): bytes(v) for k, v in puts.items()}, list(deletes)
        for key in (*rows, *gone):
            if not 0 < len(key) <= LONGEST_KEY:
                raise ValueError(f"a key has 1 to {LONGEST_KEY} bytes, not {len(key)}")
        with self._lock:
            self._check("table")
            if self.full and rows:
                raise StoreFullError("the fake store is full")
            self.writes += 1
            self._pending_rows = (rows, gone)
            fails = self._is_the_one_to_fail()
        self._wait()
        with self._lock:
            self._check("table")
            if fails:
                raise self._fail("table")
            _apply(self._rows, self._pending_rows)
            _apply(self._durable_rows, self._pending_rows)
            self._pending_rows = None

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            self._check("table")
            kept = sorted(self._rows.items())
        yield from (each for each in kept if each[0].startswith(prefix))

    def row(self, key: bytes) -> bytes | None:
        with self._lock:
            self._check("table")
            return self._rows.get(key)

    def rows_at(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.row(key) for key in keys]

    def erase(self) -> None:
        with self._lock:
            self._check("journal")
            self._check("table")
            self.erasures += 1
            for number in [number for number in self._durable_groups if number not in self._groups]:
                del self._durable_groups[number]

    @property
    def journal_bytes(self) -> int:
        return sum(map(len, list(self._groups.values())))

    @property
    def table_bytes(self) -> int:
        return sum(map(len, list(self._rows.values())))

    def close(self) -> None:
        self._closed = True

    # ---- what happens to it ----

    def crash(self, dice: Random | None = None) -> Self:
        """End the process that has this store; returns the store as the next process finds it.

        Every later call on this one fails, one that waits in it as well. Without ``dice`` only
        what was durable is there, and what was dropped since the last append is there again. With
        ``dice`` any beginning of the groups that were not durable yet may be there too, the rows
        being written may be there or not, and any end of what was dropped.
        """
        with self._lock:
            left = type(self)()
            left._groups = dict(self._durable_groups)
            left._rows = dict(self._durable_rows)
            if dice is not None:
                dropped = [number for number in sorted(left._groups) if number not in self._groups]
                for number in dropped[: dice.randint(0, len(dropped))]:
                    del left._groups[number]
                some = dice.randint(0, len(self._pending_groups))
                left._groups.update(self._pending_groups[:some])
                if self._pending_rows is not None and dice.random() < 0.5:
                    _apply(left._rows, self._pending_rows)
            left._durable_groups = dict(left._groups)
            left._durable_rows = dict(left._rows)
            left._last = max(left._groups, default=-1)
            self._failed = dict.fromkeys(("journal", "table"), "the process has crashed")
            return left

    def sync(self) -> None:
        """Make durable what was appended while the store lied."""
        with self._lock:
            self._sync_journal()

    @property
    def durable_groups(self) -> dict[int, bytes]:
        """The groups that would survive now, by number."""
        with self._lock:
            return dict(self._durable_groups)

    # ---- within ----

    def _check(self, side: str) -> None:
        if self._closed:
            raise StoreError("the store is closed")
        if side in self._failed:
            raise StoreFailedError(self._failed[side])

    def _is_the_one_to_fail(self) -> bool:
        if self.fails_at is None:
            return False
        self.fails_at -= 1
        if self.fails_at:
            return False
        self.fails_at = None
        return True

    def _fail(self, side: str) -> StoreFailedError:
        # What was being written stays pending: a crash may leave it, or not.
        self._failed[side] = f"the {side} of the fake store failed"
        return StoreFailedError(self._failed[side])

    def _wait(self) -> None:
        gate = self.gate
        if gate is not None:
            gate.wait()
        if self.delay_s:
            # An event nobody sets: a plain sleep that no test replaces.
            threading.Event().wait(self.delay_s)

    def _sync_journal(self) -> None:
        self._pending_groups.clear()
        self._durable_groups = dict(self._groups)


def _apply(rows: dict[bytes, bytes], change: tuple[dict[bytes, bytes], list[bytes]] | None) -> None:
    assert change is not None
    puts, deletes = change
    for key in deletes:
        rows.pop(key, None)
    rows.update(puts)
