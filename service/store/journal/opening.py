"""Which segments a folder has, and where the last one ends. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from service.store.journal.disk import Disk, File
from service.store.journal.layout import (
    HEADER_BYTES,
    START,
    Head,
    Record,
    read_head,
    walk,
)
from service.store.journal.maker import Segment, name_of, sequence_of
from service.store.journal.reading import Torn, read
from service.store.store import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The segments of a journal.

    Attributes:
        kept: Those in which something was written, oldest first.
        holder: The one of them that holds the last group; the first of all where none does.
        empty: Those behind them, in which nothing was ever written.
        first: The number of the first group that may be there; 0 where nothing was let go.
        last: The number of the last group; -1 where none was.
        torn: What was being written when the process ended.
        is_clean: Behind the last group of the last of ``kept`` nothing was written.
        last_record: Where the last group's record is in that, if it is in it.
    """

    kept: list[Segment]
    empty: list[Segment]
    holder: Segment
    first: int
    last: int
    torn: Torn | None
    is_clean: bool
    last_record: tuple[int, bytes] | None


def heads(disk: Disk, where: str) -> list[Segment]:
    """The segments that there are, oldest first; of each its head alone is read.

    Args:
        disk: The journal's.
        where: What to call it in errors.

    Raises:
        StoreError: One cannot be read, or is not whole, or newer.
        OSError: The disk cannot read.
    """
    found = []
    for sequence in sorted(filter(None, map(sequence_of, disk.names()))):
        name = name_of(sequence)
        file = disk.open(name)
        try:
            found.append(Segment(name=name, head=head_of(file, sequence, f"{where}/{name}")))
        finally:
            file.close()
    return found


def head_of(file: File, sequence: int, path: str) -> Head:
    """What a file says of itself, which is to be that segment.

    Raises:
        StoreError: It says nothing, or something else.
        OSError: The disk cannot read.
    """
    try:
        head = read_head(file.read(0, START))
    except StoreError as error:
        raise StoreError(f"{path} {error}") from None
    if head.sequence != sequence:
        raise StoreError(f"{path} is segment {head.sequence}: give it back its name")
    if file.size() < head.size:
        raise StoreError(f"{path} has been cut short: restore it, or the store, from a backup")
    return head


def content(file: File, head: Head) -> bytes:
    """All of a segment, while another thread or process lets go of groups in it."""
    while True:
        data = file.read(0, head.size)
        # What was zeroed while this was read was let go before, which the first record says.
        if file.read(START, HEADER_BYTES) == data[START : START + HEADER_BYTES]:
            return data


def find(disk: Disk, where: str) -> Found:
    """Find the segments, and read from the end on until the last group is known.

    Raises:
        StoreError: They cannot be used; see ``heads``.
        OSError: The disk cannot read.
    """
    kept = heads(disk, where)
    empty: list[Segment] = []
    data = b""
    while kept:
        data = _read(disk, kept[-1])
        if data[START:].rstrip(b"\0"):
            break
        empty.insert(0, kept.pop())
    ends = [[each.head.sequence for each in some] for some in (kept[-1:], empty)]
    check_end(ends[0], ends[1], where)
    items = list(walk(data, kept[-1].head.key)) if kept else []
    last, holder, torn = _last(disk, kept, empty, data)
    records = [each for each in items if isinstance(each, Record)]
    is_clean = bool(records) and torn is None and records[-1] is items[-1]
    is_clean &= bool(records) and records[-1].number == last
    bound, first_kept = last, 0
    for segment in reversed(kept):
        segment.last, segment.end = bound, segment.head.size
        first = _first_record(disk, segment)
        if first is not None and first.is_gap:
            # A crash may have brought back one before it that was let go as a whole.
            bound, first_kept = min(bound, first.number), max(first_kept, first.number + 1)
        elif first is not None:
            bound = first.after - 1
    last_record = None
    if records:
        kept[-1].end = records[-1].stop
        for each in records:
            if not each.is_gap:
                kept[-1].note(each.number, each.at)
        if is_clean and not records[-1].is_gap:
            last_record = (records[-1].at, data[records[-1].at : records[-1].stop])
    return Found(
        kept=kept,
        empty=empty,
        holder=holder,
        first=first_kept,
        last=last,
        torn=torn,
        is_clean=is_clean,
        last_record=last_record,
    )


def _read(disk: Disk, segment: Segment) -> bytes:
    file = disk.open(segment.name)
    try:
        return content(file, segment.head)
    finally:
        file.close()


def check_end(kept: list[int], empty: list[int], where: str) -> None:
    """See that no segment is missing at the end, where no later group tells what was in it.

    Args:
        kept: The last segment that holds anything, which is never let go.
        empty: Those behind it.
        where: What to call the journal.

    Raises:
        StoreError: One is, or all are.
    """
    if not kept and not empty:
        raise StoreError(f"{where} has no segment: restore the store from a backup")
    sequences = [*(kept or [0]), *empty]
    for before, sequence in pairwise(sequences):
        if sequence != before + 1:
            missing = name_of(sequence - 1)
            raise StoreError(f"{where}/{missing} is missing: restore it, or the store")


def _last(
    disk: Disk, kept: list[Segment], empty: list[Segment], data: bytes
) -> tuple[int, Segment, Torn | None]:
    """The number of the last group, where that is, and what is torn behind it."""
    torn: list[Torn] = []
    holder = (kept or empty)[0]
    last = max(each.head.after for each in (*kept[-1:], *empty)) - 1
    tail = [(each.head, b"") for each in empty]
    for segment in reversed(kept):
        torn.clear()
        tail.insert(0, (segment.head, data if segment is kept[-1] else _read(disk, segment)))
        numbers = [group.number for group in read(tail, torn=torn.append)]
        first = next(walk(tail[0][1], segment.head.key), None)
        if isinstance(first, Record) and first.is_gap:
            numbers.append(first.number)
        if numbers:
            last, holder = max(last, *numbers), segment
            break
    return last, holder, torn[0] if torn else None


def _first_record(disk: Disk, segment: Segment) -> Record | None:
    file = disk.open(segment.name)
    try:
        header = bytes(START) + file.read(START, HEADER_BYTES)
    finally:
        file.close()
    first = next(walk(header, segment.head.key), None)
    return first if isinstance(first, Record) else None
