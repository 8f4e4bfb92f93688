"""The client of Cellar: sessions of recurrent models, a step at a time.

::

    import cellar

    with cellar.connect("localhost:8001") as client, client.session("shakespeare") as session:
        session.step("h", top_k=5).top
        session.generate(" Now is", max_steps=200, temperature=0.8).text()

``cellar.connect`` is synchronous; ``cellar.aio.connect`` is the same, asynchronous.
"""

from cellar import aio
from cellar.client import Client, connect
from cellar.errors import (
    BadInputError,
    BusyError,
    CellarError,
    ClosedError,
    ConnectionLostError,
    DeadlineExceededError,
    DrainingError,
    InternalError,
    LoadingError,
    ModelUnknownError,
    NotAllowedError,
    NotStartedError,
    NotStreamableError,
    OverloadedError,
    PositionMismatchError,
    PreconditionError,
    ProtocolError,
    ReplyLostError,
    ServerError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionLimitError,
    SessionNotFoundError,
    SessionUnknownError,
    StateLostError,
    StepConflictError,
    UnansweredError,
)
from cellar.inputs import FrameInputs, StepInputs
from cellar.model_info import InputKind, ModelInfo, PredictionKind, SessionInfo, SessionStatus
from cellar.outputs import OutputOptions, Sampling
from cellar.predictions import Candidate, Prediction, Predictions
from cellar.results import (
    FinishReason,
    Forecast,
    Piece,
    RowFailure,
    RowsRefusedError,
    SequencePredictions,
    StreamReply,
)
from cellar.retry import RetryPolicy
from cellar.session import Generation, Session
from cellar.stream import Stream

__all__ = [
    "BadInputError",
    "BusyError",
    "Candidate",
    "CellarError",
    "Client",
    "ClosedError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "DrainingError",
    "FinishReason",
    "Forecast",
    "FrameInputs",
    "Generation",
    "InputKind",
    "InternalError",
    "LoadingError",
    "ModelInfo",
    "ModelUnknownError",
    "NotAllowedError",
    "NotStartedError",
    "NotStreamableError",
    "OutputOptions",
    "OverloadedError",
    "Piece",
    "PositionMismatchError",
    "PreconditionError",
    "Prediction",
    "PredictionKind",
    "Predictions",
    "ProtocolError",
    "ReplyLostError",
    "RetryPolicy",
    "RowFailure",
    "RowsRefusedError",
    "Sampling",
    "SequencePredictions",
    "ServerError",
    "Session",
    "SessionClosedError",
    "SessionExistsError",
    "SessionExpiredError",
    "SessionInfo",
    "SessionLimitError",
    "SessionNotFoundError",
    "SessionStatus",
    "SessionUnknownError",
    "StateLostError",
    "StepConflictError",
    "StepInputs",
    "Stream",
    "StreamReply",
    "UnansweredError",
    "aio",
    "connect",
]
