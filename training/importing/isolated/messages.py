"""What goes to the process beside and comes back: plain values, bytes and arrays.

A message is the length of its text, the text (JSON), and the bytes and arrays that stand in it by
number, each with its length. Reading one executes nothing: the process beside has run files of
somebody else's.
"""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")


def packed(message: object) -> bytes:
    """The bytes of a message: None, truth values, numbers, text, bytes, arrays, lists, dicts.

    Raises:
        TypeError: there is something else in it.
    """
    blobs: list[bytes] = []
    text = json.dumps(_told(message, blobs)).encode()
    parts = [_LENGTH.pack(len(text)), text]
    for blob in blobs:
        parts += [_LENGTH.pack(len(blob)), blob]
    return b"".join(parts)


def unpacked(content: bytes) -> Any:
    """What `packed` was given; tuples come back as lists."""
    parts, at = [], 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size + length
        parts.append(content[at - length : at])
    return _meant(json.loads(parts[0]), parts)


def _told(value: object, blobs: list[bytes]) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        blobs.append(value)
        return {"bytes": len(blobs)}
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        whole = value.astype(np.str_) if value.dtype == object else value  # texts are objects
        np.save(file, whole, allow_pickle=False)
        blobs.append(file.getvalue())
        return {"array": len(blobs)}
    if isinstance(value, Mapping):
        return {"dict": [[key, _told(one, blobs)] for key, one in value.items()]}
    if isinstance(value, Sequence):
        return [_told(one, blobs) for one in value]
    raise TypeError(f"messages do not hold {type(value).__name__}")


def _meant(value: Any, parts: Sequence[bytes]) -> Any:
    if isinstance(value, list):
        return [_meant(one, parts) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, what),) = value.items()
    if kind == "bytes":
        return parts[what]
    if kind == "array":
        return np.load(io.BytesIO(parts[what]), allow_pickle=False)
    return {key: _meant(one, parts) for key, one in what}
