"""A journal as it was at one moment, read without writing, also beside a server that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from service.store import folder as folders
from service.store.journal.disk import File, Folder
from service.store.journal.layout import START, Head, Record, walk
from service.store.journal.maker import name_of, sequence_of
from service.store.journal.opening import check_end, content, head_of
from service.store.journal.reading import Group, Torn, read
from service.store.store import StoreError

_TRIES, _PAUSE_S = 50, 0.02


class JournalSnapshot:
    """The segments that there were when this was made, which stay while it is open.

    What a server has dropped, and not erased yet, shows as if it were kept.

    Attributes:
        torn: What was being written then, or when the server ended; known once all was read.

    Raises:
        StoreError: They cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = Folder(folder)
        self._open: list[tuple[Head, File]] = []
        self.torn: Torn | None = None
        try:
            self._open_all()
            self._tail, self._full = self._find_tail()
            at = self._full - 1
            kept = [head.sequence for head, _ in self._open[max(at, 0) : self._full]]
            check_end(kept, [head.sequence for head, _ in self._open[self._full :]], str(folder))
        except BaseException as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise StoreError(f"{folder} is missing: restore it from a backup") from None
            if isinstance(error, OSError):
                raise folders.refusal(folder, error) from error
            raise

    def _open_all(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                for sequence in sorted(filter(None, map(sequence_of, self._disk.names()))):
                    name = name_of(sequence)
                    file = self._disk.open(name)
                    try:
                        head = head_of(file, sequence, f"{self._folder}/{name}")
                    except BaseException:
                        file.close()
                        raise
                    self._open.append((head, file))
                return
            except FileNotFoundError:
                # It was dropped between two looks.
                self.close()
                if not left:
                    raise
                time.sleep(_PAUSE_S)

    def _find_tail(self) -> tuple[bytes, int]:
        """What is in the last segment that holds anything, and how many there are up to it.

        This is read first: by then all that lies before it is whole.
        """
        for full in range(len(self._open), 0, -1):
            head, file = self._open[full - 1]
            data = content(file, head)
            if data[START:].rstrip(b"\0"):
                return data, full
        return b"", 0

    def groups(self, *, forget: Callable[[], None]) -> Iterator[Group]:
        """The groups, ascending, with those that are damaged or missing.

        Args:
            forget: Called where all that came before has been let go, by a server that goes on: it
                may have let go of some of what comes next as well, which is not shown any more.
        """

        def torn(what: Torn) -> None:
            self.torn = what

        places = range(len(self._open))
        return read(map(self._segment, places), torn=torn, let_go=forget)

    def copy(self, to: Folder) -> None:
        """Write the segments into another folder, durable, without what was not written whole.

        Raises:
            OSError: It cannot be done.
        """
        # The last one first, for they are let go from the first one on: so none of what lies
        # between two groups goes while they are copied.
        for place in reversed(range(max(self._full, 1))):
            head, data = self._segment(place)
            records = [each for each in walk(data, head.key) if isinstance(each, Record)]
            if place >= self._full - 1:
                data = data[: max((each.stop for each in records), default=0)] or head.pack()
            file = to.create(name_of(head.sequence), head.size)
            try:
                file.write(data + bytes(head.size - len(data)), 0)
                file.sync()
            finally:
                file.close()
            if records and records[0].is_gap:
                # What is open of those before was let go as a whole, and its files with it.
                break
        to.sync_names()

    def _segment(self, place: int) -> tuple[Head, bytes]:
        """A segment, and what is in it."""
        head, file = self._open[place]
        if place >= self._full - 1:
            return head, self._tail if place == self._full - 1 else b""
        try:
            return head, content(file, head)
        except OSError as error:
            raise folders.refusal(self._folder, error) from error

    def close(self) -> None:
        """Let go of it."""
        for _, file in self._open:
            file.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
