"""From the engine's words to messages."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from cellar.v1 import model_pb2, session_pb2, values_pb2
from models.manifest import PredictionKind, TokensInput, ValuesInput
from service.engine.calls.forecast import ForecastResult
from service.engine.calls.predict import PredictResult
from service.engine.engine import Engine
from service.engine.served.decoder import FinishReason, Piece
from service.engine.served.registry import ServedModel
from service.engine.sessions.table import SessionInfo, SessionStatus
from service.engine.streams.attachments import Attached
from service.engine.streams.frame import Refusal, Reply
from service.engine.streams.stream import reply_for_each
from service.engine.work.lones import LoneReplies
from service.engine.work.work import Answers
from service.rpc import status
from service.rpc.native import packed

# Numbers as they are on the wire.
_UINT32, _UINT64 = np.dtype("<u4"), np.dtype("<u8")
_INT32, _FLOAT = np.dtype("<i4"), np.dtype("<f4")

_STATUS = {
    SessionStatus.OPEN: session_pb2.SESSION_STATUS_OPEN,
    SessionStatus.LOST: session_pb2.SESSION_STATUS_LOST,
}
_FINISH = {
    None: session_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.LENGTH: session_pb2.FINISH_REASON_LENGTH,
    FinishReason.STOP: session_pb2.FINISH_REASON_STOP,
}
_PREDICTION = {
    PredictionKind.LOGITS: model_pb2.PREDICTION_KIND_LOGITS,
    PredictionKind.LABELS: model_pb2.PREDICTION_KIND_LABELS,
    PredictionKind.DISTRIBUTION: model_pb2.PREDICTION_KIND_DISTRIBUTION,
    PredictionKind.RAW: model_pb2.PREDICTION_KIND_RAW,
}


def session(info: SessionInfo) -> session_pb2.Session:
    """A session as it stands."""
    return session_pb2.Session(
        id=info.id,
        model=info.model,
        model_version=info.version,
        status=_STATUS[info.status],
        position=info.position,
        open_time=_timestamp(info.opened_s),
        last_used_time=_timestamp(info.last_used_s),
        idle_timeout=_duration(info.idle_timeout_s),
    )


def predictions(answers: Answers, names: Sequence[str] = ()) -> values_pb2.Predictions:
    """Answers, column by column; with ``names`` tokens and labels come by their names too."""
    found = values_pb2.Predictions()
    if answers.argmax is not None:
        found.argmax.extend(answers.argmax.tolist())
    if answers.top_tokens is not None and answers.top_probabilities is not None:
        found.top_tokens.extend(answers.top_tokens.ravel().tolist())
        found.top_probabilities.extend(answers.top_probabilities.ravel().tolist())
    if answers.probabilities is not None:
        found.probabilities.extend(answers.probabilities.ravel().tolist())
    if answers.sampled_tokens is not None:
        found.sampled_tokens.extend(answers.sampled_tokens.tolist())
    if answers.sampled_values is not None:
        found.sampled_values.extend(answers.sampled_values.tolist())
    if answers.quantiles is not None:
        found.quantiles.extend(answers.quantiles.ravel().tolist())
    if answers.raw is not None:
        found.raw.extend(answers.raw.ravel().tolist())
    if names:
        found.argmax_symbols.extend(map(names.__getitem__, found.argmax))
        found.top_symbols.extend(map(names.__getitem__, found.top_tokens))
        found.sampled_symbols.extend(map(names.__getitem__, found.sampled_tokens))
    return found


def attached(result: Attached) -> session_pb2.StreamResponse:
    """The answer to an attach, but for its errors."""
    return session_pb2.StreamResponse(
        attached=session_pb2.StreamAttached(
            channels=result.channels.tolist(),
            positions=result.positions.tolist(),
        )
    )


def replies(result: Reply, *, refusals_at_once: int) -> Iterator[bytes]:
    """Rows of a stream, as serialised messages; many refusals come in several."""
    for start in range(0, len(result.refusals), refusals_at_once):
        refused = session_pb2.StreamReply(frame=result.frame)
        refused.errors.extend(map(row_error, result.refusals[start : start + refusals_at_once]))
        yield session_pb2.StreamResponse(reply=refused).SerializeToString()
    if len(result.channels):
        yield _answers(result)


def _answers(result: Reply) -> bytes:
    message = packed.StreamResponse()
    rows = message.reply
    rows.frame = result.frame
    rows.channels = channels = result.channels.astype(_UINT32).tobytes()
    rows.positions = result.positions.astype(_UINT64, copy=False).tobytes()
    if result.counts is not None:
        rows.counts = result.counts.astype(_UINT32).tobytes()
    if result.answers is not None:
        _pack(rows.predictions, result.answers)
    if result.replayed:
        rows.replayed = channels
    found: bytes = message.SerializeToString()
    return found


def _pack(columns: Any, answers: Answers) -> None:
    if answers.argmax is not None:
        columns.argmax = answers.argmax.astype(_INT32, copy=False).tobytes()
    if answers.top_tokens is not None and answers.top_probabilities is not None:
        columns.top_tokens = answers.top_tokens.astype(_INT32, copy=False).tobytes()
        columns.top_probabilities = answers.top_probabilities.astype(_FLOAT, copy=False).tobytes()
    if answers.probabilities is not None:
        columns.probabilities = answers.probabilities.astype(_FLOAT, copy=False).tobytes()
    if answers.sampled_tokens is not None:
        columns.sampled_tokens = answers.sampled_tokens.astype(_INT32, copy=False).tobytes()
    if answers.sampled_values is not None:
        columns.sampled_values = answers.sampled_values.astype(_FLOAT, copy=False).tobytes()
    if answers.quantiles is not None:
        columns.quantiles = answers.quantiles.astype(_FLOAT, copy=False).tobytes()
    if answers.raw is not None:
        columns.raw = answers.raw.astype(_FLOAT, copy=False).tobytes()


def lone_replies(rows: LoneReplies) -> list[bytes]:
    """One serialised message for each of several lone steps.

    All are alike but for their numbers, so they are laid out as the rows of one matrix of bytes.
    """
    count = len(rows.channels)
    if count < _WORTH_A_MATRIX:
        return [_answers(reply) for reply in reply_for_each(rows)]
    nothing = np.empty((count, 0), np.uint8)
    columns = _prediction_columns(rows.answers)
    predictions = sum(len(head) + values.shape[1] for head, values in columns)
    reply = [
        (_head(_REPLY["channels"], 4), _bytes(rows.channels, _UINT32)),
        (_head(_REPLY["positions"], 8), _bytes(rows.positions, _UINT64)),
        (_head(_REPLY["predictions"], predictions), nothing),
        *columns,
        (_tag(_REPLY["frame"], _FIXED_64), _bytes(rows.numbers, _UINT64)),
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
    found = (
        ("argmax", answers.argmax, _INT32),
        ("top_tokens", answers.top_tokens, _INT32),
        ("top_probabilities", answers.top_probabilities, _FLOAT),
        ("probabilities", answers.probabilities, _FLOAT),
        ("sampled_tokens", answers.sampled_tokens, _INT32),
        ("sampled_values", answers.sampled_values, _FLOAT),
        ("quantiles", answers.quantiles, _FLOAT),
        ("raw", answers.raw, _FLOAT),
    )
    columns = []
    for name, column, dtype in found:
        if column is not None:
            values = _bytes(column, dtype)
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


def piece(result: Piece) -> session_pb2.GenerateResponse:
    """A piece of a generation."""
    return session_pb2.GenerateResponse(
        text=result.text,
        tokens=result.tokens,
        values=result.values,
        position=result.position,
        finish_reason=_FINISH[result.finish_reason],
    )


def predicted(
    result: PredictResult, served: ServedModel, names: Sequence[str]
) -> model_pb2.PredictResponse:
    """Predictions for whole sequences."""
    return model_pb2.PredictResponse(
        model=served.name,
        model_version=served.version,
        counts=() if result.counts is None else result.counts.tolist(),
        predictions=predictions(result.answers, names),
    )


def forecast(result: ForecastResult, *, include_paths: bool) -> session_pb2.ForecastResponse:
    """A forecast."""
    return session_pb2.ForecastResponse(
        position=result.position,
        levels=result.levels,
        quantiles=result.quantiles.ravel().tolist(),
        mean=result.mean.tolist(),
        paths=result.paths.ravel().tolist() if include_paths else (),
    )


def model(engine: Engine, served: ServedModel, *, whole: bool) -> model_pb2.Model:
    """A model; ``whole`` adds vocabulary and provenance."""
    manifest = served.manifest
    message = model_pb2.Model(
        name=served.name,
        version=served.version,
        default_version=engine.catalog.default_version(served.name) == served.version,
        task=manifest.task,
        width=manifest.input.width,
        prediction=_PREDICTION[manifest.prediction.kind],
        prediction_width=manifest.prediction.width,
        labels=manifest.prediction.labels,
        streamable=manifest.is_streamable,
        predicts_per_step=manifest.prediction.per_step,
        session_bytes=manifest.session_bytes,
        fingerprint=served.fingerprint,
        scores=manifest.scores,
    )
    if isinstance(manifest.input, TokensInput):
        message.input = model_pb2.INPUT_KIND_TOKENS
        if whole:
            message.vocabulary.extend(manifest.input.vocabulary)
    elif isinstance(manifest.input, ValuesInput):
        message.input = model_pb2.INPUT_KIND_VALUES
        message.features.extend(manifest.input.features)
    if whole and manifest.provenance is not None:
        message.provenance_json = json.dumps(manifest.provenance.model_dump(mode="json"))
    return message


def row_error(refusal: Refusal) -> session_pb2.RowError:
    """Why one row was refused."""
    return session_pb2.RowError(
        channel=refusal.channel,
        code=status.code_number(refusal.error),
        reason=refusal.error.reason,
        message=status.row_message(refusal.error),
        position=refusal.position,
    )


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
