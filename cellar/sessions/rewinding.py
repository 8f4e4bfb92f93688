"""The rules by which a session is put back to an earlier position.

Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from dataclasses import replace

from cellar.calls.methods import REWIND_SESSION
from cellar.calls.procedures import Procedure, retried
from cellar.calls.retry import Attempts
from cellar.errors import BadInputError, CellarError, HistoryMissingError, StaleBranchError
from cellar.sessions.copying import Copyable
from cellar.v1 import session_pb2
from cellar.values import arguments
from cellar.values.model_info import SessionInfo


class Rewindable(Copyable):
    """One session, which may go back to where it was."""

    _stale = False  # the position is to be read again

    def rewind(
        self, position: int | None, steps: int | None, timeout_s: float | None
    ) -> Procedure[SessionInfo]:
        """Goes back to a position, or by some steps, on a new branch.

        Raises:
            BadInputError: neither is given, or both, or there are not so many steps.
        """
        attempts = self._attempts(timeout_s)
        if (position is None) == (steps is None):
            raise arguments.unusable("position", "give a position, or steps to take back")
        if position is not None:
            position = arguments.whole("position", position, most=arguments.MOST_UINT64)
        else:
            steps = arguments.whole("steps", steps, most=arguments.MOST_UINT64)
        stands = yield from self._known_position(attempts)
        if position is None:
            position = stands - (steps or 0)
            if position < 0:
                raise BadInputError(
                    f"steps: {steps} are more than the session has read, which is at {stands}",
                    metadata={"field": "steps"},
                )
        request = session_pb2.RewindSessionRequest(session_id=self.id, position=position)
        try:
            response = yield from self._ask(REWIND_SESSION, request, attempts)
        except CellarError as error:
            if attempts.ambiguous or error.ambiguous:
                self._unanswered, self._stale = position, True
            raise
        info = SessionInfo.decode(response.session)
        self.position, self.branch = info.position, info.branch
        self._unanswered, self._stale = None, False
        self._forget_tail()
        return info

    def _undo(self, info: SessionInfo, received: int, attempts: Attempts) -> Procedure[SessionInfo]:
        """Takes back what a generation was written that has not arrived; returns where it stands.

        Where the server cannot, it stands where it stood: so it is with older servers.

        Raises:
            StaleBranchError: it is on another branch, and no earlier try put it there.
        """
        request = session_pb2.RewindSessionRequest(
            session_id=self.id, position=received, branch=info.branch, generated=True
        )
        # From here on it may be on the branch that the server begins for this, and that alone.
        self.branch, self._unanswered = info.branch, received
        try:
            response = yield from retried(REWIND_SESSION, request, attempts, session_id=self.id)
        except HistoryMissingError:
            return info
        except StaleBranchError as error:
            if error.position != received or not error.branch or not attempts.ambiguous:
                raise
            return replace(info, position=received, branch=error.branch)  # an earlier try did it
        except CellarError as error:
            if error.code == "UNIMPLEMENTED":
                return info
            raise
        return SessionInfo.decode(response.session)
