"""What a server says of its models and sessions, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cellar.v1 import model_pb2, session_pb2


class InputKind(StrEnum):
    """What a model reads."""

    TOKENS = "tokens"
    VALUES = "values"


class PredictionKind(StrEnum):
    """What a model predicts."""

    LOGITS = "logits"
    LABELS = "labels"
    DISTRIBUTION = "distribution"
    RAW = "raw"


class SessionStatus(StrEnum):
    """Where a session is in its life."""

    UNKNOWN = "unknown"
    OPEN = "open"
    LOST = "lost"
    MODEL_CHANGED = "model changed"


class SessionTier(StrEnum):
    """Where a session's state is."""

    UNKNOWN = "unknown"
    DEVICE = "device"
    HOST = "host"
    STORE = "store"


_PREDICTIONS = {
    model_pb2.PREDICTION_KIND_LOGITS: PredictionKind.LOGITS,
    model_pb2.PREDICTION_KIND_LABELS: PredictionKind.LABELS,
    model_pb2.PREDICTION_KIND_DISTRIBUTION: PredictionKind.DISTRIBUTION,
}
_STATUSES = {
    session_pb2.SESSION_STATUS_OPEN: SessionStatus.OPEN,
    session_pb2.SESSION_STATUS_LOST: SessionStatus.LOST,
    session_pb2.SESSION_STATUS_MODEL_CHANGED: SessionStatus.MODEL_CHANGED,
}
_TIERS = {
    session_pb2.SESSION_TIER_DEVICE: SessionTier.DEVICE,
    session_pb2.SESSION_TIER_HOST: SessionTier.HOST,
    session_pb2.SESSION_TIER_STORE: SessionTier.STORE,
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelInfo:
    """One version of one model.

    Attributes:
        name: its name.
        version: its version.
        default_version: True for the version that requests without one get.
        task: what it was made for: char, series, classify, or foreign.
        input: tokens or values.
        width: values per step; 1 for tokens.
        vocabulary: the symbols by token id; empty in listings and where there is none.
        features: the features, in the order of a row of values.
        prediction: logits, labels, distribution or raw.
        prediction_width: numbers per raw prediction.
        labels: the labels, in the order of their scores; empty where it predicts none.
        streamable: True if sessions of it can be opened; False if it reads whole sequences only.
        predicts_per_step: True if it predicts after every step; False if once for a sequence.
        rows_run_alone: True if each session, or whole sequence, runs by itself, since beside
            others it would come to other numbers.
        steps_run_alone: True if several steps of a session run one by one, since at once they
            would come to other numbers.
        largest_value: what a value may be, whatever its sign; None: anything finite.
        session_bytes: bytes of state per session.
        fingerprint: a hash of graph and weights.
        scores: scores measured at training.
        provenance: how it was made; empty in listings.
        unavailable_reason: why the server cannot serve it; empty for a model that is served. Of
            one that is not, name, version and default_version alone say something, and the version
            is 0 where its folder has no number.
    """

    name: str
    version: int
    default_version: bool
    task: str
    input: InputKind
    width: int
    vocabulary: tuple[str, ...]
    features: tuple[str, ...]
    prediction: PredictionKind
    prediction_width: int
    labels: tuple[str, ...]
    streamable: bool
    predicts_per_step: bool
    rows_run_alone: bool
    steps_run_alone: bool
    largest_value: float | None
    session_bytes: int
    fingerprint: str
    scores: Mapping[str, float]
    provenance: Mapping[str, Any]
    unavailable_reason: str = ""

    @property
    def beside(self) -> tuple[str, ...]:
        """The features that it reads beside the one that it predicts, in order.

        A forecast has to be told their future; empty where it has not, or predicts no value.
        """
        return self.features[1:] if self.prediction is PredictionKind.DISTRIBUTION else ()

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}" if self.version else self.name

    def __repr__(self) -> str:
        """What it is, in a line: the vocabulary and how it was made are too long for one."""
        if not self.available:
            return f"<model {self.title}, unavailable: {self.unavailable_reason}>"
        reads = "tokens"
        if self.input is InputKind.VALUES:
            reads = f"values ({', '.join(self.features) or self.width})"
        elif self.vocabulary:
            reads = f"tokens ({len(self.vocabulary)} symbols)"
        predicts = f"{len(self.labels)} labels" if self.labels else str(self.prediction)
        sessions = "" if self.streamable else ", whole sequences only"
        return f"<model {self.title}, {self.task}: reads {reads}, predicts {predicts}{sessions}>"

    @property
    def available(self) -> bool:
        """Whether it is served."""
        return not self.unavailable_reason

    @property
    def names(self) -> tuple[str, ...]:
        """What its predictions score: the labels, or else the vocabulary's symbols."""
        return self.labels or self.vocabulary

    @classmethod
    def decode(cls, model: model_pb2.Model) -> ModelInfo:
        """From the wire."""
        values = model.input == model_pb2.INPUT_KIND_VALUES
        return cls(
            name=model.name,
            version=model.version,
            default_version=model.default_version,
            task=model.task,
            input=InputKind.VALUES if values else InputKind.TOKENS,
            width=max(model.width, 1),
            vocabulary=tuple(model.vocabulary),
            features=tuple(model.features),
            prediction=_PREDICTIONS.get(model.prediction, PredictionKind.RAW),
            prediction_width=model.prediction_width,
            labels=tuple(model.labels),
            streamable=model.streamable,
            predicts_per_step=model.predicts_per_step,
            rows_run_alone=model.rows_run_alone,
            steps_run_alone=model.steps_run_alone,
            largest_value=model.largest_value or None,
            session_bytes=model.session_bytes,
            fingerprint=model.fingerprint,
            scores=dict(model.scores),
            provenance=json.loads(model.provenance_json) if model.provenance_json else {},
            unavailable_reason=model.unavailable_reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as the server sees it.

    Attributes:
        id: its id.
        model: its model's name.
        version: its model's version.
        status: open, or lost to a fault, or kept for a model file that is not there.
        position: steps consumed so far.
        branch: names its unbroken past, new when it is opened or reset; 0 when the server does not
            say.
        open_time: when it was opened (UTC).
        last_used_time: when it last opened, stepped or was reset, or, if it is ephemeral, was left
            by its last stream (UTC).
        idle_timeout_s: it expires after so many idle seconds; 0 when the server does not say.
        ephemeral: True if it ends with its last stream.
        owner: who has opened it; empty where the server does not ask who calls.
        tier: where its state is: on the device, or in the store alone until it is used.
        history_position: the earliest position that it can be rewound to, or forked at; None where
            it keeps no history.
    """

    id: str
    model: str
    version: int
    status: SessionStatus
    position: int
    branch: int
    open_time: datetime
    last_used_time: datetime
    idle_timeout_s: float
    ephemeral: bool = False
    owner: str = ""
    tier: SessionTier = SessionTier.UNKNOWN
    history_position: int | None = None

    @classmethod
    def decode(cls, session: session_pb2.Session) -> SessionInfo:
        """From the wire."""
        return cls(
            id=session.id,
            model=session.model,
            version=session.model_version,
            status=_STATUSES.get(session.status, SessionStatus.UNKNOWN),
            position=session.position,
            branch=session.branch,
            open_time=session.open_time.ToDatetime(tzinfo=UTC),
            last_used_time=session.last_used_time.ToDatetime(tzinfo=UTC),
            idle_timeout_s=session.idle_timeout.ToTimedelta().total_seconds(),
            ephemeral=session.ephemeral,
            owner=session.owner,
            tier=_TIERS.get(session.tier, SessionTier.UNKNOWN),
            history_position=(
                session.history_position if session.HasField("history_position") else None
            ),
        )
