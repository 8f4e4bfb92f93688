"""The rules of a client: models, whole sequences, and how sessions and streams begin.

Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy.typing as npt

from cellar.calls.methods import (
    CLOSE_SESSION,
    GET_MODEL,
    GET_SESSION,
    IMPORT_SESSION,
    LIST_MODELS,
    LIST_SESSIONS,
    OPEN_SESSION,
    PREDICT,
    RESET_SESSION,
)
from cellar.calls.procedures import Procedure, retried
from cellar.calls.retry import Attempts, Reached, RetryPolicy
from cellar.connection.connection import check_session_id, new_session_id
from cellar.errors import BadInputError, SessionExistsError, SessionNotFoundError
from cellar.sessions.moving import Moves
from cellar.sessions.session_protocol import SessionProtocol
from cellar.streams.stream_protocol import StreamProtocol
from cellar.v1 import model_pb2, session_pb2
from cellar.values import arguments
from cellar.values import inputs as inputs_
from cellar.values import outputs as outputs_
from cellar.values.inputs import StepInputs
from cellar.values.model_info import ModelInfo, SessionInfo
from cellar.values.outputs import OutputOptions
from cellar.values.results import SequencePredictions

_SESSIONS_A_PAGE = 1000  # as many as a server lists at once


def _label(model: str, version: int) -> str:
    return f"{model}/{version}" if version else model


class ClientProtocol:
    """What all sessions and streams of a client share: retry policy, timeout, known models."""

    def __init__(self, policy: RetryPolicy, timeout_s: float, reached: Reached) -> None:
        """``timeout_s`` is for requests that bring none of their own.

        Raises:
            BadInputError: one of them is wrong.
        """
        if not isinstance(policy, RetryPolicy):
            raise arguments.refused("retry", "a cellar.RetryPolicy, or None", policy)
        self._policy = policy
        self._timeout_s = arguments.seconds("timeout_s", timeout_s)
        self._known: dict[tuple[str, int], ModelInfo] = {}
        self._reached = reached
        self.moves = Moves(self.attempts)
        """What moves sessions from and to this server."""

    def attempts(self, timeout_s: float | None) -> Attempts:
        """The tries of a new request."""
        bound = arguments.optional_seconds("timeout_s", timeout_s)
        return Attempts(self._policy, self._timeout_s if bound is None else bound, self._reached)

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
        ephemeral: bool,
        initial_state: Mapping[str, npt.ArrayLike] | None,
        history_steps: object,
        resume: bool,
        timeout_s: float | None,
    ) -> Procedure[SessionProtocol]:
        """Opens a session. That it exists is success if we may have opened it ourselves."""
        attempts = self.attempts(timeout_s)
        resume = arguments.flag("resume", resume)
        chosen_id = new_session_id() if session_id is None else check_session_id(session_id, "id")
        with outputs_.refusing():
            request = session_pb2.OpenSessionRequest(
                model=arguments.text("model", model),
                model_version=arguments.whole("version", version),
                session_id=chosen_id or new_session_id(),
                ephemeral=arguments.flag("ephemeral", ephemeral),
                initial_state=inputs_.encode_states("initial_state", initial_state),
                history_steps=arguments.history_steps(history_steps),
                idle_timeout=outputs_.duration(
                    arguments.optional_seconds("idle_timeout_s", idle_timeout_s)
                ),
            )
        try:
            response = yield from retried(
                OPEN_SESSION, request, attempts, session_id=request.session_id
            )
        except SessionExistsError:
            if not (resume or attempts.ambiguous):
                raise
            info = yield from self._get_session(request.session_id, attempts)
            asked, found = _label(model or info.model, version), _label(info.model, info.version)
            if asked not in (found, info.model):
                if not resume:
                    raise  # it exists, and is not the one that was asked for
                raise BadInputError(
                    f"session {info.id!r} is open on {found}, and was asked for on {asked}: resume "
                    f"it on {found}, or close it first",
                    reason="BAD_INPUT",
                    position=info.position,
                    metadata={"field": "model_version" if info.model == model else "model"},
                ) from None
            if info.position and not resume:
                raise  # it exists, but it is not the one that was asked for
            return (yield from self._session(info, attempts))
        return (yield from self._session(SessionInfo.decode(response.session), attempts))

    def import_session(
        self,
        snapshot: bytes,
        session_id: str | None,
        idle_timeout_s: float | None,
        timeout_s: float | None,
    ) -> Procedure[SessionProtocol]:
        """Opens a session that stands where a snapshot was taken.

        Where an answer was lost and a session of that id is there, nobody can say whose it is.
        """
        attempts = self.attempts(timeout_s)
        with outputs_.refusing():
            request = session_pb2.ImportSessionRequest(
                snapshot=arguments.data("snapshot", snapshot),
                session_id="" if session_id is None else check_session_id(session_id, "id"),
                idle_timeout=outputs_.duration(
                    arguments.optional_seconds("idle_timeout_s", idle_timeout_s)
                ),
            )
        response = yield from retried(
            IMPORT_SESSION, request, attempts, session_id=request.session_id
        )
        return (yield from self._session(SessionInfo.decode(response.session), attempts))

    def attach_session(
        self, session_id: str, timeout_s: float | None
    ) -> Procedure[SessionProtocol]:
        """Continues a session that is open."""
        attempts = self.attempts(timeout_s)
        info = yield from self._get_session(check_session_id(session_id, "id"), attempts)
        return (yield from self._session(info, attempts))

    def sessions(
        self,
        model: str,
        version: int,
        idle_for_s: float | None,
        owner: str | None,
        page: str,
        timeout_s: float | None,
    ) -> Procedure[tuple[tuple[SessionInfo, ...], str]]:
        """A page of the sessions that are open, and which page is next; empty: none."""
        with outputs_.refusing():
            request = session_pb2.ListSessionsRequest(
                model=arguments.text("model", model),
                model_version=arguments.whole("version", version),
                page_size=_SESSIONS_A_PAGE,
                page_token=page,
                idle_for=outputs_.duration(arguments.optional_seconds("idle_for_s", idle_for_s)),
                owner=arguments.optional_text("owner", owner),
            )
        response = yield from retried(LIST_SESSIONS, request, self.attempts(timeout_s))
        infos = tuple(SessionInfo.decode(session) for session in response.sessions)
        return infos, response.next_page_token

    def close_session(
        self, session_id: str, branch: int, owner: str | None, timeout_s: float | None
    ) -> Procedure[int | None]:
        """Closes a session; its position, or None where the answer was lost."""
        attempts = self.attempts(timeout_s)
        request = session_pb2.CloseSessionRequest(
            session_id=check_session_id(session_id, "id"),
            branch=arguments.whole("branch", branch, most=arguments.MOST_UINT64),
            owner=arguments.optional_text("owner", owner),
        )
        try:
            response = yield from retried(CLOSE_SESSION, request, attempts, session_id=session_id)
        except SessionNotFoundError:
            if not attempts.ambiguous:
                raise
            return None
        position: int = response.position
        return position

    def reset_session(self, session_id: str, timeout_s: float | None) -> Procedure[SessionInfo]:
        """Puts a session back to position 0. To do it twice is as good as once."""
        request = session_pb2.ResetSessionRequest(session_id=check_session_id(session_id, "id"))
        attempts = self.attempts(timeout_s)
        response = yield from retried(RESET_SESSION, request, attempts, session_id=session_id)
        return SessionInfo.decode(response.session)

    def stream(
        self,
        model: str,
        version: int,
        every_step: bool,
        options: OutputOptions,
        timeout_s: float | None,
    ) -> Procedure[StreamProtocol]:
        """Prepares a stream, which stays with the version that it began with."""
        outputs = outputs_.encode(options, every_step=every_step, seed=self._policy.seed)
        info = yield from self._model(model, version, self.attempts(timeout_s))
        return StreamProtocol(
            info,
            outputs,
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
        outputs = outputs_.encode(options, every_step=every_step, seed=self._policy.seed)
        info = yield from self._model(model, version, attempts)
        steps = inputs_.encode_sequences(sequences, info)
        request = model_pb2.PredictRequest(
            model=info.name,
            model_version=info.version,
            inputs=steps.message(),
            steps=steps.counts.tolist(),
            outputs=outputs,
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
        arguments.text("model", name)
        known = self._known.get((name, arguments.whole("version", version)))
        if known is not None:
            return known
        request = model_pb2.GetModelRequest(name=name, version=version)
        response = yield from retried(GET_MODEL, request, attempts)
        info = ModelInfo.decode(response.model)
        if name and info.version:
            self._known[info.name, info.version] = info
        return info
