"""The few things that the journal wants of a disk, so that a fake one can take its place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from service.store.folder import FILE_MODE, allocate, sync_folder

_CANNOT = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV))


class File(Protocol):
    """An open file. All calls raise ``OSError`` where the system does."""

    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, at: int, length: int) -> bytes:
        """The bytes there; fewer where the file ends."""
        ...

    def write(self, data: bytes, at: int) -> None:
        """Write there. After an error any part of it may be there."""
        ...

    def sync(self) -> None:
        """Make durable all that was written, by whomever."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Disk(Protocol):
    """The files of one folder, by name. All calls raise ``OSError`` where the system does."""

    def names(self) -> list[str]:
        """Of all files that are there."""
        ...

    def create(self, name: str, size: int) -> File:
        """Make a file, empty, or with nothing but zeros, in place of one of that name.

        Args:
            name: Of the file.
            size: How much it will hold; where there is no room for that, this may say so.
        """
        ...

    def open(self, name: str) -> File:
        """Open a file that is there."""
        ...

    def rename(self, name: str, to: str) -> None:
        """Give a file another name; durable after ``sync_names``."""
        ...

    def unlink(self, name: str) -> None:
        """Remove a file; durable after ``sync_names``."""
        ...

    def sync_names(self) -> None:
        """Make durable which files there are."""
        ...


class OpenFile:
    """A real one. Its calls are the system's."""

    __slots__ = ("_file",)

    def __init__(self, file: int) -> None:
        self._file = file

    def size(self) -> int:
        """See ``File``."""
        return os.fstat(self._file).st_size

    def read(self, at: int, length: int) -> bytes:
        """See ``File``."""
        found = os.pread(self._file, length, at)
        if len(found) == length or not found:
            return found
        parts = [found]
        while found:
            at, length = at + len(found), length - len(found)
            found = os.pread(self._file, length, at)
            parts.append(found)
        return b"".join(parts)

    def write(self, data: bytes, at: int) -> None:
        """See ``File``."""
        written = os.pwrite(self._file, data, at)
        while written < len(data):
            # Cut short: the next call says why.
            written += os.pwrite(self._file, data[written:], at + written)

    def sync(self) -> None:
        """See ``File``."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """See ``File``."""
        os.close(self._file)


class Folder:
    """A real folder, which is there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """See ``Disk``."""
        return os.listdir(self._path)

    def create(self, name: str, size: int) -> File:
        """See ``Disk``."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path / name, flags, FILE_MODE)
        try:
            # In one piece, and at once where there is no room: not by filling the disk first.
            allocate(file, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT:
                os.close(file)
                raise
        return OpenFile(file)

    def open(self, name: str) -> File:
        """See ``Disk``; read-only where it may not be written."""
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return OpenFile(os.open(self._path / name, os.O_RDWR | flags))
        except PermissionError:
            return OpenFile(os.open(self._path / name, os.O_RDONLY | flags))
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return OpenFile(os.open(self._path / name, os.O_RDONLY | flags))

    def rename(self, name: str, to: str) -> None:
        """See ``Disk``."""
        os.rename(self._path / name, self._path / to)

    def unlink(self, name: str) -> None:
        """See ``Disk``."""
        os.unlink(self._path / name)

    def sync_names(self) -> None:
        """See ``Disk``."""
        sync_folder(self._path)
