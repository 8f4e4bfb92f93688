"""Replies of streams as bytes.

On the wire a packed column of fixed width is a length and its elements, little-endian: an array's
bytes. Protobuf would make a Python number of each element.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellar.v1 import session_pb2, values_pb2
from service.engine.streams.frame import Refusal, Reply
from service.engine.streams.stream import reply_for_each
from service.engine.work.columns import ANSWERS, Answers
from service.engine.work.replies import SingleReplies
from service.errors import StaleBranchError
from service.rpc import status

# Numbers as they are on the wire.
_UINT32, _UINT64 = np.dtype("<u4"), np.dtype("<u8")
_INT32, _FLOAT = np.dtype("<i4"), np.dtype("<f4")
_TOKENS = ("argmax", "top_tokens", "sampled_tokens")
_WIRE = {name: _INT32 if name in _TOKENS else _FLOAT for name in ANSWERS}


def replies(result: Reply, *, at_once: int) -> Iterator[bytes]:
    """Rows of a stream, as serialised messages; many refusals come in several."""
    frame = _frame(result.frame)
    for start in range(0, len(result.refusals), at_once):
        errors = b"".join(_row_errors(result.refusals[start : start + at_once]))
        yield _fields([(_RESPONSE["reply"], errors + frame)])
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
    end = _frame(result.frame) + _groups(result.groups)
    return _fields([(_RESPONSE["reply"], _fields(columns) + end)])


def durable(group: int) -> bytes:
    """That a group of the log is durable, for a stream that has nothing to answer."""
    message = session_pb2.StreamDurable(group=group)
    return session_pb2.StreamResponse(durable=message).SerializeToString()


@lru_cache(maxsize=64)
def _groups(groups: tuple[int, int]) -> bytes:
    if not groups[0]:
        return b""
    return b"".join(
        [
            _tag(_REPLY[name], _FIXED_64) + number.to_bytes(8, "little")
            for name, number in zip(("group", "durable_group"), groups, strict=True)
        ]
    )


def _frame(number: int) -> bytes:
    return _tag(_REPLY["frame"], _FIXED_64) + number.to_bytes(8, "little")


def _row_errors(refusals: Sequence[Refusal]) -> Iterator[bytes]:
    """Why rows were refused, as the ``errors`` of a reply.

    Rows that are refused together are alike but for two numbers of fixed width. To refuse what is
    too much must not cost more than to serve it.
    """
    for _, alike in groupby(refusals, key=lambda refusal: id(refusal.error)):
        own = list(alike)
        if len(own) < _WORTH_A_MATRIX or None in [refusal.position for refusal in own]:
            errors = [row_error(refusal).SerializeToString() for refusal in own]
            yield _fields([(_REPLY["errors"], error) for error in errors])
            continue
        channels, _, positions = zip(*own, strict=True)
        message = row_error(own[0])
        message.ClearField("channel")
        message.ClearField("position")
        same = message.SerializeToString()  # the order of fields in a message is free
        size = len(same) + 2 + 4 + 8
        yield _matrix(
            [
                (_head(_REPLY["errors"], size) + same, np.empty((len(own), 0), np.uint8)),
                (_tag(_ROW["channel"], _FIXED_32), _bytes(np.array(channels, _UINT32), _UINT32)),
                (_tag(_ROW["position"], _FIXED_64), _bytes(np.array(positions, _UINT64), _UINT64)),
            ],
            len(own),
        ).tobytes()


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
        (_groups(rows.groups), nothing),
    ]
    size = sum(len(head) + values.shape[1] for head, values in reply)
    matrix = _matrix([(_head(_RESPONSE["reply"], size), nothing), *reply], count)
    data, width = matrix.tobytes(), matrix.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def _matrix(parts: Sequence[tuple[bytes, NDArray[np.uint8]]], count: int) -> NDArray[np.uint8]:
    """The bytes of ``count`` rows, (rows, bytes): of each part the same head, then a row's own."""
    width = sum(len(head) + values.shape[1] for head, values in parts)
    matrix = np.empty((count, width), np.uint8)
    at = 0
    for head, values in parts:
        matrix[:, at : at + len(head)] = np.frombuffer(head, np.uint8)
        at += len(head)
        matrix[:, at : at + values.shape[1]] = values
        at += values.shape[1]
    return matrix


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


_LENGTH, _FIXED_64, _FIXED_32 = 2, 1, 5  # wire types
_RESPONSE = _numbers(session_pb2.StreamResponse)
_REPLY = _numbers(session_pb2.StreamReply)
_ROW = _numbers(session_pb2.RowError)
_PREDICTIONS = _numbers(values_pb2.Predictions)
_WORTH_A_MATRIX = 5  # rows
_ROW_ERROR_BYTES = status.ROW_BYTES + 64  # at most: its message, its reason, its numbers


def row_errors_in(size: int, at_most: int) -> int:
    """How many row errors certainly fit into a message of so many bytes."""
    return max(1, min(at_most, size // _ROW_ERROR_BYTES))


def row_error(refusal: Refusal) -> session_pb2.RowError:
    """Why one row was refused."""
    error = refusal.error
    return session_pb2.RowError(
        channel=refusal.channel,
        code=status.code_number(error),
        reason=error.reason,
        message=status.row_message(error),
        position=refusal.position,
        retry_delay=status.retry_delay(error),
        branch=error.branch if isinstance(error, StaleBranchError) else None,
        kept_position=error.kept if isinstance(error, StaleBranchError) else None,
    )
