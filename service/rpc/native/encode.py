"""From the engine's words to messages."""

import json
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cellar.v1 import model_pb2, session_pb2, values_pb2
from models.manifest import PredictionKind, TokensInput, ValuesInput
from service.engine.calls.forecast import ForecastResult
from service.engine.calls.generate import Piece
from service.engine.calls.predict import PredictResult
from service.engine.engine import Engine
from service.engine.scheduler.feedback.call import FinishReason
from service.engine.served.outputs import DEFAULT_LEVELS
from service.engine.served.registry import ServedModel, UnavailableModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.table.status import SessionStatus, SessionTier
from service.engine.work.columns import Answers, Outputs

_SYMBOLS = (
    ("argmax", "argmax_symbols"),
    ("top_tokens", "top_symbols"),
    ("sampled_tokens", "sampled_symbols"),
)
_STATUS = {
    SessionStatus.OPEN: session_pb2.SESSION_STATUS_OPEN,
    SessionStatus.MOVING: session_pb2.SESSION_STATUS_MOVING,
    SessionStatus.LOST: session_pb2.SESSION_STATUS_LOST,
    SessionStatus.MODEL_CHANGED: session_pb2.SESSION_STATUS_MODEL_CHANGED,
}
_TIER = {
    SessionTier.DEVICE: session_pb2.SESSION_TIER_DEVICE,
    SessionTier.HOST: session_pb2.SESSION_TIER_HOST,
    SessionTier.STORE: session_pb2.SESSION_TIER_STORE,
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
        branch=info.branch,
        position=info.position,
        open_time=_timestamp(info.opened_s),
        last_used_time=_timestamp(info.last_used_s),
        idle_timeout=_duration(info.idle_timeout_s),
        ephemeral=info.ephemeral,
        owner=info.owner,
        tier=_TIER[info.tier],
        history_position=info.history_position,
    )


def predictions(
    answers: Answers, outputs: Outputs, names: Sequence[str] = ()
) -> values_pb2.Predictions:
    """Answers, column by column; with ``names`` tokens and labels come by their names too.

    ``outputs`` are those asked for: their levels come back with the quantiles.
    """
    count, columns = 0, {}
    for name, column in answers.columns.items():
        count = len(column)
        columns[name] = (column if column.ndim == 1 else column.ravel()).tolist()
    if names:
        for name, symbols in _SYMBOLS:
            tokens = columns.get(name)
            if tokens is not None:
                columns[symbols] = [names[token] for token in tokens]
    levels = (outputs.quantiles or DEFAULT_LEVELS) if "quantiles" in columns else ()
    return values_pb2.Predictions(**columns, count=count, levels=levels)


def outputs(returned: Outputs, asked: values_pb2.Outputs) -> values_pb2.Outputs:
    """What is returned; how it is drawn is as it was asked."""
    return values_pb2.Outputs(
        argmax=returned.argmax,
        top_k=returned.top_k,
        probabilities=returned.probabilities,
        sample=asked.sample if asked.HasField("sample") else None,
        quantiles=returned.quantiles,
        raw=returned.raw,
        every_step=returned.every_step,
    )


def piece(result: Piece, durable: int | None) -> session_pb2.GenerateResponse:
    """A piece of a generation; its session is ``durable`` up to that position, with a store."""
    return session_pb2.GenerateResponse(
        text=result.text,
        tokens=result.tokens,
        values=result.values,
        position=result.position,
        finish_reason=_FINISH[result.finish_reason],
        durable_position=durable,
    )


def predicted(
    result: PredictResult, served: ServedModel, outputs: Outputs, names: Sequence[str]
) -> model_pb2.PredictResponse:
    """Predictions for whole sequences."""
    return model_pb2.PredictResponse(
        model=served.name,
        model_version=served.version,
        counts=() if result.counts is None else result.counts.tolist(),
        predictions=predictions(result.answers, outputs, names),
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


def model(engine: Engine, served: ServedModel, *, complete: bool) -> model_pb2.Model:
    """A model; ``complete`` adds vocabulary and provenance."""
    manifest = served.manifest
    message = model_pb2.Model(
        name=served.name,
        version=served.version,
        default_version=engine.registry.default_version(served.name) == served.version,
        task=manifest.task,
        width=manifest.input.width,
        prediction=_PREDICTION[manifest.prediction.kind],
        prediction_width=manifest.prediction.width,
        labels=manifest.prediction.labels,
        streamable=manifest.is_streamable,
        predicts_per_step=manifest.prediction.per_step,
        rows_run_alone=served.findings.rows_run_alone,
        steps_run_alone=served.findings.steps_run_alone,
        largest_value=served.findings.largest or 0.0,
        session_bytes=manifest.session_bytes,
        fingerprint=served.fingerprint,
        scores=manifest.scores,
    )
    if isinstance(manifest.input, TokensInput):
        message.input = model_pb2.INPUT_KIND_TOKENS
        if complete:
            message.vocabulary.extend(manifest.input.vocabulary)
    elif isinstance(manifest.input, ValuesInput):
        message.input = model_pb2.INPUT_KIND_VALUES
        message.features.extend(manifest.input.features)
    if complete and manifest.provenance is not None:
        message.provenance_json = json.dumps(manifest.provenance.model_dump(mode="json"))
    return message


def unavailable(engine: Engine, found: UnavailableModel) -> model_pb2.Model:
    """A model that cannot be served."""
    default = engine.registry.default_version(found.name)
    return model_pb2.Model(
        name=found.name,
        version=found.version or 0,
        default_version=found.version is not None and found.version == default,
        unavailable_reason=found.reason,
    )


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
