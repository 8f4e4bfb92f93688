"""Makes segments ahead: every byte of one is written and synced before a group goes there.

Only so does a sync of what is written later have nothing but data to write.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from service.store.folder import NO_ROOM
from service.store.journal.disk import Disk
from service.store.journal.layout import START, Head

SUFFIX, UNFINISHED = ".segment", ".segment.new"
_DIGITS = 10
# How much is written at a time: others want the disk as well.
_PIECE = 1 << 20
# What is made where there is no room for a whole one.
_SMALLER = (16, 256)
# One place per so many bytes is remembered.
_PLACE_BYTES = 4096


@dataclass(slots=True, kw_only=True)
class Segment:
    """A segment that is there.

    Attributes:
        name: Of its file.
        head: What it says of itself.
        end: Where its last record ends, or its file if it was filled by another process.
        last: The number of the last group in it, or of one before it where it holds none.
        clean: Up to there nothing is left of what was dropped.
    """

    name: str
    head: Head
    end: int = START
    last: int = -1
    clean: int = START
    _numbers: list[int] = field(default_factory=list)
    _places: list[int] = field(default_factory=list)

    def note(self, number: int, at: int) -> None:
        """A group is at a place."""
        if not self._places or at - self._places[-1] >= _PLACE_BYTES:
            # In this order: another thread may look up a number meanwhile.
            self._places.append(at)
            self._numbers.append(number)

    def held_bytes(self, first: int) -> int:
        """Bytes of the groups from a number on, and perhaps of some before."""
        if self.last < first:
            return 0
        index = bisect_right(self._numbers, first) - 1
        return self.end - (self._places[index] if index >= 0 else START)


def name_of(sequence: int) -> str:
    """The name of a segment's file."""
    return f"{sequence:0{_DIGITS}}{SUFFIX}"


def sequence_of(name: str) -> int | None:
    """Which segment a file is by its name, if it is one."""
    digits = name.removesuffix(SUFFIX)
    if digits == name or not (digits.isascii() and digits.isdigit()) or int(digits) < 1:
        return None
    return int(digits) if name == name_of(int(digits)) else None


def is_unfinished(name: str) -> bool:
    """Whether a file is a segment whose making was cut short."""
    stem = name.removesuffix(UNFINISHED)
    return stem != name and sequence_of(stem + SUFFIX) is not None


def make(disk: Disk, sequence: int, *, after: int, size: int) -> Segment:
    """Make a segment, durable, with zeros where groups will be.

    Raises:
        OSError: It cannot be made; nothing of it is there under its name.
    """
    head = Head(sequence=sequence, after=after, size=size, id=os.urandom(16))
    name = name_of(sequence)
    unfinished = name.removesuffix(SUFFIX) + UNFINISHED
    file = disk.create(unfinished, size)
    try:
        file.write(head.pack(), 0)
        zeros = bytes(min(_PIECE, size - START))
        for at in range(START, size, _PIECE):
            file.write(zeros[: size - at], at)
        file.sync()
        disk.rename(unfinished, name)
        disk.sync_names()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            with suppress(OSError):
                disk.unlink(unfinished)
        raise
    finally:
        file.close()
    return Segment(name=name, head=head, last=after - 1)


class Maker:
    """Makes the next segment, on a thread of its own or while somebody waits.

    Args:
        disk: Where.
        size: Bytes of a segment.
        may_use: Whether there is room besides what is kept back for others.
        begin: Runs a job beside.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        size: int,
        may_use: Callable[[], bool],
        begin: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self._disk = disk
        self._size = size
        self._may_use = may_use
        self._begin = begin
        self._join: Callable[[], None] | None = None
        self._made: Segment | None = None
        self._error: OSError | None = None

    def begin(self, sequence: int, after: int, *, most: int) -> None:
        """Make one of the usual size, beside, if it may have that."""
        if self._size > most:
            return

        def job() -> None:
            try:
                self._made = self._make(sequence, after, self._size)
            except OSError as error:
                self._error = error

        self._join = self._begin(job)

    @property
    def is_making(self) -> bool:
        """Whether one was begun that ``take`` has not taken."""
        return self._join is not None

    def take(self) -> Segment | None:
        """Wait for the one that was begun; ``None`` where there is none, or was no room.

        Raises:
            OSError: It could not be made for another reason.
        """
        if self._join is None:
            return None
        self._join()
        made, error = self._made, self._error
        self._join = self._made = self._error = None
        if error is not None and error.errno not in NO_ROOM:
            raise error
        return made

    def make(self, sequence: int, after: int, *, least: int, most: int) -> Segment | None:
        """Make one now, a smaller one where there is no room for more; ``None`` if there is none.

        Args:
            sequence: Of the segment.
            after: See ``Head``.
            least: Bytes that are wanted at the least.
            most: Bytes that it may have.

        Raises:
            OSError: It cannot be made for another reason.
        """
        sizes = [self._size, *(self._size // smaller for smaller in _SMALLER)]
        for size in dict.fromkeys(max(size, least) for size in sizes):
            if size > most:
                continue
            try:
                made = self._make(sequence, after, size)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                continue
            if made is not None:
                return made
        return None

    def _make(self, sequence: int, after: int, size: int) -> Segment | None:
        return make(self._disk, sequence, after=after, size=size) if self._may_use() else None


def on_a_thread(job: Callable[[], None]) -> Callable[[], None]:
    """Run a job beside; returns what waits for it."""
    thread = threading.Thread(target=job, name="segments", daemon=True)
    thread.start()
    return thread.join
