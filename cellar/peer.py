"""The server at the other end, as one client knows it."""

from __future__ import annotations

from cellar.address import Address
from cellar.errors import ClosedError
from cellar.retry import Reached


class Peer:
    """What all calls of a client share about their server.

    Attributes:
        address: where it is.
        reached: whether it has ever answered.
        is_closed: whether this side has closed the connection.
    """

    def __init__(self, address: Address) -> None:
        """Nothing heard yet."""
        self.address = address
        self.reached = Reached()
        self.is_closed = False

    def explained(self, code: str, message: str) -> str:
        """What gRPC says of a call that failed, with what is likely to be wrong."""
        why = self.address.why(code, message, heard=self.reached.ever)
        if not why:
            return message
        where = self.address.target
        said = where if code == "UNIMPLEMENTED" else f"no answer from {where}"
        return f"{said}: {why} ({message})"

    def closed(self) -> ClosedError:
        """For calls after the end."""
        return ClosedError("the client was closed: connect again")
