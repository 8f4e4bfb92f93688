"""What is in the table of a store, and by which keys."""

SESSION, CHECKPOINT, META = b"s", b"c", b"m"
"""What keys of the table begin with."""
ARITHMETIC = META + b"arithmetic/"
"""What the keys of a model's `Arithmetics` begin with; "name/version" follows."""
APPLIED = META + b"applied"
"""The group up to which the table knows what opened, closed and reset sessions."""
IN_DOUBT = META + b"in_doubt"
"""There while a server runs that may lose acknowledged steps when it ends in no good order."""


def key(kind: bytes, number: int) -> bytes:
    """The key of a session's row."""
    return kind + number.to_bytes(8, "big")
