"""The rules of a client: models, whole sequences, and how sessions and streams begin.

Knows nothing of channels, threads or event loops: see ``procedures.py``.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from cellar import inputs as inputs_
from cellar import outputs as outputs_
from cellar.errors import SessionExistsError
from cellar.inputs import StepInputs
from cellar.methods import GET_MODEL, GET_SESSION, LIST_MODELS, OPEN_SESSION, PREDICT
from cellar.model_info import ModelInfo, SessionInfo
from cellar.outputs import OutputOptions
from cellar.procedures import Procedure, retried
from cellar.results import SequencePredictions
from cellar.retry import Attempts, RetryPolicy
from cellar.session_protocol import SessionProtocol
from cellar.stream_protocol import StreamProtocol
from cellar.v1 import model_pb2, session_pb2


def new_session_id() -> str:
    """An id that no other session has: the client chooses, so an open can be repeated."""
    return str(uuid.uuid4())


class ClientProtocol:
    """What all sessions and streams of a client share: retry policy, timeout, known models."""

    def __init__(self, policy: RetryPolicy, timeout_s: float) -> None:
        """``timeout_s`` is for requests that bring none of their own."""
        self._policy = policy
        self._timeout_s = timeout_s
        self._known: dict[tuple[str, int], ModelInfo] = {}

    def attempts(self, timeout_s: float | None) -> Attempts:
        """The tries of a new request."""
        return Attempts(self._policy, self._timeout_s if timeout_s is None else timeout_s)

    def models(self, timeout_s: float | None) -> Procedure[tuple[ModelInfo, ...]]:
        """Lists the models."""
        request = model_pb2.ListModelsRequest()
        response = yield from retried(LIST_MODELS, request, self.attempts(timeout_s))
        return tuple(ModelInfo.decode(model) for model in response.models)

    def model(self, name: str, version: int, timeout_s: float | None) -> Procedure[ModelInfo]:
        """Describes a model; asks again each time when no version is named."""
        return (yield from self._model(name, version, self.attempts(timeout_s)))

    def open_session(
        self,
        model: str,
        version: int,
        session_id: str | None,
        idle_timeout_s: float | None,
        resume: bool,
        timeout_s: float | None,
    ) -> Procedure[SessionProtocol]:
        """Opens a session. That it exists is success if we may have opened it ourselves."""
        attempts = self.attempts(timeout_s)
        with outputs_.refusing():
            request = session_pb2.OpenSessionRequest(
                model=model, model_version=version, session_id=session_id or new_session_id()
            )
        if idle_timeout_s is not None:
            request.idle_timeout.FromNanoseconds(round(idle_timeout_s * 1e9))
        try:
            response = yield from retried(
                OPEN_SESSION, request, attempts, session_id=request.session_id
            )
        except SessionExistsError as error:
            if not (resume or attempts.ambiguous):
                raise
            info = yield from self._get_session(request.session_id, attempts)
            if info.model != (model or info.model):
                raise SessionExistsError(
                    f"session {info.id!r} is open already, of model {info.model!r}",
                    reason=error.reason,
                    code=error.code,
                    position=info.position,
                ) from None
            if info.position and not resume:
                raise  # it exists, but it is not the one that was asked for
            return (yield from self._session(info, attempts))
        return (yield from self._session(SessionInfo.decode(response.session), attempts))

    def attach_session(
        self, session_id: str, timeout_s: float | None
    ) -> Procedure[SessionProtocol]:
        """Continues a session that is open."""
        attempts = self.attempts(timeout_s)
        info = yield from self._get_session(session_id, attempts)
        return (yield from self._session(info, attempts))

    def stream(
        self,
        model: str,
        version: int,
        every_step: bool,
        options: OutputOptions,
        timeout_s: float | None,
    ) -> Procedure[StreamProtocol]:
        """Prepares a stream, which stays with the version that it began with."""
        info = yield from self._model(model, version, self.attempts(timeout_s))
        return StreamProtocol(
            info,
            outputs_.encode(options, every_step=every_step, seed=self._policy.seed),
            levels=outputs_.levels(options),
            attempts=self.attempts,
        )

    def predict(
        self,
        sequences: Sequence[StepInputs],
        model: str,
        version: int,
        every_step: bool,
        options: OutputOptions,
        timeout_s: float | None,
    ) -> Procedure[SequencePredictions]:
        """Predicts for whole sequences. Nothing is kept, so it may be sent again."""
        attempts = self.attempts(timeout_s)
        info = yield from self._model(model, version, attempts)
        steps = inputs_.encode_sequences(sequences, info)
        request = model_pb2.PredictRequest(
            model=info.name,
            model_version=info.version,
            inputs=steps.message(),
            steps=steps.counts.tolist(),
            outputs=outputs_.encode(options, every_step=every_step, seed=self._policy.seed),
        )
        response = yield from retried(PREDICT, request, attempts)
        return SequencePredictions.decode(
            response,
            steps=steps.counts,
            vocabulary=info.names,
            levels=outputs_.levels(options),
        )

    def _get_session(self, session_id: str, attempts: Attempts) -> Procedure[SessionInfo]:
        request = session_pb2.GetSessionRequest(session_id=session_id)
        response = yield from retried(GET_SESSION, request, attempts, session_id=session_id)
        return SessionInfo.decode(response.session)

    def _session(self, info: SessionInfo, attempts: Attempts) -> Procedure[SessionProtocol]:
        model = yield from self._model(info.model, info.version, attempts)
        return SessionProtocol(info, model, attempts=self.attempts, seed=self._policy.seed)

    def _model(self, name: str, version: int, attempts: Attempts) -> Procedure[ModelInfo]:
        known = self._known.get((name, version))
        if known is not None:
            return known
        request = model_pb2.GetModelRequest(name=name, version=version)
        response = yield from retried(GET_MODEL, request, attempts)
        info = ModelInfo.decode(response.model)
        if name and info.version:
            self._known[info.name, info.version] = info
        return info
