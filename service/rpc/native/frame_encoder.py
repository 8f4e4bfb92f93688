"""Replies of streams as bytes.

On the wire a packed column of fixed width is a length and its elements, little-endian: an array's
bytes. Protobuf would make a Python number of each element.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellar.v1 import session_pb2, values_pb2
from service.engine.streams.frame import Refusal, Reply
from service.engine.streams.stream import reply_for_each
from service.engine.work.columns import ANSWERS, Answers
from service.engine.work.replies import SingleReplies
from service.rpc import status

# Numbers as they are on the wire.
_UINT32, _UINT64 = np.dtype("<u4"), np.dtype("<u8")
_INT32, _FLOAT = np.dtype("<i4"), np.dtype("<f4")
_TOKENS = ("argmax", "top_tokens", "sampled_tokens")
_WIRE = {name: _INT32 if name in _TOKENS else _FLOAT for name in ANSWERS}


def replies(result: Reply, *, at_once: int) -> Iterator[bytes]:
    """Rows of a stream, as serialised messages; many refusals come in several."""
    for start in range(0, len(result.refusals), at_once):
        refused = session_pb2.StreamReply(frame=result.frame)
        refused.errors.extend(map(row_error, result.refusals[start : start + at_once]))
        yield session_pb2.StreamResponse(reply=refused).SerializeToString()
    if len(result.channels):
        yield _answers(result)


def _answers(result: Reply) -> bytes:
    """Rows of a frame as a message; a packed column is a length, then its elements."""
    channels = result.channels.astype(_UINT32).tobytes()
    columns = [(_REPLY["channels"], channels)]
    columns.append((_REPLY["positions"], result.positions.astype(_UINT64, copy=False).tobytes()))
    if result.counts is not None:
        columns.append((_REPLY["counts"], result.counts.astype(_UINT32).tobytes()))
    if result.answers is not None:
        predictions = result.answers.columns.items()
        numbered = [
            (_PREDICTIONS[n], c.astype(_WIRE[n], copy=False).tobytes()) for n, c in predictions
        ]
        columns.append((_REPLY["predictions"], _fields(numbered)))
    if result.replayed:
        columns.append((_REPLY["replayed"], channels))
    frame = _tag(_REPLY["frame"], _FIXED_64) + result.frame.to_bytes(8, "little")
    return _fields([(_RESPONSE["reply"], _fields(columns) + frame)])


def _fields(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """Fields by number, each a length and so many bytes."""
    return b"".join([part for number, data in fields for part in (_head(number, len(data)), data)])


def single_replies(rows: SingleReplies) -> list[bytes]:
    """One serialised message for each of several single steps.

    All are alike but for their numbers, so they are laid out as the rows of one matrix of bytes.
    """
    count = len(rows.channels)
    if count < _WORTH_A_MATRIX:
        return [_answers(reply) for reply in reply_for_each(rows)]
    nothing = np.empty((count, 0), np.uint8)
    columns = _prediction_columns(rows.answers)
    predictions = sum(len(head) + values.shape[1] for head, values in columns)
    reply = [
        (_head(_REPLY["channels"], 4), _bytes(np.array(rows.channels, _UINT32), _UINT32)),
        (_head(_REPLY["positions"], 8), _bytes(rows.positions, _UINT64)),
        (_head(_REPLY["predictions"], predictions), nothing),
        *columns,
        (_tag(_REPLY["frame"], _FIXED_64), _bytes(np.array(rows.numbers, _UINT64), _UINT64)),
    ]
    size = sum(len(head) + values.shape[1] for head, values in reply)
    parts = [(_head(_RESPONSE["reply"], size), nothing), *reply]
    width = sum(len(head) + values.shape[1] for head, values in parts)
    matrix = np.empty((count, width), np.uint8)
    at = 0
    for head, values in parts:
        matrix[:, at : at + len(head)] = np.frombuffer(head, np.uint8)
        at += len(head)
        matrix[:, at : at + values.shape[1]] = values
        at += values.shape[1]
    data = matrix.tobytes()
    return [data[start : start + width] for start in range(0, len(data), width)]


def _prediction_columns(answers: Answers) -> list[tuple[bytes, NDArray[np.uint8]]]:
    """What goes before each column of a row's predictions, and the column, (rows, bytes)."""
    columns = []
    for name in sorted(answers.columns, key=_PREDICTIONS.__getitem__):  # as serialisers do
        values = _bytes(answers.columns[name], _WIRE[name])
        columns.append((_head(_PREDICTIONS[name], values.shape[1]), values))
    return columns


def _bytes(column: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """A column's rows as bytes, (rows, bytes)."""
    rows = np.ascontiguousarray(column.astype(dtype, copy=False)).reshape(len(column), -1)
    return rows.view(np.uint8)


@lru_cache(maxsize=4096)
def _head(number: int, size: int) -> bytes:
    """What goes before a field of so many bytes."""
    return _tag(number, _LENGTH) + _varint(size)


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _numbers(message: Any) -> dict[str, int]:
    return {field.name: field.number for field in message.DESCRIPTOR.fields}


_LENGTH, _FIXED_64 = 2, 1  # wire types
_RESPONSE = _numbers(session_pb2.StreamResponse)
_REPLY = _numbers(session_pb2.StreamReply)
_PREDICTIONS = _numbers(values_pb2.Predictions)
_WORTH_A_MATRIX = 5  # rows
_ROW_ERROR_BYTES = status.ROW_BYTES + 64  # at most: its message, its reason, its numbers


def row_errors_in(size: int, at_most: int) -> int:
    """How many row errors certainly fit into a message of so many bytes."""
    return max(1, min(at_most, size // _ROW_ERROR_BYTES))


def row_error(refusal: Refusal) -> session_pb2.RowError:
    """Why one row was refused."""
    return session_pb2.RowError(
        channel=refusal.channel,
        code=status.code_number(refusal.error),
        reason=refusal.error.reason,
        message=status.row_message(refusal.error),
        position=refusal.position,
    )
