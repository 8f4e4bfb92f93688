"""One LMDB environment that lives through a full disk, and writes nothing more after a failure.

Knows keys and values, nothing of what they are.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import lmdb

from service.store import folder as folders
from service.store.folder import Ballast
from service.store.pages import Allocate, Open, Pages
from service.store.store import StoreError, StoreFailedError, StoreFullError

# What one transaction reads, or copies while others wait.
_BATCH_BYTES = 1 << 20
# How many changes an exchange of the files may leave to the moment when writers wait.
_LAST_CHANGES, _ROUNDS = 64, 8


class Environment:
    """The environment in a folder, which may be used by several threads.

    Once a call has raised ``StoreFailedError``, every later one does, and the disk is left alone.

    Args:
        folder: Where its two files are; made where it is missing.
        map_bytes: The most that values may fill. Takes addresses, not room.
        ballast: Room that deletions and ``spare`` writes may have.
        opened: Opens an environment, as ``lmdb.open`` does.
        allocate: Takes room on the disk, as ``folder.allocate`` does.

    Raises:
        StoreError: LMDB cannot open it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        map_bytes: int,
        ballast: Ballast,
        opened: Open = lmdb.open,
        allocate: Allocate = folders.allocate,
    ) -> None:
        self._folder = folder
        self._map_bytes = map_bytes
        self._ballast = ballast
        self._like = partial(
            Environment, map_bytes=map_bytes, ballast=ballast, opened=opened, allocate=allocate
        )
        self._lock = _FairLock()
        self._erasing = threading.Lock()
        self._changed: set[bytes] | None = None
        self._failed: str | None = None
        self._closed = False
        self._pages = Pages(
            folder, map_bytes=map_bytes, ballast=ballast, opened=opened, allocate=allocate
        )

    # ---- read ----

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that hold something, as of the last write."""
        return self._pages.held_bytes

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, ``None`` where there is none."""
        with self._lock:
            self._check()
            try:
                with self._pages.env.begin() as transaction:
                    value: bytes | None = transaction.get(key)
                    return value
            except lmdb.Error as error:
                raise self._fail(error) from error

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those of some keys that are there."""
        with self._lock:
            self._check()
            try:
                with self._pages.env.begin() as transaction, transaction.cursor() as cursor:
                    return dict(cursor.getmulti(keys))
            except lmdb.Error as error:
                raise self._fail(error) from error

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin so, and their values, ascending.

        No transaction is open between two of them: what is written meanwhile may show, or not.
        """
        at = prefix
        while batch := self._batch(at):
            for key, value in batch:
                if not key.startswith(prefix):
                    return
                yield key, value
            at = batch[-1][0] + b"\0"

    def _batch(self, start: bytes) -> list[tuple[bytes, bytes]]:
        batch = []
        size = 0
        with self._lock:
            self._check()
            try:
                with self._pages.env.begin() as transaction, transaction.cursor() as cursor:
                    if cursor.set_range(start):
                        for key, value in cursor:
                            batch.append((key, value))
                            size += len(value)
                            if size >= _BATCH_BYTES:
                                break
            except lmdb.Error as error:
                raise self._fail(error) from error
        return batch

    # ---- write ----

    def write(
        self,
        puts: Iterable[tuple[bytes, bytes]],
        deletes: Iterable[bytes] = (),
        *,
        ascending: bool = False,
        spare: bool = False,
    ) -> None:
        """Delete and set, all or nothing; durable when this returns.

        Args:
            puts: Keys of 1 to 511 bytes with their values.
            deletes: Keys, which need not be there.
            ascending: The keys put ascend, and follow all that are there: pages are filled.
            spare: May use the ballast.

        Raises:
            StoreFullError: There is no room; nothing has changed.
            StoreFailedError: The disk failed; whether it is written is unknown.
        """
        puts, deletes = list(puts), list(deletes)
        with self._lock:
            self._check()
            try:
                if not self._pages.write(puts, deletes, ascending=ascending, spare=spare):
                    raise self._full()
            except (OSError, lmdb.Error) as error:
                raise self._fail(error) from error
            if self._changed is not None:
                self._changed.update(deletes, (key for key, _ in puts))

    # ---- errors ----

    def _check(self) -> None:
        if self._failed is not None:
            raise StoreFailedError(self._failed)
        if self._closed:
            raise StoreError(f"{self._folder} is closed")

    def _full(self) -> StoreFullError:
        return StoreFullError(
            f"{self._folder} is full: make room on its disk, or let it hold more "
            f"({self._map_bytes >> 20:,} MiB)"
        )

    def _fail(self, error: Exception) -> StoreFailedError:
        self._failed = f"{self._folder} failed ({error}): see to its disk, then start again"
        return StoreFailedError(self._failed)

    # ---- begin with new files ----

    def erase(self) -> None:
        """Write what is kept into new files, so that nothing that was deleted is left in them.

        What is deleted while this runs may be left. Others read and write meanwhile, and wait for
        the last few changes alone. Compaction by LMDB would leave pieces in half full pages.

        Raises:
            StoreFullError: There is no room for the new files; all is as it was.
            StoreError: They cannot be written; all is as it was.
            StoreFailedError: The disk failed.
        """
        with self._erasing:
            with self._lock:
                self._check()
                self._changed = set()
            fresh_folder = self._folder.with_name(f"{self._folder.name}.new")
            fresh: Environment | None = None
            try:
                folders.settle(self._folder)
                fresh = self._like(fresh_folder)
                for batch in self._batches():
                    fresh.write(batch, ascending=True, spare=True)
                for _ in range(_ROUNDS):
                    if self._copy_changes(fresh) <= _LAST_CHANGES:
                        break
                self._exchange(fresh)
            except (OSError, StoreFailedError) as error:
                if self._failed is not None:
                    raise
                raise StoreError(f"{fresh_folder} cannot be written: {error}") from error
            finally:
                self._changed = None
                # By now it has the old pages, unless something went wrong.
                if fresh is not None:
                    fresh.close()
                if self._failed is None:
                    shutil.rmtree(fresh_folder, ignore_errors=True)
            self._ballast.take()

    def _batches(self) -> Iterator[list[tuple[bytes, bytes]]]:
        at = b""
        while batch := self._batch(at):
            yield batch
            at = batch[-1][0] + b"\0"

    def _copy_changes(self, fresh: Environment) -> int:
        """Bring to the new files what has changed since; returns how many changes there were."""
        with self._lock:
            changed, self._changed = self._changed or set(), set()
        keys = sorted(changed)
        for at in range(0, len(keys), _LAST_CHANGES):
            with self._lock:
                self._check()
                now = self._now(keys[at : at + _LAST_CHANGES])
            fresh.write(*now, spare=True)
        return len(keys)

    def _now(self, keys: list[bytes]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """What is to be set, and what to be deleted, so that these keys are as they are here."""
        try:
            with self._pages.env.begin() as transaction:
                values = {key: transaction.get(key) for key in keys}
        except lmdb.Error as error:
            raise self._fail(error) from error
        puts = [(key, value) for key, value in values.items() if value is not None]
        return puts, [key for key, value in values.items() if value is None]

    def _exchange(self, fresh: Environment) -> None:
        with self._lock:
            self._check()
            fresh.write(*self._now(sorted(self._changed or ())), spare=True)
            try:
                folders.exchange(self._folder)
            except OSError as error:
                raise self._fail(error) from error
            self._pages, fresh._pages = fresh._pages, self._pages

    def close(self) -> None:
        """Let go of the files. An ``erase`` that runs is broken off."""
        with self._lock:
            self._closed = True
        with self._erasing, self._lock:
            self._pages.close()


class _FairLock:
    """A lock that goes to who has waited, not to who lets go of it and wants it again at once."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
