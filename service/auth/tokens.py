"""Tokens ``ID.SECRET``: how they are made, taken apart and kept.

A secret is 256 random bits, so that nobody guesses one, and what is kept of it is its SHA-256. A
slow hash such as bcrypt is for passwords, which people choose and others guess from a list; to try
all of 2^256 secrets is as hopeless with a fast one. And a slow one would be the attack: at 1,000
wrong tokens a second it is the server that would have to compute it. Knows no file.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

_SECRET_BYTES = 32
_ID_BYTES = 4  # tells the tokens of one principal apart
PRINCIPAL = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What principals may be called."""
TOKEN_ID = re.compile(r"[A-Za-z0-9._-]{1,96}")
"""What the ids of tokens look like."""
LONGEST = 256
"""Characters of a token; longer ones are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token when it is made: the one moment in which its secret is known.

    Attributes:
        id: names it, in public.
        secret: proves that somebody has it.
    """

    id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        """As it is sent."""
        return f"{self.id}.{self.secret}"


def make(principal: str) -> NewToken:
    """A new token of a principal."""
    return NewToken(
        id=f"{principal}.{secrets.token_hex(_ID_BYTES)}",
        secret=secrets.token_urlsafe(_SECRET_BYTES),
    )


def split(token: str) -> tuple[str, str]:
    """Id and secret of a token, at its last dot; an id may have dots, a secret has none."""
    token_id, _, secret = token.rpartition(".")
    return token_id, secret


def digest(secret: str) -> bytes:
    """What is kept of a secret, and held against: 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
