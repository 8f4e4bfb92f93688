"""The branch that a session's requests are for, and what a crash of its server leads to.

Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from cellar.calls.methods import RESET_SESSION, STEP, Method, R
from cellar.calls.procedures import Procedure, retried
from cellar.calls.retry import Attempts
from cellar.errors import PositionMismatchError, StaleBranchError, StepConflictError
from cellar.streams.tail import Tail, as_steps
from cellar.v1 import session_pb2
from cellar.values.model_info import SessionInfo

Branched: TypeAlias = (
    session_pb2.StepRequest
    | session_pb2.GenerateRequest
    | session_pb2.ForecastRequest
    | session_pb2.GetSessionRequest
    | session_pb2.ResetSessionRequest
    | session_pb2.CloseSessionRequest
    | session_pb2.ExportSessionRequest
    | session_pb2.ForkSessionRequest
    | session_pb2.RewindSessionRequest
    | session_pb2.UpgradeSessionRequest
)
B = TypeVar(
    "B",
    session_pb2.StepRequest,
    session_pb2.ForecastRequest,
    session_pb2.GetSessionRequest,
    session_pb2.ResetSessionRequest,
    session_pb2.CloseSessionRequest,
    session_pb2.ExportSessionRequest,
    session_pb2.ForkSessionRequest,
    session_pb2.RewindSessionRequest,
    session_pb2.UpgradeSessionRequest,
)


class OnBranch:
    """One session's place: its position on its branch.

    A server may answer steps before they are on its disk. They are kept here until it says that
    they are. When a crash has taken some, the session goes on on another branch from where they
    began; as long as nobody else has gone on there, they are *played* again before anything else
    is asked.

    Attributes:
        id: the session's id.
        position: steps consumed, as far as is known here.
        branch: 0 where the server knows none.
    """

    def __init__(self, info: SessionInfo) -> None:
        """Takes over an open session."""
        self.id = info.id
        self.position = info.position
        self.branch = info.branch
        # Where a reset or a rewind of ours that nobody answered may have put it, on another branch.
        self._unanswered: int | None = None
        self._tail = Tail()
        self._played: int | None = None  # what is behind this is to be played, up to position

    def _ask(
        self, method: Method[B, R], request: B, attempts: Attempts, *, plays: bool = True
    ) -> Procedure[R]:
        """Makes a call on the session's branch, or on that which goes on from there.

        ``plays`` what a crash has taken before.
        """
        while True:
            try:
                if plays:
                    yield from self._play(attempts)
                self._put_branch(request)
                return (yield from retried(method, request, attempts, session_id=self.id))
            except StaleBranchError as error:
                moved = self._unanswered
                if method is RESET_SESSION and attempts.ambiguous:
                    moved = 0
                if moved is not None and error.position == moved and error.branch:
                    self.branch, self.position, self._unanswered = error.branch, moved, None
                    self._forget_tail()
                else:
                    self._take_branch(error)

    def _play_all(self, attempts: Attempts) -> Procedure[None]:
        """The same as ``_play``, whatever crashes come meanwhile."""
        while self._played is not None:
            try:
                yield from self._play(attempts)
            except StaleBranchError as error:
                self._take_branch(error)

    def _take_branch(self, error: StaleBranchError) -> None:
        """Takes over the branch on which a session goes on after a crash.

        Raises:
            StaleBranchError: that is not why it is on another; or what was taken is not here.
        """
        kept = error.kept_position
        if not error.can_be_mended or kept is None or error.branch in (None, self.branch):
            raise error
        if kept < self.position:
            try:
                self._tail.between(kept, self.position)
            except LookupError:
                raise error from None
        self.branch = error.branch or 0
        self._played = kept if kept < self.position else None

    def _play(self, attempts: Attempts) -> Procedure[None]:
        """Sends once more what a crash has taken, each step at its old position."""
        if self._played is None:
            return
        for position, data in self._tail.between(self._played, self.position):
            request = session_pb2.StepRequest(
                session_id=self.id, inputs=as_steps(data).message(), position=position
            )
            self._put_branch(request)
            try:
                response = yield from retried(STEP, request, attempts, session_id=self.id)
            except (PositionMismatchError, StepConflictError) as error:
                raise StaleBranchError(
                    f"a crash took what came after position {position}, and somebody else has "
                    f"gone on with the session: it is at {error.position}",
                    reason="STALE_BRANCH",
                    code=error.code,
                    position=error.position,
                    metadata={"branch": str(self.branch)},
                ) from error
            self._played = response.position
            self._tail.trim(durable_position(response) or 0)
        self._played = None

    def _forget_tail(self) -> None:
        """The session has begun anew."""
        self._tail.clear()
        self._played = None

    def _put_branch(self, request: Branched) -> None:
        if self.branch:
            request.branch = self.branch


def durable_position(
    message: session_pb2.StepResponse | session_pb2.GenerateResponse,
) -> int | None:
    """How far a session is durable, where its server says so."""
    return message.durable_position if message.HasField("durable_position") else None
