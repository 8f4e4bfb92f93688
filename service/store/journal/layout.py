"""How a segment lies on the disk: its head, and one record after another.

A segment begins with its head, twice. Then come records, each a header of 32 bytes and a group,
filled up to a multiple of 8 bytes. What follows the last one is zeros. A header's checksum covers
the segment's random id as well, so that nothing that lies elsewhere, or that a caller sent, can be
taken for a record. docs/store-format.md has the whole. Knows nothing of files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from service.store.store import StoreError

VERSION = 1
START = 1024
"""Where the first record is."""
HEADER_BYTES = 32
"""Of a record."""
LONGEST = 2**32 - 1 - 8
"""Bytes of a group."""

_HEAD = struct.Struct("<4sHHQQQ16s12s")
_HEAD_MAGIC = b"CJSG"
_COPIES = (0, 512)  # a sector each
_HEAD_BYTES = _HEAD.size + 4
_RECORD = struct.Struct("<4sIQQI")
_CHECKSUM = struct.Struct("<I")
_ANY, _GROUP, _GAP = b"CJR", b"CJRG", b"CJR-"
_PADDING = tuple(bytes(length) for length in range(8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a segment says of itself.

    Attributes:
        sequence: Of the segment, from 1 on; the next one's is higher by one.
        after: One more than the number of the last group when it was made; 0 where none was.
        size: Bytes of the file.
        id: Drawn at random.
    """

    sequence: int
    after: int
    size: int
    id: bytes

    @property
    def key(self) -> int:
        """What checksums of the segment's records begin with."""
        return crc32(self.id)

    def pack(self) -> bytes:
        """The first ``START`` bytes of the segment."""
        head = _HEAD.pack(
            _HEAD_MAGIC, VERSION, 0, self.sequence, self.after, self.size, self.id, b""
        )
        head += _CHECKSUM.pack(crc32(head))
        room = _COPIES[1] - len(head)
        return b"".join((head, bytes(room), head, bytes(START - _COPIES[1] - len(head))))


def read_head(data: bytes) -> Head:
    """What a segment that begins so says of itself; one of the two copies is enough.

    Raises:
        StoreError: It is none, or a newer one, or damaged.
    """
    for at in _COPIES:
        head = data[at : at + _HEAD.size]
        if len(data) < at + _HEAD_BYTES or not head.startswith(_HEAD_MAGIC):
            continue
        if crc32(head) != _CHECKSUM.unpack_from(data, at + _HEAD.size)[0]:
            continue
        _, version, _, sequence, after, size, id, _ = _HEAD.unpack(head)
        if version != VERSION:
            raise StoreError(
                f"is a segment of version {version}, and this Cellar knows {VERSION}: "
                "use the Cellar that wrote it, or a newer one"
            )
        return Head(sequence=sequence, after=after, size=size, id=id)
    raise StoreError("has no head that can be read: restore it, or the store, from a backup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record whose header holds.

    Attributes:
        at: Where it begins in the segment.
        stop: Where the next one begins.
        number: Of the group; of a gap, that of the last group that was there.
        after: One more than the number of the group before; 0 where there was none.
        data: Where its bytes are in the segment.
        is_gap: There is no group, but some have been here.
        is_sound: The checksum of the group holds.
    """

    at: int
    stop: int
    number: int
    after: int
    data: slice
    is_gap: bool
    is_sound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Debris:
    """Bytes of a segment that are no record."""

    at: int
    stop: int


def record_bytes(length: int) -> int:
    """Bytes of the record of a group of that length."""
    return HEADER_BYTES + (length + 7 & ~7)


def pack_group(number: int, after: int, group: bytes, key: int) -> bytes:
    """The record of a group."""
    header = _RECORD.pack(_GROUP, len(group), number, after, crc32(group))
    checksum = _CHECKSUM.pack(crc32(header, key))
    return b"".join((header, checksum, group, _PADDING[-len(group) & 7]))


def pack_gap(number: int, stop: int, key: int) -> bytes:
    """The header that stands at ``START`` where all records up to ``stop`` have been let go."""
    header = _RECORD.pack(_GAP, stop - START - HEADER_BYTES, number, 0, 0)
    return header + _CHECKSUM.pack(crc32(header, key))


def walk(data: bytes, key: int) -> Iterator[Record | Debris]:
    """What is in a segment, in order.

    Where no record begins this goes on at the next place where one does. Zeros at the end are
    nothing.
    """
    at = START
    while at + HEADER_BYTES <= len(data):
        record = _record(data, at, key)
        if record is not None:
            yield record
            at = record.stop
            continue
        stop = _next_record(data, at + 8, key)
        end = stop if stop is not None else len(data) - _zeros_at_end(data)
        if at < end:
            yield Debris(at=at, stop=end)
        if stop is None:
            return
        at = stop


def _record(data: bytes, at: int, key: int) -> Record | None:
    header = data[at : at + _RECORD.size]
    magic, length, number, after, checksum = _RECORD.unpack(header)
    if magic != _GROUP and magic != _GAP:
        return None
    if crc32(header, key) != _CHECKSUM.unpack_from(data, at + _RECORD.size)[0]:
        return None
    begin = at + HEADER_BYTES
    end = begin + length
    is_gap = magic == _GAP
    is_sound = is_gap or (end <= len(data) and crc32(memoryview(data)[begin:end]) == checksum)
    return Record(
        at=at,
        stop=at + record_bytes(length),
        number=number,
        after=after,
        data=slice(begin, end),
        is_gap=is_gap,
        is_sound=is_sound,
    )


def _next_record(data: bytes, at: int, key: int) -> int | None:
    while (at := data.find(_ANY, at)) >= 0:
        if at % 8 == 0 and at + HEADER_BYTES <= len(data) and _record(data, at, key) is not None:
            return at
        at += 1
    return None


def _zeros_at_end(data: bytes) -> int:
    return len(data) - len(data.rstrip(b"\0"))
