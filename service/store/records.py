"""What bytes in a store mean: sections of named columns, each with a checksum.

A record is a prefix of 16 bytes (magic, format version, number of columns, length of the header,
checksum), a header in JSON, the checksums of the columns, and the columns, each padded to 8 bytes.
All numbers are little-endian, all checksums CRC-32 (that of zlib), and every byte is under one.
docs/store-format.md has the whole. Knows nothing of what sections are for.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from service.store.store import StoreError

MAGIC = b"CLLR"
VERSION = 1

_PREFIX = struct.Struct("<4sHHI")
_CHECKSUM = struct.Struct("<I")
_HEADER_AT = _PREFIX.size + _CHECKSUM.size
_ALIGNMENT = 8
_PADDING = tuple(bytes(length) for length in range(_ALIGNMENT))
_MOST_COLUMNS = 0xFFFF
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One part of a record.

    Attributes:
        kind: What it is, for whoever reads it.
        meta: Single values: text, numbers.
        columns: Arrays by name, of any shape: booleans, integers, floats, complex numbers, times.
    """

    kind: str
    meta: Mapping[str, str | int | float]
    columns: Mapping[str, NDArray[Any]]


class DamagedError(StoreError):
    """A record is not what was written.

    Attributes:
        sections: What could be read: columns whose checksum holds. Empty where the header is bad.
        damaged: The places of those sections of which columns are missing.
    """

    def __init__(
        self, message: str, sections: Sequence[Section] = (), damaged: Iterable[int] = ()
    ) -> None:
        super().__init__(message)
        self.sections = list(sections)
        self.damaged = frozenset(damaged)


class NewerError(StoreError):
    """A record has a format version that this Cellar does not know."""


def pack(sections: Sequence[Section]) -> bytes:
    """The bytes of a record.

    Raises:
        TypeError: A column, or a value of meta, is of a type that records do not hold.
        ValueError: There are more than 65,535 columns.
    """
    described = []
    checksums = []
    body = []
    for section in sections:
        columns = []
        for name, column in section.columns.items():
            text = _written_as(column.dtype)
            if text is None:
                raise TypeError(f"column {name!r}: records do not hold {column.dtype}")
            if text != column.dtype.str:
                column = column.astype(text)
            data = column.tobytes()
            columns.append((name, text, column.shape))
            body.append(data)
            checksum = crc32(data)
            if over := len(data) % _ALIGNMENT:
                padding = _PADDING[_ALIGNMENT - over]
                body.append(padding)
                checksum = crc32(padding, checksum)
            checksums.append(checksum)
        described.append((section.kind, tuple(section.meta.items()), tuple(columns)))
    if len(checksums) > _MOST_COLUMNS:
        raise ValueError(f"{len(checksums):,} columns; a record has {_MOST_COLUMNS:,} at most")
    # Many records of steps describe the same. Numbers would not do: 1 and 1.0 are one key.
    texts = all(isinstance(value, str) for section in sections for value in section.meta.values())
    header = _header_again if texts else _header
    prefix, head, checksum = header(tuple(described), len(checksums))
    sums = struct.pack(f"<{len(checksums)}I", *checksums)
    return b"".join((prefix, _CHECKSUM.pack(crc32(sums, checksum)), head, sums, *body))


def _header(described: tuple[Any, ...], count: int) -> tuple[bytes, bytes, int]:
    """The prefix, the header and their checksum, of sections with so many columns in all."""
    text = _encode([(kind, dict(meta), columns) for kind, meta, columns in described])
    # So that the columns begin at a multiple of 8; JSON may end in spaces.
    over = (_HEADER_AT + len(text) + 4 * count) % _ALIGNMENT
    head = (text + " " * (_ALIGNMENT - over if over else 0)).encode("ascii")
    prefix = _PREFIX.pack(MAGIC, VERSION, count, len(head))
    return prefix, head, crc32(head, crc32(prefix))


_header_again = lru_cache(maxsize=1024)(_header)


def header_of(data: bytes) -> tuple[int, int]:
    """How many columns a record says that it has, and the bytes of their description.

    Raises:
        DamagedError: it has no prefix.
    """
    if len(data) < _HEADER_AT:
        raise DamagedError(f"{len(data)} bytes are too few for a record")
    _, _, columns, length = _PREFIX.unpack_from(data)
    return columns, length


def unpack(data: bytes) -> list[Section]:
    """The sections of a record, whose columns are read-only views into ``data``.

    Raises:
        DamagedError: The bytes are not what ``pack`` made; it has what is sound of them.
        NewerError: The record has a format version that is not known here.
    """
    try:
        return _sections(data)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # Its checksum holds, so it was written so: not by `pack`.
        raise DamagedError(f"its header describes no columns ({type(error).__name__})") from error


def _sections(data: bytes) -> list[Section]:
    header, checksums, at = _head(data)
    if sum(len(columns) for _, _, columns in header) != len(checksums):
        raise ValueError("it has not as many columns as checksums")
    view = memoryview(data)
    bad: list[str] = []
    sections: list[Section] = []
    damaged: set[int] = set()
    checksum = iter(checksums)
    for kind, meta, described in header:
        if not isinstance(kind, str) or not isinstance(meta, dict):
            raise TypeError("a section without a name, or without values")
        columns: dict[str, NDArray[Any]] = {}
        for name, text, shape in described:
            dtype, itemsize = _dtype(text)
            if not all(isinstance(axis, int) and axis >= 0 for axis in shape):
                raise ValueError("an axis of negative length")
            length = math.prod(shape) * itemsize
            end = at + length + -length % _ALIGNMENT
            expected = next(checksum)
            if end <= len(data) and crc32(view[at:end]) == expected:
                columns[name] = np.ndarray(shape, dtype, data, at)
            else:
                # Whatever the names are, an error is one line.
                bad.append(f"{kind}.{name}".encode("unicode_escape").decode())
                damaged.add(len(sections))
            at = end
        sections.append(Section(kind, meta, columns))
    if bad:
        raise DamagedError(f"damaged columns: {', '.join(bad)}", sections, damaged)
    if at != len(data):
        raise DamagedError(f"{len(data) - at:,} bytes follow the last column", sections)
    return sections


def _head(data: bytes) -> tuple[list[Any], tuple[int, ...], int]:
    """The header, the columns' checksums, and where the first column begins."""
    if len(data) < _HEADER_AT:
        raise DamagedError(f"{len(data)} bytes are too few for a record")
    magic, version, count, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise DamagedError("this does not begin as a record does")
    end = _HEADER_AT + length + 4 * count
    if end > len(data):
        raise DamagedError("the record ends within its header")
    (whole,) = _CHECKSUM.unpack_from(data, _PREFIX.size)
    # The prefix and its checksum are the same in all versions: else a flipped bit in the version
    # would pass for a newer record.
    if crc32(data[_HEADER_AT:end], crc32(data[: _PREFIX.size])) != whole:
        raise DamagedError("the checksum of the header does not hold")
    if version != VERSION:
        raise NewerError(
            f"a record has format version {version}, and this Cellar knows {VERSION}: "
            "use the Cellar that wrote it, or a newer one"
        )
    header = cast("list[Any]", _decode(str(data[_HEADER_AT : _HEADER_AT + length], "ascii")))
    return header, struct.unpack_from(f"<{count}I", data, _HEADER_AT + length), end


@lru_cache(maxsize=256)
def _written_as(dtype: np.dtype[Any]) -> str | None:
    """How a type is written, little-endian; ``None`` where records do not hold it."""
    # Extended floats are another number on another machine.
    if dtype.kind not in "biufcmM" or dtype.char in "gG":
        return None
    return dtype.newbyteorder("<").str


@lru_cache(maxsize=256)
def _dtype(text: str) -> tuple[np.dtype[Any], int]:
    dtype = np.dtype(text)
    if _written_as(dtype) != text:
        raise ValueError("a type that records do not hold")
    return dtype, dtype.itemsize
