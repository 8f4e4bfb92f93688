"""The pages of one LMDB environment, and the room that they have on the disk.

LMDB shall not meet the end of a disk by itself: a write that is cut short there is an input/output
error to it, as if the disk were broken. So room is taken ahead of it, and its map ends where the
room does: LMDB then says in time that its map is full.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb

from service.store import folder as folders
from service.store.folder import FILE_MODE, FOLDER_MODE, NO_ROOM, Ballast
from service.store.reading import DATA, unreadable

LONGEST_KEY = 511

Open = Callable[..., Any]
Allocate = Callable[[int, int, int], None]

# Behind what values may fill: deletions want pages first, and free some only afterwards.
_RESERVE = 2 << 20
_META_PAGES = 2
_ANY_KEY = b"\xff" * LONGEST_KEY
_CANNOT = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV))
# What is taken at a time.
_STEP, _LEAST_STEP = 8 << 20, 1 << 20


class _DiskFullError(Exception):
    """LMDB met the end of the disk after all, and nothing has changed."""


class Pages:
    """An open environment, whose calls come from one thread at a time.

    All calls raise what LMDB and the system raise; what that means is for others to say.

    Args:
        folder: Where its two files are; made where it is missing.
        map_bytes: The most that values may fill. Takes addresses, not room.
        ballast: Room that deletions and ``spare`` writes may have.
        opened: Opens an environment, as ``lmdb.open`` does.
        allocate: Takes room on the disk, as ``folder.allocate`` does.

    Raises:
        StoreError: It cannot be opened.
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
        most = map_bytes + _RESERVE
        try:
            folder.mkdir(FOLDER_MODE, exist_ok=True)
            self.env = opened(os.fspath(folder), map_size=most, mode=FILE_MODE)
        except OSError as error:
            raise folders.refusal(folder, error) from error
        except lmdb.Error as error:
            raise unreadable(folder, error) from error
        self._file = -1
        try:
            self._file = os.open(folder / DATA, os.O_RDWR | os.O_CLOEXEC)
            folders.sync_folder(folder)
            self._room = Room(self._file, most, ballast, allocate)
            self._page = int(self.env.stat()["psize"])
            self.held_bytes = self._filled_bytes = self._last_transaction = 0
            self._measure()
            self._set_limit()
            # Slots of readers that died would keep pages from being used again.
            self.env.reader_check()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise folders.refusal(folder, error) from error
            raise

    def close(self) -> None:
        """Let go of the files."""
        self.env.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # ---- write ----

    def write(
        self,
        puts: list[tuple[bytes, bytes]],
        deletes: list[bytes],
        *,
        ascending: bool,
        spare: bool,
    ) -> bool:
        """Delete and set, all or nothing.

        Returns:
            Whether there was room; where there was none, nothing has changed.

        Raises:
            lmdb.Error: Whether it is written is unknown.
            OSError: No room could be taken, for another reason than that there is none.
        """
        wanted = sum(len(value) + 2 * self._page for _, value in puts)
        if puts and not self._keep_reserve(spare=spare):
            return False
        may_turn = bool(puts)
        try:
            while not self._commit(puts, deletes, ascending=ascending):
                if self._grow(wanted, spare=spare, deleting=not puts):
                    continue
                if not may_turn or self._free_bytes < wanted:
                    return False
                may_turn = False
                self._turn()
        except _DiskFullError:
            return False
        return True

    def _commit(
        self, puts: list[tuple[bytes, bytes]], deletes: list[bytes], *, ascending: bool
    ) -> bool:
        """Write; returns whether the map had room."""
        transaction = None
        try:
            transaction = self.env.begin(write=True)
            for key in deletes:
                transaction.delete(key)
            for key, value in puts:
                transaction.put(key, value, append=ascending)
            transaction.commit()
        except BaseException as error:
            if transaction is not None:
                # It has ended already where it was the commit that failed.
                with suppress(lmdb.Error):
                    transaction.abort()
            if isinstance(error, lmdb.Error) and _is_no_room(error) and self._is_as_it_was():
                if isinstance(error, lmdb.MapFullError):
                    return False
                raise _DiskFullError from error
            raise
        self._measure()
        return True

    def _is_as_it_was(self) -> bool:
        """Whether nothing was committed, and LMDB itself is ready for more."""
        try:
            # Refused where the page that says what is committed is in doubt (MDB_PANIC).
            self.env.begin(write=True).abort()
            return bool(self.env.info()["last_txnid"] == self._last_transaction)
        except lmdb.Error:
            return False

    def _turn(self) -> None:
        """Commit, and change nothing: LMDB uses what was freed from the second commit after on."""
        self.env.reader_check()
        self._set_limit(whole=True)
        try:
            with self.env.begin(write=True) as transaction:
                if transaction.put(_ANY_KEY, b"", overwrite=False):
                    transaction.delete(_ANY_KEY)
        except lmdb.Error as error:
            if not _is_no_room(error) or not self._is_as_it_was():
                raise
        self._measure()
        self._set_limit()

    def _measure(self) -> None:
        stat, info = self.env.stat(), self.env.info()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        self.held_bytes = pages * self._page
        self._filled_bytes = (info["last_pgno"] + 1) * self._page
        self._last_transaction = info["last_txnid"]

    # ---- room ----

    @property
    def _free_bytes(self) -> int:
        """Bytes within the file that hold nothing, but perhaps the list of what is free."""
        return self._filled_bytes - self.held_bytes - _META_PAGES * self._page

    def _set_limit(self, *, whole: bool = False) -> None:
        """Let LMDB fill the room there is, the whole of it or all but the reserve."""
        self._is_widened = whole
        limit = self._room.end - (0 if whole else _RESERVE)
        # Never less than what is filled, LMDB sees to that.
        self.env.set_mapsize(max(limit // self._page, _META_PAGES) * self._page)

    def _grow(self, wanted: int, *, spare: bool, deleting: bool) -> bool:
        if deleting and not self._is_widened:
            self._set_limit(whole=True)
            return True
        grown = self._room.grow(wanted, spare=spare)
        if grown:
            self._set_limit(whole=deleting)
        return grown

    def _keep_reserve(self, *, spare: bool) -> bool:
        """Where deletions went into the reserve, leave them as many pages of those they freed."""
        if self._is_widened:
            self._set_limit()
        in_use = self._filled_bytes - (self._room.end - _RESERVE)
        if in_use <= max(self._free_bytes, 0):
            return True
        return self._grow(in_use, spare=spare, deleting=False)


class Room:
    """The room that a file has on the disk, taken some steps ahead of what it fills.

    Args:
        file: The file's descriptor, which stays the caller's.
        most: Bytes that it may ever fill.
        ballast: Kept back for those who must have room.
        allocate: Takes room, as ``folder.allocate`` does.
    """

    def __init__(
        self,
        file: int,
        most: int,
        ballast: Ballast,
        allocate: Allocate,
    ) -> None:
        self._file = file
        self._most = most
        self._ballast = ballast
        self._allocate = allocate
        self.end = os.fstat(file).st_size

    def grow(self, wanted: int, *, spare: bool) -> bool:
        """Take more room.

        Args:
            wanted: Bytes, at the least.
            spare: May use the ballast.

        Returns:
            Whether there was some, unless the file has reached the most it may fill.

        Raises:
            OSError: It is something else than room that is missing.
        """
        if self.end >= self._most:
            return False
        # Room that was given up in need is not for those who may do without.
        if (spare or self._ballast.take()) and self._reach(wanted):
            return True
        return spare and self._ballast.give_up() and self._reach(wanted)

    def _reach(self, wanted: int) -> bool:
        for step in (_STEP, _LEAST_STEP):
            end = min(self.end + max(wanted, step), self._most)
            try:
                self._allocate(self._file, self.end, end - self.end)
            except OSError as error:
                if error.errno in NO_ROOM:
                    continue
                if error.errno not in _CANNOT:
                    raise
                # Not on this file system: LMDB will say itself when it is full.
                end = self._most
            self.end = end
            return True
        return False


def _is_no_room(error: lmdb.Error) -> bool:
    if isinstance(error, lmdb.MapFullError | lmdb.TxnFullError | lmdb.DiskError):
        return True
    return getattr(error, "code", 0) in NO_ROOM
