"""The remote procedures of ``cellar.v1`` that the client calls, with their message types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from cellar.v1 import model_pb2 as models
from cellar.v1 import session_pb2 as sessions

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """One remote procedure: its path on the wire, and what goes in and out."""

    path: str
    request: type[Q]
    response: type[R]


_MODELS = "/cellar.v1.ModelService/"
_SESSIONS = "/cellar.v1.SessionService/"

LIST_MODELS = Method(_MODELS + "ListModels", models.ListModelsRequest, models.ListModelsResponse)
GET_MODEL = Method(_MODELS + "GetModel", models.GetModelRequest, models.GetModelResponse)
PREDICT = Method(_MODELS + "Predict", models.PredictRequest, models.PredictResponse)
OPEN_SESSION = Method(
    _SESSIONS + "OpenSession", sessions.OpenSessionRequest, sessions.OpenSessionResponse
)
GET_SESSION = Method(
    _SESSIONS + "GetSession", sessions.GetSessionRequest, sessions.GetSessionResponse
)
LIST_SESSIONS = Method(
    _SESSIONS + "ListSessions", sessions.ListSessionsRequest, sessions.ListSessionsResponse
)
CLOSE_SESSION = Method(
    _SESSIONS + "CloseSession", sessions.CloseSessionRequest, sessions.CloseSessionResponse
)
RESET_SESSION = Method(
    _SESSIONS + "ResetSession", sessions.ResetSessionRequest, sessions.ResetSessionResponse
)
REWIND_SESSION = Method(
    _SESSIONS + "RewindSession", sessions.RewindSessionRequest, sessions.RewindSessionResponse
)
UPGRADE_SESSION = Method(
    _SESSIONS + "UpgradeSession", sessions.UpgradeSessionRequest, sessions.UpgradeSessionResponse
)
STEP = Method(_SESSIONS + "Step", sessions.StepRequest, sessions.StepResponse)
STREAM = Method(_SESSIONS + "Stream", sessions.StreamRequest, sessions.StreamResponse)
GENERATE = Method(_SESSIONS + "Generate", sessions.GenerateRequest, sessions.GenerateResponse)
FORECAST = Method(_SESSIONS + "Forecast", sessions.ForecastRequest, sessions.ForecastResponse)
EXPORT_SESSION = Method(
    _SESSIONS + "ExportSession", sessions.ExportSessionRequest, sessions.ExportSessionResponse
)
IMPORT_SESSION = Method(
    _SESSIONS + "ImportSession", sessions.ImportSessionRequest, sessions.ImportSessionResponse
)
RELEASE_SESSION = Method(
    _SESSIONS + "ReleaseSession", sessions.ReleaseSessionRequest, sessions.ReleaseSessionResponse
)
FORK_SESSION = Method(
    _SESSIONS + "ForkSession", sessions.ForkSessionRequest, sessions.ForkSessionResponse
)
