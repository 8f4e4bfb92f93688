"""The server at the other end, as one client knows it."""

from __future__ import annotations

from cellar.access.access import Access
from cellar.calls.retry import Reached
from cellar.errors import CellarError, ClosedError, ConnectionLostError, UnauthenticatedError


class Peer:
    """What all calls of a client share about their server.

    Attributes:
        access: where it is, and what it is shown.
        reached: whether it has ever answered.
        is_closed: whether this side has closed the connection.
        is_lost: whether a call has lost the connection since the last channel was looked at.
        is_renewed: whether a channel of ours was given up for another one.
    """

    def __init__(self, access: Access) -> None:
        """Nothing heard yet."""
        self.access = access
        self.reached = Reached()
        self.is_closed = False
        self.is_lost = False
        self.is_renewed = False

    def explained(self, code: str, message: str) -> str:
        """What gRPC says of a call that failed, with what is likely to be wrong."""
        why = self.access.address.why(code, message, heard=self.reached.ever)
        if not why:
            return message
        where = self.access.address.target
        said = where if code == "UNIMPLEMENTED" else f"no answer from {where}"
        return f"{said}: {why} ({message})"

    def failed(self, error: CellarError) -> CellarError:
        """Takes note of why a call failed."""
        if isinstance(error, ConnectionLostError):
            self.is_lost = True
        elif isinstance(error, UnauthenticatedError) and self.access.token is not None:
            error.has_another = self.access.token.is_new()
        return error

    def ended(self, cause: Exception) -> CellarError:
        """For a call on a channel that is closed."""
        if self.is_renewed and not self.is_closed:
            return self.failed(ConnectionLostError(f"the connection was renewed: {cause}"))
        return ClosedError(f"the client was closed: {cause}")

    def closed(self) -> ClosedError:
        """For calls after the end."""
        return ClosedError("the client was closed: connect again")
