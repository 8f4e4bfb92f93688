"""A journal as it was at one moment, read without writing, also beside a server that goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
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

    def segments(self) -> Iterator[tuple[Head, bytes]]:
        """The segments, oldest first, and what is in them."""
        try:
            for place, (head, file) in enumerate(self._open, 1):
                if place < self._full:
                    yield head, content(file, head)
                else:
                    yield head, self._tail if place == self._full else b""
        except OSError as error:
            raise folders.refusal(self._folder, error) from error

    def groups(self) -> Iterator[Group]:
        """The groups, ascending, with those that are damaged or missing."""

        def torn(what: Torn) -> None:
            self.torn = what

        return read(self.segments(), torn=torn)

    def copy(self, to: Folder) -> None:
        """Write the segments into another folder, durable, without what was not written whole.

        Raises:
            OSError: It cannot be done.
        """
        for place, (head, data) in enumerate(self.segments(), 1):
            if place > max(self._full, 1):
                break
            if place >= self._full:
                stops = [each.stop for each in walk(data, head.key) if isinstance(each, Record)]
                data = data[: max(stops, default=0)] or head.pack()
            file = to.create(name_of(head.sequence), head.size)
            try:
                file.write(data + bytes(head.size - len(data)), 0)
                file.sync()
            finally:
                file.close()
        to.sync_names()

    def close(self) -> None:
        """Let go of it."""
        for _, file in self._open:
            file.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
