"""A store, and the one place that decides what its failures mean.

Whatever call finds that the disk has failed, the server ends: what was being written is in doubt,
so nothing is told any more. A full disk and what a store refuses otherwise are for whoever calls.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from service.store.store import Store, StoreFailedError


class WatchedStore:
    """Passes every call on to a store, from any thread.

    Attributes:
        store: which.

    Args:
        failed: called on the event loop when the disk has failed, before whoever called is told of
            it; at once where the event loop called. It may be called more than once.
    """

    def __init__(self, store: Store, failed: Callable[[StoreFailedError], None]) -> None:
        self.store = store
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except StoreFailedError as fault:
            if threading.get_ident() == self._thread:
                self._failed(fault)
            else:
                with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                    self._loop.call_soon_threadsafe(self._failed, fault)
            raise

    def append(self, number: int, group: bytes) -> None:
        """See `Store.append`."""
        with self._watched():
            self.store.append(number, group)

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """See `Store.groups`."""
        with self._watched():
            yield from self.store.groups(first)

    def drop(self, before: int) -> None:
        """See `Store.drop`."""
        with self._watched():
            self.store.drop(before)

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """See `Store.write`."""
        with self._watched():
            self.store.write(puts, deletes)

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See `Store.rows`."""
        with self._watched():
            yield from self.store.rows(prefix)

    def row(self, key: bytes) -> bytes | None:
        """See `Store.row`."""
        with self._watched():
            return self.store.row(key)

    def rows_at(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Store.rows_at`."""
        with self._watched():
            return self.store.rows_at(keys)

    def erase(self) -> None:
        """See `Store.erase`."""
        with self._watched():
            self.store.erase()

    @property
    def journal_bytes(self) -> int:
        """See `Store.journal_bytes`."""
        with self._watched():
            return self.store.journal_bytes

    @property
    def table_bytes(self) -> int:
        """See `Store.table_bytes`."""
        with self._watched():
            return self.store.table_bytes

    def close(self) -> None:
        """See `Store.close`."""
        self.store.close()
