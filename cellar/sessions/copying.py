"""The rules by which a session's state is held: exported, forked, and taken to another version.

Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from cellar.calls.methods import (
    EXPORT_SESSION,
    FORK_SESSION,
    GET_MODEL,
    GET_SESSION,
    UPGRADE_SESSION,
)
from cellar.calls.procedures import Procedure, retried
from cellar.calls.retry import Attempts
from cellar.connection.connection import check_session_id, new_session_id
from cellar.errors import SessionExistsError
from cellar.sessions.branch import OnBranch
from cellar.v1 import model_pb2, session_pb2
from cellar.values import arguments
from cellar.values import outputs as outputs_
from cellar.values.model_info import ModelInfo, SessionInfo


class Copyable(OnBranch):
    """One session of a model, which others can begin like."""

    def __init__(
        self,
        info: SessionInfo,
        model: ModelInfo,
        *,
        attempts: Callable[[float | None], Attempts],
        seed: Callable[[], int],
    ) -> None:
        """Takes over an open session; ``attempts`` turns a timeout into attempts."""
        super().__init__(info)
        self.model = model
        self._attempts = attempts
        self._seed = seed

    def export(self, timeout_s: float | None) -> Procedure[bytes]:
        """Copies the state into a snapshot; the session stays where it is."""
        request = session_pb2.ExportSessionRequest(session_id=self.id)
        attempts = self._attempts(timeout_s)
        yield from self._known_position(attempts)  # what was left behind must not run on meanwhile
        response = yield from self._ask(EXPORT_SESSION, request, attempts)
        snapshot: bytes = response.snapshot
        return snapshot

    def fork(
        self,
        new_id: str | None,
        position: int | None,
        model: str,
        version: int,
        idle_timeout_s: float | None,
        ephemeral: bool,
        history_steps: object,
        timeout_s: float | None,
    ) -> Procedure[Self]:
        """Opens a session that stands where this one stands, or stood; this one stays as it is.

        That it exists is success if we may have opened it ourselves.
        """
        attempts = self._attempts(timeout_s)
        chosen_id = "" if new_id is None else check_session_id(new_id, "id")
        if position is not None:
            position = arguments.whole("position", position, most=arguments.MOST_UINT64)
        with outputs_.refusing():
            request = session_pb2.ForkSessionRequest(
                session_id=self.id,
                new_session_id=chosen_id or new_session_id(),
                position=position,
                model=arguments.text("model", model),
                model_version=arguments.whole("version", version),
                ephemeral=arguments.flag("ephemeral", ephemeral),
                history_steps=arguments.history_steps(history_steps),
                idle_timeout=outputs_.duration(
                    arguments.optional_seconds("idle_timeout_s", idle_timeout_s)
                ),
            )
        stands = yield from self._known_position(attempts)
        try:
            response = yield from self._ask(FORK_SESSION, request, attempts)
            info = SessionInfo.decode(response.session)
        except SessionExistsError:
            if not attempts.ambiguous:
                raise
            info = yield from self._there(request.new_session_id, attempts)
            if chosen_id and info.position != (stands if position is None else position):
                raise  # it exists, and is not the one that was asked for
        known = yield from self._model_of(info, attempts)
        return type(self)(info, known, attempts=self._attempts, seed=self._seed)

    def upgrade(self, version: int, timeout_s: float | None) -> Procedure[SessionInfo]:
        """Goes on with another version of the model, on a new branch.

        Where nobody answers, it may have: asked once more, the server says so.
        """
        attempts = self._attempts(timeout_s)
        request = session_pb2.UpgradeSessionRequest(
            session_id=self.id, model_version=arguments.whole("version", version)
        )
        yield from self._known_position(attempts)
        response = yield from self._ask(UPGRADE_SESSION, request, attempts)
        info = SessionInfo.decode(response.session)
        self.model = yield from self._model_of(info, attempts)
        self.position, self.branch, self._unanswered = info.position, info.branch, None
        self._forget_tail()
        return info

    def _model_of(self, info: SessionInfo, attempts: Attempts) -> Procedure[ModelInfo]:
        """The model of a session like this one."""
        known = self.model
        if (info.model, info.version) != (known.name, known.version):
            asked = model_pb2.GetModelRequest(name=info.model, version=info.version)
            described = yield from retried(GET_MODEL, asked, attempts)
            known = ModelInfo.decode(described.model)
        return known

    def _there(self, session_id: str, attempts: Attempts) -> Procedure[SessionInfo]:
        """Where another session stands."""
        request = session_pb2.GetSessionRequest(session_id=session_id)
        response = yield from retried(GET_SESSION, request, attempts, session_id=session_id)
        return SessionInfo.decode(response.session)

    def _known_position(self, attempts: Attempts) -> Procedure[int]:
        """Where the session stands, whatever was in doubt."""
        raise NotImplementedError
