"""Why a session does not step: what is told of one that is lost, or is here no more."""

from service.engine.sessions.table.columns import SessionColumns
from service.errors import (
    CellarError,
    InternalError,
    SessionClosedError,
    StaleBranchError,
    StateLostError,
    StoreUnavailableError,
)

_UPGRADED = 1000  # sessions of which is remembered where they went on


class Explaining(SessionColumns):
    """Why sessions do not step."""

    def why_lost(self, slot: int) -> CellarError:
        """What is told of a session whose state is lost, or was when that was found."""
        if not self.branch[slot]:  # a copy of a session, which stands where it stood
            return InternalError("the model could not be run; the server's log tells why")
        if self.closing[slot]:
            why = "the session was closed, and a run of its steps has failed"
            return self.why_closed(int(self.branch[slot]), why)
        if self.restoring[slot] or not self.lost[slot]:
            return StoreUnavailableError(
                "a run has failed, and the session is brought back: try again shortly, "
                "with the position"
            )
        return StateLostError(int(self.position[slot]))

    def goes_on(self, slot: int, *, branch: int, position: int) -> None:
        """The session of a slot goes on in another slot, on this branch."""
        self.upgraded[int(self.branch[slot])] = branch, position
        while len(self.upgraded) > _UPGRADED:
            del self.upgraded[next(iter(self.upgraded))]

    def why_closed(self, branch: int, told: str) -> CellarError:
        """Why a session on a branch is here no more: ``told``, unless it was upgraded."""
        if branch not in self.upgraded:
            return SessionClosedError(told)
        after, position = self.upgraded[branch]
        return StaleBranchError(branch=after, position=position, upgraded=True)
