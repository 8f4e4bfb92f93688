"""What LMDB has in a folder, read without writing, also beside a server that goes on writing."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import lmdb

from service.store import folder as folders
from service.store.store import StoreError

DATA = "data.mdb"

_LOCK = "lock.mdb"
_TRIES, _PAUSE_S = 50, 0.02


class Snapshot:
    """An environment as it was when this was made, whatever is written meanwhile.

    While it is open the writer reuses no pages, so that its file may grow.

    Raises:
        StoreError: LMDB cannot read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env, self._transaction = _open(folder)
        stat = self._transaction.stat(self._env.open_db(txn=self._transaction))
        self.entries = stat["entries"]
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        self.held_bytes = pages * stat["psize"]

    def ends(self) -> Iterator[bytes]:
        """The first key and the last one, nothing where there is none."""
        with self._transaction.cursor() as cursor:
            if cursor.first():
                yield cursor.key()
            if cursor.last():
                yield cursor.key()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, ascending."""
        try:
            with self._transaction.cursor() as cursor:
                yield from cursor
        except lmdb.Error as error:
            raise unreadable(self._folder, error) from error

    def close(self) -> None:
        """Let go of it."""
        self._transaction.abort()
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(folder: Path) -> tuple[lmdb.Environment, lmdb.Transaction[bytes]]:
    """Open what is there, whatever its server does meanwhile: it may exchange the whole folder."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, lmdb.MapResizedError):
            before = folder.stat().st_ino
            try:
                look_into(folder)
                env, transaction = _begin(folder)
            except StoreError:
                if folder.stat().st_ino == before:
                    raise
                continue
            if folder.stat().st_ino == before:
                return env, transaction
            # Its two files may not belong together.
            transaction.abort()
            env.close()
        # It is away for a moment, or has just grown.
        time.sleep(_PAUSE_S)
    raise StoreError(f"{folder} is missing: restore it from a backup")


def _begin(folder: Path) -> tuple[lmdb.Environment, lmdb.Transaction[bytes]]:
    # With its own lock file, if somebody may be writing: LMDB then keeps what is read here.
    locked = (folder / _LOCK).exists()
    try:
        env = lmdb.open(os.fspath(folder), map_size=0, readonly=True, create=False, lock=locked)
        try:
            return env, env.begin()
        except BaseException:
            env.close()
            raise
    except lmdb.MapResizedError:
        raise
    except lmdb.Error as error:
        raise _said_by(error, folder) from error


def _said_by(error: lmdb.Error, folder: Path) -> Exception:
    if getattr(error, "code", 0) == errno.ENOENT:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
    return unreadable(folder, error)


def look_into(folder: Path) -> int:
    """See whether LMDB can open what is there, writing nothing; returns how much is in it.

    Raises:
        StoreError: It cannot.
        FileNotFoundError: It is not there.
    """
    data = folder / DATA
    try:
        if not data.stat().st_size:
            raise StoreError(f"{data} is empty: restore the store from a backup")
        env = lmdb.open(os.fspath(folder), map_size=0, readonly=True, lock=False, create=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise folders.refusal(data, error) from error
    except lmdb.Error as error:
        raise _said_by(error, folder) from error
    try:
        stat = env.stat()
        filled = (env.info()["last_pgno"] + 1) * stat["psize"]
        # Only now: it may grow.
        if data.stat().st_size < filled:
            raise StoreError(f"{data} has been cut short: restore the store from a backup")
        return stat["entries"]
    finally:
        env.close()


def unreadable(folder: Path, error: lmdb.Error) -> StoreError:
    """The one line that says what LMDB said."""
    if getattr(error, "code", 0) in (errno.EACCES, errno.EPERM):
        return folders.refusal(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return StoreError(
        f"{folder} cannot be read by LMDB ({error}): it is left as it is; restore it from a backup"
    )
