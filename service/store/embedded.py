"""The embedded store: two LMDB environments in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import lmdb

from service.store import folder as folders
from service.store.environment import Environment
from service.store.folder import JOURNAL, TABLE, Ballast, Lock
from service.store.pages import LONGEST_KEY, Open
from service.store.reading import DATA, look_into
from service.store.store import StoreError

LAST_NUMBER = 2**64 - 1

JOURNAL_MAP = 16 << 30
TABLE_MAP = 64 << 30
_BALLAST = 8 << 20


class LmdbStore:
    """Groups in one environment, rows in the other, so that neither waits for the other's writes.

    A ``Store``; ``LmdbStore.open`` makes one. Only one process has it at a time. When the disk is
    full, appends are refused, while rows are written and deleted from a ballast, which is taken
    back once there is room.
    """

    def __init__(
        self, path: Path, lock: Lock, journal: Environment, table: Environment, last: int
    ) -> None:
        self._path = path
        self._lock = lock
        self._journal = journal
        self._table = table
        self._last = last
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        journal_map: int = JOURNAL_MAP,
        table_map: int = TABLE_MAP,
        create: bool = True,
        ballast: int = _BALLAST,
        opened: Open = lmdb.open,
    ) -> LmdbStore:
        """Open the store in a folder, or make one where nothing is, or an empty folder.

        Args:
            path: The folder; the one that it lies in has to be there.
            journal_map: Bytes that the journal may have at most; it takes addresses, not room.
            table_map: Bytes that the table may have at most.
            create: Whether to make a store where there is none.
            ballast: Bytes that are kept for when the disk is full.
            opened: Opens an environment, as ``lmdb.open`` does.

        Raises:
            StoreError: There is something else, or a store that this Cellar does not know, or one
                that cannot be read, or another process has it, or there is no permission or no
                room. Nothing was written.
        """
        if not (there := folders.is_store(path)):
            if not create:
                raise StoreError(f"there is no store at {path}: name the folder of one")
            _look_for_rest(path)
        kept = Ballast(path, ballast)
        folders.check_room(path, kept.missing)
        if not there:
            folders.make_folder(path)
        elif not (path / folders.LOCK).exists():
            # To lock it makes the file; otherwise nothing is written before the next look.
            _look_at_environments(path)
        lock = Lock(path)
        opening: list[Environment] = []
        try:
            # Another process may have made it, or let go of it, while this one was looking.
            if there := folders.is_store(path):
                _look_at_environments(path)
            lock.sign()
            for name in (JOURNAL, TABLE) if there else ():
                folders.settle(path / name)
            kept.take()
            for name, size in ((JOURNAL, journal_map), (TABLE, table_map)):
                each = Environment(path / name, map_bytes=size, ballast=kept, opened=opened)
                opening.append(each)
            journal, table = opening
            if not there:
                folders.write_format(path)
            last = journal.last()
        except BaseException as error:
            for environment in opening:
                environment.close()
            lock.release()
            if isinstance(error, OSError):
                raise folders.refusal(path, error) from error
            raise
        return cls(path, lock, journal, table, -1 if last is None else int.from_bytes(last))

    # ---- the journal ----

    def append(self, number: int, group: bytes) -> None:
        """Keep a group; it is durable when this returns. See ``Store``."""
        if not self._last < number <= LAST_NUMBER:
            raise ValueError(f"group {number} does not follow group {self._last}")
        self._journal.write([(_key(number), group)], ascending=True)
        self._last = number

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """The groups from a number on, ascending; it holds some MiB of them at a time."""
        for key, group in self._journal.items(_key(first)):
            yield int.from_bytes(key), group

    def drop(self, before: int) -> None:
        """Forget the groups below a number. Their bytes may stay in the file until ``erase``."""
        self._journal.delete_below(_key(before))

    # ---- the table ----

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Set and delete rows, all of them or none; durable when this returns. See ``Store``."""
        deletes = list(deletes)
        for key in (*puts, *deletes):
            if not 0 < len(key) <= LONGEST_KEY:
                raise ValueError(f"a key has 1 to {LONGEST_KEY} bytes, not {len(key)}")
        self._table.write(sorted(puts.items()), deletes, spare=True)

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin so, ascending; it holds some MiB of them at a time."""
        return self._table.items(prefix=prefix)

    def row(self, key: bytes) -> bytes | None:
        """The row with that key, ``None`` where there is none."""
        return self._table.get(key) if key else None

    # ---- both ----

    @property
    def journal_bytes(self) -> int:
        """Bytes of the pages that hold groups now."""
        return self._journal.held_bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of the pages that hold rows now."""
        return self._table.held_bytes

    def erase(self) -> None:
        """Leave nothing in the files of what was dropped or deleted before, and give room back.

        Writes all that is kept anew, so it wants that much room. May run in any thread, beside
        reads and writes, which wait only while the files are exchanged.

        Raises:
            StoreFullError: There is no room for it; the store is as it was.
            StoreError: It cannot be done; the store is as it was.
            StoreFailedError: The disk failed.
        """
        self._journal.erase()
        self._table.erase()

    # To compact is to erase: LMDB's own compaction leaves pieces of what was deleted.
    compact = erase

    def close(self) -> None:
        """Let go of the store. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._journal.close()
        self._table.close()
        self._lock.release()


def _key(number: int) -> bytes:
    return min(max(number, 0), LAST_NUMBER).to_bytes(8)


def _look_at_environments(path: Path) -> None:
    for name in (JOURNAL, TABLE):
        # Only its successor is there where a crash cut an exchange short.
        folder = path / name if (path / name).exists() else path / f"{name}.new"
        try:
            look_into(folder)
        except FileNotFoundError:
            raise StoreError(
                f"{folder} has no file {DATA}: restore the store from a backup"
            ) from None


def _look_for_rest(path: Path) -> None:
    """Refuse a store whose file ``format`` was lost: making a store that was cut short left none.

    Raises:
        StoreError: There are groups or rows.
    """
    for name in (JOURNAL, TABLE):
        data = path / name / DATA
        if data.exists() and data.stat().st_size and look_into(path / name):
            raise StoreError(
                f"{path} holds a store without its file '{folders.FORMAT}': "
                "restore that from a backup, or name another path"
            )
