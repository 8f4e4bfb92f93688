"""How a session moves to another server.

It is frozen first: it does not step here, and its snapshot says what its move is known by. Once it
is released it never steps here again, and a secret is revealed that lets the other server open it.
Knows nothing of snapshots or stores.
"""

import hashlib
from dataclasses import dataclass

from service.errors import SessionMovingError, moved_away


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """A session moves to another server, and does not step here.

    It stands on a branch that began when it was frozen. Whatever else moves it ends this.
    """

    number: int = 0
    """The session's, in the store."""
    move_to: str
    """Where to, in the words of whoever moves it; empty: it does not move any more."""
    secret: str = ""
    """What is revealed once it is released, in hexadecimal digits; empty: it is being frozen."""
    frozen_s: float = 0.0
    """Since when, in seconds since the epoch."""
    released: bool = False
    """It never steps here again: the other server may have it."""

    def __post_init__(self) -> None:
        bytes.fromhex(self.secret)  # it may come out of a store

    @property
    def receipt(self) -> bytes:
        """The secret, as it is revealed."""
        return bytes.fromhex(self.secret)

    @property
    def transfer(self) -> str:
        """What its move is known by, see `transfer_of`."""
        return transfer_of(self.receipt)

    def error(self) -> SessionMovingError:
        """What is told to whoever wants more of the session than to know where it stands."""
        if self.released:
            return moved_away(self.move_to)
        return SessionMovingError(
            f"the session moves to '{self.move_to}', and does not step here: go on with the move, "
            "or call it off with ReleaseSession",
            move_to=self.move_to,
        )


def transfer_of(receipt: bytes) -> str:
    """What everybody may know of a receipt: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(receipt).hexdigest()
