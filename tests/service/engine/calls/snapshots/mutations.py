"""Snapshots that somebody has changed, with checksums that hold all the same where he knows how."""

import json
import math
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np

from service.engine.calls.snapshots.snapshot import MAGIC, sealed
from service.store.records import Section, pack, unpack

HEAD_BYTES, DIGEST_BYTES = 24, 32
_WHOLE = [-1, 0, 1, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**62, 2**63, 2**64, 10**400, -(2**63)]
_NUMBERS: list[Any] = [*_WHOLE, 0.5, -0.0, 1e-300, 1e300, math.nan, math.inf, -math.inf]
_OTHERS: list[Any] = [
    "", "x", "\0", "\ud800", "x" * 5000, True, False, None, [], [1], {}, {"a": 1},
]  # fmt: skip
_TYPES = [
    "<f4",
    "<f8",
    ">f4",
    "<i8",
    "<u1",
    "|b1",
    "<c8",
    "<m8[s]",
    "|O",
    "|V8",
    "<U9",
    "f",
    "f4,i4",
]
_SHAPES: list[Any] = [
    [], [0], [1], [-1], [2**70], [0, 2**70], [1, 1, 1], [1] * 33, [2**31, 2**31], [1.5], "a", None,
]  # fmt: skip


def mutated(snapshot: bytes, dice: random.Random, key: bytes | None = None) -> bytes:
    """One of these; ``key`` is known to whoever makes it."""
    change: Callable[[bytes, random.Random, bytes | None], bytes] = dice.choice(
        [_bits, _length, _head, _record, _sections, _sections, _sections, _header, _signature]
    )
    return change(snapshot, dice, key)


def record_of(snapshot: bytes) -> bytes:
    """What is between head and checksum."""
    (length,) = struct.unpack_from("<Q", snapshot, 12)
    return snapshot[HEAD_BYTES : HEAD_BYTES + length]


def _bits(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    del key
    found = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 8])):
        found[dice.randrange(len(found))] ^= 1 << dice.randrange(8)
    return bytes(found)


def _length(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    del key
    at, size = dice.randrange(len(data) + 1), dice.choice([1, 7, 8, 32, 400])
    before, more = data[:at], dice.randbytes(size)
    return dice.choice(
        [before, data[at:], before + more + data[at:], before + data[at + size :], data * 2]
    )


def _head(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    """Another version, way to sign or length, under a checksum that holds."""
    del key
    fields: list[Any] = [MAGIC, *struct.unpack_from("<HHQ", data, 8)]
    which = dice.randrange(1, 4)
    fields[which] = dice.choice([0, 1, 2, 0xFFFF, fields[which] + 1, fields[which] - 1]) & 0xFFFF
    if which == 3:
        fields[3] = dice.choice([fields[3], 0, 2**63, 2**64 - 1, len(data)])
    head = struct.pack("<8sHHQ", *fields)
    return head + struct.pack("<I", crc32(head)) + data[HEAD_BYTES:]


def _record(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    """Bytes of the record, sealed again."""
    change = dice.choice([_bits, _length])
    return sealed(change(record_of(data), dice, None), key)


def _signature(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    """By somebody else, or nobody."""
    record = record_of(data)
    other = dice.choice([None, b"k" * 32, b"", None if key is None else key[:-1]])
    found = sealed(record, other)
    if dice.random() < 0.5 and key is not None:
        found = data[:-DIGEST_BYTES] + dice.choice(
            [b"", bytes(DIGEST_BYTES), found[-DIGEST_BYTES:]]
        )
    return found


# ---- what a record says ----


def _sections(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    """Sections with other values, of which a record is made that holds."""
    sections = [
        Section(own.kind, dict(own.meta), {name: np.array(c) for name, c in own.columns.items()})
        for own in unpack(record_of(data))
    ]
    for _ in range(dice.choice([1, 1, 2])):
        dice.choice([_meta, _meta, _values, _shape, _columns, _swap, _order])(sections, dice)
    try:
        return sealed(pack(sections), key)
    except (TypeError, ValueError, UnicodeError):  # no record holds such
        return data[:-1]


def _some(sections: list[Section], dice: random.Random) -> tuple[Section, str]:
    having = [own for own in sections if own.columns]
    if not having:
        return Section("states", {}, {"x": np.zeros(1)}), "x"
    own = dice.choice(having)
    return own, dice.choice(sorted(own.columns))


def _put(section: Section, name: str, column: Any) -> None:
    assert isinstance(section.columns, dict)
    section.columns[name] = column


def _meta(sections: list[Section], dice: random.Random) -> None:
    having = [own for own in sections if own.meta] or sections
    meta: Mapping[str, Any] = dice.choice(having).meta
    assert isinstance(meta, dict)
    names = [*sorted(meta), "more"]
    name = dice.choice(names)
    if dice.random() < 0.1:
        meta.pop(name, None)
        return
    wild = _NUMBERS if dice.random() < 0.7 else _OTHERS
    meta[name] = dice.choice(wild)


def _values(sections: list[Section], dice: random.Random) -> None:
    section, name = _some(sections, dice)
    column = section.columns[name].copy()
    if column.size:
        wild = [math.nan, math.inf, -math.inf, 3e38, 1e-45, -1e30, 0.0]
        value = dice.choice(wild) if column.dtype.kind == "f" else dice.choice([0, -1, 2**62])
        column.ravel()[dice.randrange(column.size)] = value
        if dice.random() < 0.2:
            column[...] = value
    _put(section, name, column)


def _shape(sections: list[Section], dice: random.Random) -> None:
    section, name = _some(sections, dice)
    column = section.columns[name]
    _put(
        section,
        name,
        dice.choice(
            [
                column[None], column.ravel(), column[:0], column[:-1], column.T,
                np.concatenate([column, column]), column.astype(np.float64),
                column.astype(np.int64, casting="unsafe") if column.dtype.kind != "f"
                else column.view(np.int32), column.reshape(1, 1, -1), np.zeros((0, 9), np.float32),
            ]
        ),
    )  # fmt: skip


def _columns(sections: list[Section], dice: random.Random) -> None:
    section, name = _some(sections, dice)
    column = section.columns[name]
    assert isinstance(section.columns, dict)
    if dice.random() < 0.5:
        del section.columns[name]
    if dice.random() < 0.7:
        other = dice.choice([name + "x", "", "row", "history", "digest", "\n", "x" * 70_000])
        section.columns[other] = column
    if dice.random() < 0.1:
        section.columns.update({f"c{n}": column[:0] for n in range(2000)})


def _swap(sections: list[Section], dice: random.Random) -> None:
    (one, first), (other, second) = _some(sections, dice), _some(sections, dice)
    if first in one.columns and second in other.columns:
        held = one.columns[first]
        _put(one, first, other.columns[second])
        _put(other, second, held)


def _order(sections: list[Section], dice: random.Random) -> None:
    if not sections:
        return
    own = dice.choice(sections)
    match dice.randrange(4):
        case 0:
            sections.remove(own)
        case 1:
            sections.append(own)
        case 2:
            dice.shuffle(sections)
        case _:
            at = sections.index(own)
            sections[at] = Section(
                dice.choice(["", "steps", "session", "x"]), own.meta, own.columns
            )


def _header(data: bytes, dice: random.Random, key: bytes | None) -> bytes:
    """A record whose description is somebody's own, with a checksum that holds."""
    record = record_of(data)
    magic, version, count, length = struct.unpack_from("<4sHHI", record)
    described = json.loads(record[16 : 16 + length])
    holding = [own for own in described if own[2]]
    column = dice.choice(dice.choice(holding)[2])
    which = dice.randrange(6)
    if which == 0:
        column[1] = dice.choice(_TYPES)
    elif which == 1:
        column[2] = dice.choice(_SHAPES)
    elif which == 2:
        count = dice.choice([0, 1, 0xFFFF, count + 1])
    elif which == 3:
        version = dice.choice([0, 2, 0xFFFF])
    elif which == 4:
        dice.choice(described)[dice.randrange(3)] = dice.choice([*_OTHERS, 5])
    text = json.dumps(described, separators=(",", ":"))
    if which == 5:
        nested = "[" * dice.choice([10, 5000, 60_000])
        text = dice.choice(
            [nested, text + nested, "[]", "{}", "null", "", text[:-1], "[[]]", "NaN"]
        )
    body = record[16 + length :]
    text += " " * (-(16 + len(text) + 4 * count) % 8)
    head = text.encode("ascii", "replace")
    prefix = struct.pack("<4sHHI", magic, version, count, len(head))
    checksum = crc32(body[: 4 * count], crc32(head, crc32(prefix)))
    return sealed(prefix + struct.pack("<I", checksum) + head + body, key)
