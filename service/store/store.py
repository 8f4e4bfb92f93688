"""What a store is: numbered groups that are appended, and rows by key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol


class StoreError(Exception):
    """A store cannot be used; the message is one line that says why and what to do."""


class StoreFullError(StoreError):
    """There is no room; nothing of what was being written is there."""


class StoreFailedError(StoreError):
    """The disk failed: what was being written is in doubt, and nothing must be written any more."""


class Store(Protocol):
    """Numbered groups (the journal) and rows by key (the table). All calls block.

    Calls on the journal come from one thread at a time, calls on the table from another one at a
    time: neither waits for the other's writes. Every call may raise ``StoreFailedError``, and once
    one has, so does every later one on that side.
    """

    # ---- the journal ----

    def append(self, number: int, group: bytes) -> None:
        """Keep a group; it is durable when this returns.

        Args:
            number: Of the group, from 0 to 2⁶⁴ - 1; higher than every number before.
            group: Its bytes, as they will be read.

        Raises:
            StoreFullError: There is no room. The group is not there; a later try may succeed.
            StoreFailedError: Whether the group is there is unknown.
            ValueError: The number does not ascend; nothing was written.
        """
        ...

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """The groups with their numbers, ascending, from ``first`` on."""
        ...

    def drop(self, before: int) -> None:
        """Forget the groups below that number; that need not be durable at once."""
        ...

    # ---- the table ----

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Set and delete rows, all of them or none; durable when this returns.

        A key in both is set. Deleting a row that is not there does nothing.

        Raises:
            StoreFullError: There is no room, and nothing has changed; a later try may succeed.
            StoreFailedError: Whether the rows are written is unknown.
            ValueError: A key is empty or longer than 511 bytes; nothing was written.
        """
        ...

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with ``prefix``, ascending by key."""
        ...

    def row(self, key: bytes) -> bytes | None:
        """The row with that key, ``None`` where there is none."""
        ...

    def rows_at(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What `row` finds of each of some keys, in order. May run in any thread."""
        ...

    # ---- both ----

    def erase(self) -> None:
        """Leave nothing in the files of what was dropped or deleted before.

        May run in any thread, beside calls on both sides.

        Raises:
            StoreFullError, StoreError: It cannot be done; the store is as it was.
            StoreFailedError: The disk failed.
        """
        ...

    @property
    def journal_bytes(self) -> int:
        """Bytes that hold groups now."""
        ...

    @property
    def table_bytes(self) -> int:
        """Bytes that hold rows now."""
        ...

    def close(self) -> None:
        """Let go of the store; it cannot be used any more. Closing twice does nothing."""
        ...
