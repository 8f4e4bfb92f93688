"""Bytes that were a message once."""

from collections.abc import Callable
from random import Random

_VARINT, _FIXED_64, _LENGTH, _GROUP, _END_OF_GROUP, _FIXED_32 = range(6)
_MOST = 1 << 20


def mutated(random: Random, data: bytes) -> bytes:
    """Something that is almost the message, or nothing like it."""
    for _ in range(random.choice((1, 1, 2))):
        data = random.choice(_WAYS)(random, data)[:_MOST]
    return data


def _flip(random: Random, data: bytes) -> bytes:
    found = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 2, 8))):
        found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _extend(random: Random, data: bytes) -> bytes:
    return data + random.randbytes(random.choice((1, 2, 10, 1000)))


def _insert_length_bomb(random: Random, data: bytes) -> bytes:
    """A field that says to be longer than all that follows, or than anything can be."""
    at = random.randrange(len(data) + 1)
    size = random.choice((2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 100_000))
    return data[:at] + _tag(random.randrange(1, 9), _LENGTH) + varint(size) + data[at:]


def _retype(random: Random, data: bytes) -> bytes:
    """A field with another wire type."""
    fields = split(data)
    if not fields:
        return _tag(1, random.randrange(8))
    at = random.randrange(len(fields))
    first = fields[at][0] & ~7 | random.randrange(8)
    fields[at] = bytes((first,)) + fields[at][1:]
    return b"".join(fields)


def _repeat(random: Random, data: bytes) -> bytes:
    fields = split(data) or [_tag(1, _VARINT) + b"\1"]
    at = random.randrange(len(fields))
    fields.insert(random.randrange(len(fields) + 1), fields[at] * random.choice((1, 2, 100, 3000)))
    return b"".join(fields)


def _shuffle(random: Random, data: bytes) -> bytes:
    fields = split(data)
    random.shuffle(fields)
    return b"".join(fields)


def _remove(random: Random, data: bytes) -> bytes:
    fields = split(data)
    if fields:
        del fields[random.randrange(len(fields))]
    return b"".join(fields)


def _add_unknown(random: Random, data: bytes) -> bytes:
    number = random.choice((0, 9, 1000, 19_000, 2**29 - 1))
    kind, value = random.choice(
        (
            (_VARINT, varint(2**64 - 1)),
            (_FIXED_64, b"\xff" * 8),
            (_LENGTH, varint(5) + b"\xff\0\xfe\xc3\x28"),
            (_FIXED_32, b"\xff" * 4),
            (_GROUP, _tag(number, _END_OF_GROUP)),
            (_END_OF_GROUP, b""),
        )
    )
    return data + _tag(number, kind) + value


def _nest(random: Random, data: bytes) -> bytes:
    """The message within itself, again and again."""
    depth = random.choice((2, 50, 99, 101, 2000))
    if random.random() < 0.5:
        return data + _tag(1, _GROUP) * depth + _tag(1, _END_OF_GROUP) * depth
    number = random.randrange(1, 6)
    for _ in range(depth):
        data = _tag(number, _LENGTH) + varint(len(data)) + data
    return data


def _long_varint(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + _tag(random.randrange(1, 9), _VARINT) + b"\xff" * 10 + b"\1" + data[at:]


def _bad_text(random: Random, data: bytes) -> bytes:
    """Text that is not UTF-8, which proto3 forbids."""
    return _tag(random.randrange(1, 4), _LENGTH) + b"\4a\xff\xfe\x80" + data


def _large_column(random: Random, data: bytes) -> bytes:
    """A packed column of many numbers, or of a length that is none of theirs."""
    size = random.choice((4 * 50_000, 4 * 50_000 + 1, 8 * 30_000, 3))
    return data + _tag(random.randrange(1, 6), _LENGTH) + varint(size) + bytes(size)


def _nothing(_random: Random, _data: bytes) -> bytes:
    return b""


def _anything(random: Random, _data: bytes) -> bytes:
    return random.randbytes(random.choice((1, 5, 40, 400)))


_WAYS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _truncate, _truncate, _extend, _insert_length_bomb, _retype, _retype,
    _repeat, _shuffle, _remove, _add_unknown, _nest, _long_varint, _bad_text, _large_column,
    _nothing, _anything,
)  # fmt: skip


def split(data: bytes) -> list[bytes]:
    """The fields of a message, each with its tag; what is no field ends the list."""
    fields, at = [], 0
    while at < len(data):
        end = _end_of_field(data, at)
        if end is None or end > len(data):
            fields.append(data[at:])
            break
        fields.append(data[at:end])
        at = end
    return fields


def _end_of_field(data: bytes, at: int) -> int | None:
    tag, at = _read_varint(data, at)
    match tag & 7:
        case 0:
            return _read_varint(data, at)[1]
        case 1:
            return at + 8
        case 2:
            size, at = _read_varint(data, at)
            return at + size
        case 5:
            return at + 4
    return None


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return number, at


def _tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


__all__ = ["mutated", "split", "varint"]
