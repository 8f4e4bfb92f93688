"""The embedded store: a journal in segments and a table in LMDB, in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import lmdb

from service.store import folder as folders
from service.store.environment import Environment
from service.store.folder import JOURNAL, TABLE, Ballast, Lock
from service.store.journal.disk import Folder
from service.store.journal.maker import is_unfinished, sequence_of
from service.store.journal.opening import find
from service.store.journal.segments import SEGMENT_BYTES, Journal
from service.store.pages import LONGEST_KEY, Open
from service.store.reading import DATA, look_into
from service.store.store import StoreError

JOURNAL_MOST = 16 << 30
TABLE_MAP = 64 << 30
BALLAST_BYTES = 8 << 20


class LmdbStore:
    """Groups in segments, rows in LMDB, so that neither waits for the other's writes.

    A ``Store``; ``LmdbStore.open`` makes one. Only one process has it at a time. When the disk is
    full, appends are refused, while rows are written and deleted from a ballast, which is taken
    back once there is room.
    """

    def __init__(self, lock: Lock, journal: Journal, table: Environment) -> None:
        self._lock = lock
        self._journal = journal
        self._table = table
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        journal_most: int = JOURNAL_MOST,
        segment_bytes: int = SEGMENT_BYTES,
        table_map: int = TABLE_MAP,
        create: bool = True,
        ballast: int = BALLAST_BYTES,
        opened: Open = lmdb.open,
    ) -> LmdbStore:
        """Open the store in a folder, or make one where nothing is, or an empty folder.

        Args:
            path: The folder; the one that it lies in has to be there.
            journal_most: Bytes that the journal's files may have at most.
            segment_bytes: Of each of them.
            table_map: Bytes that the table may have at most.
            create: Whether to make a store where there is none.
            ballast: Bytes that are kept for when the disk is full.
            opened: Opens the table, as ``lmdb.open`` does.

        Raises:
            StoreError: There is something else, or a store that this Cellar does not know, or one
                that cannot be read, or another process has it, or there is no permission or no
                room. Nothing was written.
        """
        if not (there := folders.is_store(path)):
            if not create:
                raise StoreError(f"there is no store at {path}: name the folder of one")
            look_for_rest(path)
        kept = Ballast(path, ballast)
        folders.check_room(path, kept.missing)
        if not there:
            folders.make_folder(path)
        elif not (path / folders.LOCK).exists():
            # To lock it makes the file; otherwise nothing is written before the next look.
            _look_at(path)
        lock = Lock(path)
        opening: list[Journal | Environment] = []
        try:
            # Another process may have made it, or let go of it, while this one was looking.
            if there := folders.is_store(path):
                _look_at(path)
            lock.sign()
            if there:
                folders.settle(path / TABLE)
            kept.take()
            (path / JOURNAL).mkdir(folders.FOLDER_MODE, exist_ok=True)
            folders.sync_folder(path)
            journal = Journal(
                Folder(path / JOURNAL),
                os.fspath(path / JOURNAL),
                create=not there,
                segment_bytes=segment_bytes,
                most_bytes=journal_most,
                may_use=kept.take,
            )
            opening.append(journal)
            table = Environment(path / TABLE, map_bytes=table_map, ballast=kept, opened=opened)
            opening.append(table)
            if not there:
                folders.write_format(path)
        except BaseException as error:
            for each in opening:
                each.close()
            lock.release()
            if isinstance(error, OSError):
                raise folders.refusal(path, error) from error
            raise
        return cls(lock, journal, table)

    # ---- the journal ----

    def append(self, number: int, group: bytes) -> None:
        """Keep a group; it is durable when this returns. See ``Store``."""
        self._journal.append(number, group)

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """The groups from a number on, ascending; it holds two segments of them at a time.

        Damaged ones come as they are. Where some are missing, the last of them comes empty.
        """
        return self._journal.groups(first)

    def drop(self, before: int) -> None:
        """Forget the groups below a number. Their bytes may stay in the files until ``erase``."""
        self._journal.drop(before)

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

    def rows_at(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows with these keys, in order, of one moment."""
        found = self._table.get_many([key for key in keys if key])
        return [found.get(key) for key in keys]

    # ---- both ----

    @property
    def journal_bytes(self) -> int:
        """Bytes of the groups that are kept, with some KiB of what was dropped before them."""
        return self._journal.held_bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of the pages that hold rows now."""
        return self._table.held_bytes

    def erase(self) -> None:
        """Leave nothing in the files of what was dropped or deleted before, and give room back.

        Writes the table anew, so it wants as much room. May run in any thread, beside reads and
        writes; those of the table wait while its files are exchanged.

        Raises:
            StoreFullError: There is no room for it; no group or row has changed.
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


def _look_at(path: Path) -> None:
    """See whether both sides can be used, writing nothing.

    Raises:
        StoreError: One cannot.
    """
    try:
        find(Folder(path / JOURNAL), os.fspath(path / JOURNAL))
    except OSError as error:
        raise folders.refusal(path / JOURNAL, error) from error
    # Only its successor is there where a crash cut an exchange short.
    folder = path / TABLE if (path / TABLE).exists() else path / f"{TABLE}.new"
    try:
        look_into(folder)
    except FileNotFoundError:
        raise StoreError(f"{folder} has no file {DATA}: restore the store from a backup") from None


def look_for_rest(path: Path) -> None:
    """Refuse a store whose file ``format`` was lost: making a store that was cut short left none.

    Raises:
        StoreError: There are groups or rows.
    """
    data, journal = path / TABLE / DATA, path / JOURNAL
    found = bool(data.exists() and data.stat().st_size and look_into(path / TABLE))
    if journal.is_dir():
        names = [name for name in os.listdir(journal) if not is_unfinished(name)]
        if any(sequence_of(name) is None for name in names):
            found = True
        elif names:
            found |= bool(find(Folder(journal), os.fspath(journal)).kept)
    if found:
        raise StoreError(
            f"{path} holds a store without its file '{folders.FORMAT}': "
            "restore that from a backup, or name another path"
        )
