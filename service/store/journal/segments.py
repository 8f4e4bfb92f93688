"""The journal: numbered groups, appended to one segment after another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf

import structlog

from service.store.folder import NO_ROOM
from service.store.journal import maker as making
from service.store.journal.disk import Disk
from service.store.journal.layout import (
    HEADER_BYTES,
    LONGEST,
    START,
    Head,
    pack_group,
    record_bytes,
)
from service.store.journal.letting_go import let_go
from service.store.journal.maker import Maker, Segment, on_a_thread
from service.store.journal.opening import content, find
from service.store.journal.reading import read
from service.store.store import StoreError, StoreFailedError, StoreFullError

LAST_NUMBER = 2**64 - 1
SEGMENT_BYTES = 16 << 20
# Of a store's first segment: most tests and trials never fill it.
_FIRST_SHARE = 16
_log = structlog.get_logger(__name__)


class Journal:
    """The segments of one folder. A write that failed is never tried again.

    Calls come from one thread at a time, but for ``erase``, the properties and ``close``.

    Args:
        disk: Where the segments are. Files of other names are left alone.
        where: What to call that in errors.
        create: Whether to make the first segment where there is none.
        segment_bytes: Of a segment. A group that is larger has one of its own.
        most_bytes: Of all segments together.
        may_use: Whether there is room on the disk besides what is kept back for others.
        begin: Runs a job beside, and returns what waits for it.

    Raises:
        StoreError: What is there cannot be used; it was left alone.
        OSError: The disk cannot do it, or has no room.
    """

    def __init__(
        self,
        disk: Disk,
        where: str,
        *,
        create: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        most_bytes: int = 1 << 62,
        may_use: Callable[[], bool] = lambda: True,
        begin: Callable[[Callable[[], None]], Callable[[], None]] = on_a_thread,
    ) -> None:
        self._disk = disk
        self._where = where
        self._most_bytes = most_bytes
        self._maker = Maker(disk, size=segment_bytes, may_use=may_use, begin=begin)
        self._lock = threading.Lock()
        self._erasing = threading.Lock()
        self._refusal: StoreError | None = None
        self._is_open = True
        self._asks_at: float = inf
        self._leftover = 0
        for name in disk.names():
            if making.is_unfinished(name):
                disk.unlink(name)
        if create and not any(map(making.sequence_of, disk.names())):
            size = max(segment_bytes // _FIRST_SHARE, START + HEADER_BYTES)
            making.make(disk, 1, after=0, size=size)
        found = find(disk, where)
        self._segments = [*found.kept, *found.empty]
        self._ready = deque(found.empty)
        self._first, self._last = found.first, found.last
        # Is kept whatever is dropped: it says how far it went.
        self._holder = found.holder
        self._begin_with(found.kept[-1] if found.kept else self._ready.popleft())
        if found.kept and not found.is_clean:
            # Nothing goes behind what may be damage.
            self._current.end = self._current.head.size
        self._make_durable(found.last_record)
        if found.torn is not None:
            _log.warning(
                "the last group was being written when the server ended, and is left out; if the "
                "machine was not cut off while writing, it is damage",
                group=found.torn.number,
                bytes=found.torn.length,
            )

    def _make_durable(self, last_record: tuple[int, bytes] | None) -> None:
        """Do with what was found what the process that wrote it may not have come to."""
        try:
            if last_record is not None:
                # A sync that failed left pages that look well, and that no other sync writes.
                at, data = last_record
                self._file.write(data, at)
            self._file.sync()
            self._disk.sync_names()
        except BaseException:
            self._file.close()
            raise

    # ---- read ----

    @property
    def last(self) -> int:
        """The number of the last group; -1 where there was none."""
        return self._last

    @property
    def held_bytes(self) -> int:
        """Bytes of the groups that are kept, with some KiB of those before."""
        with self._lock:
            return sum(each.held_bytes(self._first) for each in self._segments)

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """The groups from a number on, ascending; it holds two segments at a time.

        Damaged ones come as they are. Where some are missing, the last of them comes empty.
        """
        for group in read(self._contents(first)):
            if group.number >= max(first, self._first):
                yield group.number, group.data

    def _contents(self, first: int) -> Iterator[tuple[Head, bytes]]:
        self._check()
        with self._lock:
            kept = [each for each in self._segments if each.last >= max(first, self._first)]
            ends = [self._end_of(each) for each in kept]
        for segment, end in zip(kept, ends, strict=True):
            self._check()
            if segment in self._ready:
                yield segment.head, b""
                continue
            try:
                # What was dropped meanwhile may be gone.
                with suppress(FileNotFoundError):
                    yield segment.head, self._content(segment)[:end]
            except OSError as error:
                raise self._fail(error) from error

    def _end_of(self, segment: Segment) -> int:
        """Where what may be read of it ends."""
        return segment.end if segment is self._current else segment.head.size

    def _content(self, segment: Segment) -> bytes:
        file = self._disk.open(segment.name)
        try:
            return content(file, segment.head)
        finally:
            file.close()

    # ---- append ----

    def append(self, number: int, group: bytes) -> None:
        """Keep a group; it is durable when this returns. See ``Store``."""
        if self._refusal is not None:
            self._check()
        if not self._last < number <= LAST_NUMBER:
            raise ValueError(f"group {number} does not follow group {self._last}")
        if len(group) > LONGEST:
            raise ValueError(f"a group has at most {LONGEST:,} bytes, not {len(group):,}")
        wanted = record_bytes(len(group))
        if self._current.end + wanted > self._current.head.size:
            self._begin_next(wanted)
        segment = self._current
        at = segment.end
        record = pack_group(number, self._last + 1, group, self._key)
        if self._leftover:
            record += bytes(max(0, self._leftover - at - wanted))
        try:
            self._file.write(record, at)
        except OSError as error:
            raise self._unwritten(error, at, len(record)) from error
        try:
            self._file.sync()
        except OSError as error:
            raise self._fail(error) from error
        segment.note(number, at)
        segment.last = self._last = number
        segment.end = at + wanted
        self._leftover = 0
        if segment.end > self._asks_at:
            self._make_ahead()
        if self._holder is not segment:
            self._holder = segment
            self._unlink_dropped()

    def _unwritten(self, error: OSError, at: int, length: int) -> StoreError:
        """A group could not be written: see to it that it is not taken for one that was."""
        if error.errno not in NO_ROOM:
            return self._fail(error)
        self._leftover = max(self._leftover, at + length)
        try:
            self._file.write(bytes(self._leftover - at), at)
            self._file.sync()
            self._leftover = 0
        except OSError as again:
            if again.errno not in NO_ROOM:
                return self._fail(again)
        return self._full()

    # ---- the next segment ----

    def _begin_with(self, segment: Segment) -> None:
        """Let the next group go there."""
        self._file = self._disk.open(segment.name)
        self._current = segment
        self._key = segment.head.key
        self._leftover = 0
        self._asks_at = segment.head.size // 2

    def _make_ahead(self) -> None:
        """Have the next segment made, unless there is one: half of this one is used."""
        self._asks_at = inf
        if not self._ready and not self._maker.is_making:
            self._maker.begin(self._next_sequence, self._last + 1, most=self._room())

    def _begin_next(self, wanted: int) -> None:
        """Begin a segment that has room for a record.

        Raises:
            StoreFullError: There is no room for it.
            StoreFailedError: The disk failed.
        """
        least = START + wanted
        try:
            self._add(self._maker.take())
            if not any(each.head.size >= least for each in self._ready):
                made = self._maker.make(
                    self._next_sequence, self._last + 1, least=least, most=self._room()
                )
                if made is None:
                    raise self._full()
                self._add(made)
            # Those that are too small stay empty, so that none is missing between two.
            while (segment := self._ready.popleft()).head.size < least:
                pass
            self._file.close()
            self._begin_with(segment)
        except OSError as error:
            raise self._fail(error) from error

    def _add(self, made: Segment | None) -> None:
        if made is not None:
            with self._lock:
                self._segments.append(made)
            self._ready.append(made)

    @property
    def _next_sequence(self) -> int:
        return self._segments[-1].head.sequence + 1

    def _room(self) -> int:
        """Bytes that the next segment may have: one that holds nothing will go."""
        kept = sum(each.head.size for each in self._segments if each.last >= self._first)
        return self._most_bytes - kept

    # ---- let go ----

    def drop(self, before: int) -> None:
        """Forget the groups below a number: whole segments at once, the rest until a restart.

        Raises:
            StoreFailedError: The disk failed.
        """
        self._check()
        self._first = max(self._first, min(before, self._last + 1))
        self._unlink_dropped()

    def _unlink_dropped(self) -> None:
        try:
            while self._segments[0] is not self._holder and self._segments[0].last < self._first:
                with suppress(FileNotFoundError):
                    self._disk.unlink(self._segments[0].name)
                # One after the other: after a crash none is missing between two.
                self._disk.sync_names()
                with self._lock:
                    del self._segments[0]
        except OSError as error:
            raise self._fail(error) from error

    def erase(self) -> None:
        """Leave nothing of what was dropped in any file. May run beside all else.

        Raises:
            StoreFullError: There is no room; the journal is as it was.
            StoreFailedError: The disk failed.
        """
        with self._erasing:
            self._check()
            try:
                self._let_go(wipe=True)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise self._full() from error
                raise self._fail(error) from error

    def _let_go(self, *, wipe: bool) -> None:
        """Put a gap where what was dropped has been, in the segments that hold it."""
        with self._lock:
            first = self._first
            holding = []
            for each in self._segments:
                holding.append((each, self._end_of(each)))
                if each.last >= first or each is self._holder:
                    break
        for segment, end in holding:
            with suppress(FileNotFoundError):
                file = self._disk.open(segment.name)
                try:
                    is_over = segment is not self._current
                    let_go(segment, file, end, before=first, is_over=is_over, wipe=wipe)
                finally:
                    file.close()

    def close(self) -> None:
        """Let go of the files. Waits for an ``erase`` that runs."""
        with self._erasing:
            if isinstance(self._refusal, StoreFailedError) or self._refusal is None:
                with suppress(OSError):
                    self._maker.take()
            if self._refusal is None:
                # So that what was dropped does not show again.
                with suppress(OSError):
                    self._let_go(wipe=False)
            if self._is_open:
                self._is_open = False
                self._file.close()
            self._refusal = self._refusal or StoreError(f"{self._where} is closed")

    # ---- errors ----

    def _check(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))

    def _full(self) -> StoreFullError:
        return StoreFullError(
            f"{self._where} is full: make room on its disk, or let it hold more "
            f"({self._most_bytes >> 20:,} MiB)"
        )

    def _fail(self, error: OSError) -> StoreFailedError:
        self._refusal = StoreFailedError(
            f"{self._where} failed ({error}): see to its disk, then start again"
        )
        return StoreFailedError(str(self._refusal))
