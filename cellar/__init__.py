"""The client of Cellar: sessions of recurrent models, a step at a time.

::

    import cellar

    with cellar.connect("localhost:8001") as client, client.session("shakespeare") as session:
        session.step("h", top_k=5).top
        session.generate(" Now is", max_steps=200, temperature=0.8).text()

``cellar.connect`` is synchronous; ``cellar.aio.connect`` is the same, asynchronous.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellar import aio
    from cellar.calls.retry import RetryPolicy
    from cellar.errors import (
        BadInputError,
        BusyError,
        CellarError,
        ClosedError,
        ConnectionLostError,
        DeadlineExceededError,
        DrainingError,
        HistoryMissingError,
        InternalError,
        LoadingError,
        ModelChangedError,
        ModelUnavailableError,
        ModelUnknownError,
        NotAllowedError,
        NotStartedError,
        NotStreamableError,
        OverloadedError,
        PermissionDeniedError,
        PositionMismatchError,
        PreconditionError,
        ProtocolError,
        QuotaExceededError,
        ReplyLostError,
        ServerError,
        SessionClosedError,
        SessionExistsError,
        SessionExpiredError,
        SessionLimitError,
        SessionMovingError,
        SessionNotFoundError,
        SessionUnknownError,
        SnapshotInvalidError,
        StaleBranchError,
        StateLostError,
        StateMismatchError,
        StepConflictError,
        StoreFullError,
        StoreUnavailableError,
        UnansweredError,
        UnauthenticatedError,
    )
    from cellar.sync.client import Client
    from cellar.sync.connecting import connect
    from cellar.sync.generation import Generation, Generations
    from cellar.sync.session import Session
    from cellar.sync.stream import Stream
    from cellar.values.future import Future
    from cellar.values.inputs import FrameInputs, StepInputs
    from cellar.values.model_info import (
        InputKind,
        ModelInfo,
        PredictionKind,
        SessionInfo,
        SessionStatus,
        SessionTier,
    )
    from cellar.values.outputs import OutputOptions, Sampling
    from cellar.values.predictions import Candidate, Prediction, Predictions
    from cellar.values.results import (
        FinishReason,
        Forecast,
        Piece,
        RowFailure,
        RowsRefusedError,
        SequencePredictions,
        StreamReply,
    )

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
    "Future",
    "Generation",
    "Generations",
    "HistoryMissingError",
    "InputKind",
    "InternalError",
    "LoadingError",
    "ModelChangedError",
    "ModelInfo",
    "ModelUnavailableError",
    "ModelUnknownError",
    "NotAllowedError",
    "NotStartedError",
    "NotStreamableError",
    "OutputOptions",
    "OverloadedError",
    "PermissionDeniedError",
    "Piece",
    "PositionMismatchError",
    "PreconditionError",
    "Prediction",
    "PredictionKind",
    "Predictions",
    "ProtocolError",
    "QuotaExceededError",
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
    "SessionMovingError",
    "SessionNotFoundError",
    "SessionStatus",
    "SessionTier",
    "SessionUnknownError",
    "SnapshotInvalidError",
    "StaleBranchError",
    "StateLostError",
    "StateMismatchError",
    "StepConflictError",
    "StepInputs",
    "StoreFullError",
    "StoreUnavailableError",
    "Stream",
    "StreamReply",
    "UnansweredError",
    "UnauthenticatedError",
    "aio",
    "connect",
]

# What is asked for is imported then, and not before: whoever needs the stubs alone, as the server
# does, or a command that has to set up its process first, gets along without gRPC.
_HOMES = {
    "Client": "cellar.sync.client",
    "connect": "cellar.sync.connecting",
    "BadInputError": "cellar.errors",
    "BusyError": "cellar.errors",
    "CellarError": "cellar.errors",
    "ClosedError": "cellar.errors",
    "ConnectionLostError": "cellar.errors",
    "DeadlineExceededError": "cellar.errors",
    "DrainingError": "cellar.errors",
    "HistoryMissingError": "cellar.errors",
    "InternalError": "cellar.errors",
    "LoadingError": "cellar.errors",
    "ModelChangedError": "cellar.errors",
    "ModelUnavailableError": "cellar.errors",
    "ModelUnknownError": "cellar.errors",
    "NotAllowedError": "cellar.errors",
    "NotStartedError": "cellar.errors",
    "NotStreamableError": "cellar.errors",
    "OverloadedError": "cellar.errors",
    "PermissionDeniedError": "cellar.errors",
    "PositionMismatchError": "cellar.errors",
    "PreconditionError": "cellar.errors",
    "ProtocolError": "cellar.errors",
    "QuotaExceededError": "cellar.errors",
    "ReplyLostError": "cellar.errors",
    "ServerError": "cellar.errors",
    "SessionClosedError": "cellar.errors",
    "SessionExistsError": "cellar.errors",
    "SessionExpiredError": "cellar.errors",
    "SessionLimitError": "cellar.errors",
    "SessionMovingError": "cellar.errors",
    "SessionNotFoundError": "cellar.errors",
    "SessionUnknownError": "cellar.errors",
    "SnapshotInvalidError": "cellar.errors",
    "StaleBranchError": "cellar.errors",
    "StateLostError": "cellar.errors",
    "StateMismatchError": "cellar.errors",
    "StepConflictError": "cellar.errors",
    "StoreFullError": "cellar.errors",
    "StoreUnavailableError": "cellar.errors",
    "UnansweredError": "cellar.errors",
    "UnauthenticatedError": "cellar.errors",
    "Future": "cellar.values.future",
    "Generation": "cellar.sync.generation",
    "Generations": "cellar.sync.generation",
    "FrameInputs": "cellar.values.inputs",
    "StepInputs": "cellar.values.inputs",
    "InputKind": "cellar.values.model_info",
    "ModelInfo": "cellar.values.model_info",
    "PredictionKind": "cellar.values.model_info",
    "SessionInfo": "cellar.values.model_info",
    "SessionStatus": "cellar.values.model_info",
    "SessionTier": "cellar.values.model_info",
    "OutputOptions": "cellar.values.outputs",
    "Sampling": "cellar.values.outputs",
    "Candidate": "cellar.values.predictions",
    "Prediction": "cellar.values.predictions",
    "Predictions": "cellar.values.predictions",
    "FinishReason": "cellar.values.results",
    "Forecast": "cellar.values.results",
    "Piece": "cellar.values.results",
    "RowFailure": "cellar.values.results",
    "RowsRefusedError": "cellar.values.results",
    "SequencePredictions": "cellar.values.results",
    "StreamReply": "cellar.values.results",
    "RetryPolicy": "cellar.calls.retry",
    "Session": "cellar.sync.session",
    "Stream": "cellar.sync.stream",
}


def __getattr__(name: str) -> Any:
    """What a name of the client stands for."""
    if name == "aio":
        return import_module("cellar.aio")
    if name not in _HOMES:
        raise AttributeError(f"module 'cellar' has no attribute '{name}'")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    """All names of the client."""
    return sorted({*globals(), *__all__})
