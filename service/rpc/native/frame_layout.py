"""The commonest request read without a parser: a frame of one session, one token.

Serialisers write fields in the order of their numbers, so that such a frame has one layout for each
choice of optional fields. Bytes that fit one exactly mean what they seem to; everything else goes
to protobuf, which reads these too, in six times as long.
"""

import struct
from dataclasses import dataclass
from itertools import product
from typing import Any

from cellar.v1 import session_pb2, values_pb2
from service.rpc.native.decode import LARGEST


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes between the numbers, and where the numbers are."""

    unpack: Any  # of a Struct: constants and numbers in turn
    constants: tuple[bytes, ...]
    has_position: bool
    has_number: bool


def one_token(message: bytes) -> tuple[int, int | None, int, int] | None:
    """Channel, position, token and number of a ``StreamRequest`` that is such a frame."""
    layout = _LAYOUTS.get(len(message))
    if layout is None:
        return None
    found = layout.unpack(message)
    if found[::2] != layout.constants:
        return None
    numbers = found[1::2]
    if layout.has_position:
        channel, position, token = numbers[:3]
        position = min(position, LARGEST)
    else:
        (channel, token), position = numbers[:2], None
    return channel, position, token, numbers[-1] if layout.has_number else 0


def _layout(*, has_position: bool, has_number: bool) -> tuple[int, _Layout]:
    """The layout with or without the optional fields, and its length."""
    example = session_pb2.StreamFrame(
        channels=[_MARK],
        positions=[_MARK] if has_position else [],
        inputs=values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[_MARK])),
        number=_MARK if has_number else 0,
    )
    message = session_pb2.StreamRequest(frame=example).SerializeToString()
    sizes = [4, *([8] if has_position else []), 4, *([8] if has_number else [])]
    pattern, constants, at = "<", [], 0
    for size, code in zip(sizes, ("IQ"[size == 8] for size in sizes), strict=True):
        start = message.index(_MARK.to_bytes(size, "little"), at)
        pattern += f"{start - at}s{code}"
        constants.append(message[at:start])
        at = start + size
    assert at == len(message), "the last field is a number"
    return len(message), _Layout(
        struct.Struct(pattern).unpack, tuple(constants), has_position, has_number
    )


_MARK = 0x5EA1AB1E  # does not occur by chance
_LAYOUTS = dict(
    _layout(has_position=position, has_number=number)
    for position, number in product((True, False), repeat=2)
)
LENGTHS = frozenset(_LAYOUTS)
"""Of the messages that may be such frames."""
