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
    from cellar.client import Client, connect
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
    from cellar.future import Future
    from cellar.generation import Generation, Generations
    from cellar.inputs import FrameInputs, StepInputs
    from cellar.model_info import (
        InputKind,
        ModelInfo,
        PredictionKind,
        SessionInfo,
        SessionStatus,
        SessionTier,
    )
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
    from cellar.session import Session
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
    "Client": "cellar.client",
    "connect": "cellar.client",
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
    "Future": "cellar.future",
    "Generation": "cellar.generation",
    "Generations": "cellar.generation",
    "FrameInputs": "cellar.inputs",
    "StepInputs": "cellar.inputs",
    "InputKind": "cellar.model_info",
    "ModelInfo": "cellar.model_info",
    "PredictionKind": "cellar.model_info",
    "SessionInfo": "cellar.model_info",
    "SessionStatus": "cellar.model_info",
    "SessionTier": "cellar.model_info",
    "OutputOptions": "cellar.outputs",
    "Sampling": "cellar.outputs",
    "Candidate": "cellar.predictions",
    "Prediction": "cellar.predictions",
    "Predictions": "cellar.predictions",
    "FinishReason": "cellar.results",
    "Forecast": "cellar.results",
    "Piece": "cellar.results",
    "RowFailure": "cellar.results",
    "RowsRefusedError": "cellar.results",
    "SequencePredictions": "cellar.results",
    "StreamReply": "cellar.results",
    "RetryPolicy": "cellar.retry",
    "Session": "cellar.session",
    "Stream": "cellar.stream",
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
