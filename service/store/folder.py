"""The folder of an embedded store: what it is, who has it, what room is kept back.

Knows nothing of LMDB, nor of what is stored.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import threading
from pathlib import Path

from service.store.store import StoreError, StoreFullError

VERSION = 2
FORMAT, LOCK, BALLAST, JOURNAL, TABLE = "format", "lock", "ballast", "journal", "table"
# Files of 0600 in folders of 0700: the journal holds what users sent.
FOLDER_MODE, FILE_MODE = 0o700, 0o600
# A quota and a limit on the size of files leave as little room as a full disk.
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

_WHAT = "store of a Cellar server"
# What the making of a store that was cut short may have left.
_BEFORE_FORMAT = frozenset((LOCK, BALLAST, JOURNAL, TABLE, f"{FORMAT}.new"))
_IGNORED = frozenset(("lost+found",))
# Beside the ballast: what the first writes want, so that a store is not refused right after.
_ROOM_AT_START = 2 << 20


def is_store(path: Path) -> bool:
    """Whether a store is there, ``False`` where nothing is, or an empty folder. Writes nothing.

    Raises:
        StoreError: Something else is there, or a store that this Cellar does not know.
    """
    try:
        names = set(os.listdir(path)) - _IGNORED
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise StoreError(f"{path} is no folder, and a store is one: name another path") from None
    except OSError as error:
        raise refusal(path, error) from error
    if FORMAT not in names:
        if others := sorted(names - _BEFORE_FORMAT):
            raise StoreError(
                f"{path} holds something else ({others[0]}): a store wants a folder of its own"
            )
        return False
    _check_format(path)
    # While the table is exchanged, or after a crash in that, only its successor is there; looked at
    # again, lest it be exchanged between two looks.
    for name, *others in ((JOURNAL,), (TABLE, f"{TABLE}.new", TABLE)):
        if not any((path / each).is_dir() for each in (name, *others)):
            raise StoreError(f"{path}: the folder '{name}' is missing: restore it from a backup")
    return True


def _check_format(path: Path) -> None:
    try:
        said = json.loads((path / FORMAT).read_text("utf-8"))
        what, version = said["what"], int(said["version"])
    except OSError as error:
        raise refusal(path / FORMAT, error) from error
    except (ValueError, TypeError, KeyError):
        what, version = None, 0
    if what != _WHAT:
        raise StoreError(f"{path / FORMAT} is not that of a store of Cellar: name another path")
    if version < VERSION:
        raise StoreError(
            f"{path} has format {version}, of an older Cellar, and this one knows {VERSION}: "
            "use the Cellar that wrote it, or name another path"
        )
    if version != VERSION:
        raise StoreError(
            f"{path} has format {version}, and this Cellar knows {VERSION}: "
            "use the Cellar that wrote it, or a newer one"
        )


def write_format(path: Path) -> None:
    """Say that the folder is a store: the last step of making one.

    Raises:
        OSError: It cannot be written.
    """
    fresh = path / f"{FORMAT}.new"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
        file.write(json.dumps({"what": _WHAT, "version": VERSION}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path / FORMAT)
    sync_folder(path)


def make_folder(path: Path) -> None:
    """Make the folder, or take the empty one that is there.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        path.mkdir(FOLDER_MODE, exist_ok=True)
        if path.stat().st_uid == os.geteuid():
            path.chmod(FOLDER_MODE)
        sync_folder(path.absolute().parent)
    except FileNotFoundError:
        raise StoreError(
            f"{path} cannot be made: there is no {path.parent}; make it, or name another path"
        ) from None
    except OSError as error:
        raise refusal(path, error) from error


def check_room(path: Path, wanted: int) -> None:
    """See whether the file system has room to begin with, where any is wanted.

    Raises:
        StoreError: It has not.
    """
    if not wanted:
        return
    at = path if path.exists() else path.absolute().parent
    try:
        state = os.statvfs(at)
    except FileNotFoundError:
        # Making the folder says what is missing.
        return
    except OSError as error:
        raise refusal(at, error) from error
    free = state.f_bavail * state.f_frsize
    wanted += _ROOM_AT_START
    if free < wanted:
        raise StoreError(
            f"{path}: the disk is full ({free >> 20:,} MiB are free, {-(-wanted >> 20):,} MiB are "
            "wanted to begin with): make room, or name a path on another disk"
        )


def refusal(path: Path, error: OSError) -> StoreError:
    """The one line that says what the system said."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"{path}: no permission ({os.strerror(error.errno)}): "
            "run as the owner of the store, or name another path"
        )
    if error.errno in NO_ROOM:
        return StoreFullError(
            f"{path}: the disk is full: make room, or name a path on another disk"
        )
    return StoreError(f"{path} cannot be used: {error.strerror or error}")


def sync_folder(path: Path) -> None:
    """Make durable which names the folder has.

    Raises:
        OSError: It cannot be.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# ---- an environment's folder is exchanged ----


def exchange(folder: Path) -> None:
    """Put ``folder.new``, which is whole and durable, in the place of ``folder``.

    At every moment, and after a crash, ``settle`` knows which one counts. The old folder is gone
    in the end.

    Raises:
        OSError: It is in doubt which one is there.
    """
    new, old = _beside(folder)
    sync_folder(new)
    os.rename(folder, old)
    sync_folder(folder.parent)
    os.rename(new, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path) -> None:
    """Finish an exchange that was cut short, or take it back.

    Raises:
        OSError: It cannot be done.
    """
    new, old = _beside(folder)
    if not folder.exists() and new.exists():
        # The old one is moved away only once the new one is whole.
        os.rename(new, folder)
        sync_folder(folder.parent)
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")


# ---- one process at a time ----


class Lock:
    """The folder is this process's until the lock is let go, or the process ends.

    Raises:
        StoreError: Another process has it, or it cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path / LOCK, flags, FILE_MODE)
        except OSError as error:
            raise refusal(path / LOCK, error) from error
        try:
            self._take(path)
        except BaseException:
            os.close(self._file)
            raise

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{path} is in use by {self._holder()}: stop that, or name another path"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{path} cannot be locked ({error.strerror}): name a path on a disk that can"
            ) from error

    def sign(self) -> None:
        """Write down who has it.

        Raises:
            OSError: It cannot be written.
        """
        os.ftruncate(self._file, 0)
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.pwrite(self._file, f"{holder}\n".encode(), 0)

    def _holder(self) -> str:
        try:
            holder = json.loads(os.pread(self._file, 4096, 0))
            return f"process {int(holder['pid'])} on {str(holder['host'])!r}"
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"

    def release(self) -> None:
        """Let go; the file stays."""
        os.close(self._file)


# ---- room ----


def allocate(file: int, at: int, length: int) -> None:
    """Take room on the disk for a range of a file; what is in it stays.

    Raises:
        OSError: There is no room, or it cannot be taken ahead here.
    """
    if sys.platform == "darwin":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.posix_fallocate(file, at, length)


class Ballast:
    """A file that only takes room, so that there is some to be had when the disk is full."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path / BALLAST
        self._size = size
        self._lock = threading.Lock()

    @property
    def missing(self) -> int:
        """Bytes that are not in place."""
        try:
            return max(0, self._size - self._path.stat().st_size)
        except OSError:
            return self._size

    def give_up(self) -> bool:
        """Give the room away; returns whether there was any."""
        with self._lock:
            try:
                there = self._path.stat().st_size > 0
                os.truncate(self._path, 0)
            except OSError:
                return False
            return there

    def take(self) -> bool:
        """Take the room; returns whether it is in place now."""
        with self._lock:
            missing = self.missing
            if not missing:
                return True
            try:
                state = os.statvfs(self._path.parent)
                # Not the last there is: who gave it up would do so again at once.
                if state.f_bavail * state.f_frsize < missing + self._size:
                    return False
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT, FILE_MODE)
            except OSError:
                return False
            try:
                allocate(file, 0, self._size)
            except OSError as error:
                os.ftruncate(file, 0)
                return error.errno not in NO_ROOM
            finally:
                os.close(file)
            return True
