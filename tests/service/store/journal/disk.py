"""A disk in memory that forgets, tears and reorders what was not synced, gets full, and fails."""

from __future__ import annotations

import errno
import os
from random import Random

SECTOR = 512


class CrashError(BaseException):
    """The process, or the machine, ends here."""


class Inode:
    """A file: what the cache has, what the disk has, and what it may have of each sector."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.disk = bytearray()
        self.dirty: dict[int, list[bytes]] = {}

    def sectors(self, at: int, length: int) -> range:
        return range(at // SECTOR, -(-(at + length) // SECTOR))

    def write(self, data: bytes, at: int) -> None:
        end = at + len(data)
        self.cache.extend(bytes(max(0, end - len(self.cache))))
        self.cache[at:end] = data
        for sector in self.sectors(at, len(data)):
            place = slice(sector * SECTOR, (sector + 1) * SECTOR)
            self.dirty.setdefault(sector, []).append(bytes(self.cache[place]))

    def sync(self, written: dict[int, bytes]) -> None:
        """The cache takes all for written; the disk has these sectors."""
        self.disk.extend(bytes(max(0, len(self.cache) - len(self.disk))))
        for sector, data in written.items():
            self.disk[sector * SECTOR : sector * SECTOR + len(data)] = data
        self.dirty.clear()

    def crash(self, dice: Random) -> None:
        """Of each sector that was not synced the disk has what it had, or any that was written."""
        some: dict[int, bytes] = {}
        for sector, versions in self.dirty.items():
            if dice.random() < 0.6:
                some[sector] = dice.choice(versions)
        if self.dirty and dice.random() < 0.2:
            some = {}
        if some or dice.random() < 0.5:
            self.sync(some)
        self.dirty.clear()
        self.cache[:] = self.disk


class FakeFile:
    def __init__(self, disk: FakeDisk, inode: Inode) -> None:
        self._disk, self._inode, self._life = disk, inode, disk.life

    def size(self) -> int:
        self._disk.look(self._life)
        return len(self._inode.cache)

    def read(self, at: int, length: int) -> bytes:
        self._disk.look(self._life)
        return bytes(self._inode.cache[at : at + length])

    def write(self, data: bytes, at: int) -> None:
        disk = self._disk
        ends = disk.is_last_call(self._life)
        error = disk.fault("write")
        if error is not None:
            data = data[: disk.dice.randint(0, len(data) - 1)] if data else data
        if data:
            self._inode.write(bytes(data), at)
        if ends:
            raise CrashError
        if error is not None:
            raise error

    def sync(self) -> None:
        disk = self._disk
        if disk.is_last_call(self._life):
            raise CrashError
        error = disk.fault("sync")
        written = {sector: versions[-1] for sector, versions in self._inode.dirty.items()}
        if error is not None:
            # And the next one succeeds, with these sectors gone.
            written = {at: data for at, data in written.items() if disk.dice.random() < 0.5}
        if disk.syncs or error is not None:
            self._inode.sync(written)
        if error is not None:
            raise error

    def close(self) -> None:
        pass


class FakeDisk:
    """A ``Disk``. Set its attributes at any time.

    Attributes:
        dice: What survives.
        crash_at: The n-th call from now that changes something (1: the next) is the last one.
        full: No file can be made.
        fails: What the next call of a kind ("write", "sync", "create") raises, an error number.
        syncs: Whether syncs of files do anything.
        calls: How many calls have changed something.
    """

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.crash_at: int | None = None
        self.full = False
        self.fails: dict[str, int] = {}
        self.syncs = True
        self.calls = 0
        self.life = 0
        self._names: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._changes: list[tuple[str, str, Inode | None]] = []

    # ---- what a disk does ----

    def names(self) -> list[str]:
        self.look(self.life)
        return list(self._names)

    def create(self, name: str, size: int) -> FakeFile:
        ends = self.is_last_call(self.life)
        error = self.fault("create")
        if error is not None or self.full:
            raise error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode = Inode()
        self._change(name, "", inode)
        if ends:
            raise CrashError
        return FakeFile(self, inode)

    def open(self, name: str) -> FakeFile:
        self.look(self.life)
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return FakeFile(self, self._names[name])

    def rename(self, name: str, to: str) -> None:
        ends = self.is_last_call(self.life)
        self._change(to, name, self._names[name])
        if ends:
            raise CrashError

    def unlink(self, name: str) -> None:
        ends = self.is_last_call(self.life)
        self._change(name, "", None)
        if ends:
            raise CrashError

    def sync_names(self) -> None:
        if self.is_last_call(self.life):
            raise CrashError
        self._durable = dict(self._names)
        self._changes.clear()

    # ---- what happens to it ----

    def kill(self) -> None:
        """The process ends; the cache is as it was, and still not on the disk."""
        self.life += 1
        self.crash_at = None

    def cut(self) -> None:
        """The power goes: what was not synced is there, or not, each sector and name by itself."""
        self.kill()
        survivors = [each for each in self._changes if self.dice.random() < 0.5]
        self._names = dict(self._durable)
        for change in survivors:
            self._apply(*change)
        self._durable = dict(self._names)
        self._changes.clear()
        for inode in dict.fromkeys(self._names.values()):
            inode.crash(self.dice)

    @property
    def bytes(self) -> bytes:
        """All that is in any file, in the cache and on the disk."""
        kept = {**self._durable, **self._names}.values()
        return b"|".join(bytes(each.cache) + b"|" + bytes(each.disk) for each in kept)

    # ---- within ----

    def look(self, life: int) -> None:
        if life != self.life:
            raise CrashError

    def is_last_call(self, life: int) -> bool:
        self.look(life)
        self.calls += 1
        if self.crash_at is None:
            return False
        self.crash_at -= 1
        return self.crash_at == 0

    def fault(self, kind: str) -> OSError | None:
        code = self.fails.pop(kind, None)
        return None if code is None else OSError(code, os.strerror(code))

    def _change(self, name: str, source: str, inode: Inode | None) -> None:
        self._changes.append((name, source, inode))
        self._apply(name, source, inode)

    def _apply(self, name: str, source: str, inode: Inode | None) -> None:
        if source and self._names.pop(source, None) is None:
            return
        if inode is None:
            self._names.pop(name, None)
        else:
            self._names[name] = inode
