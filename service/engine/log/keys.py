"""What is in the table of a store, and by which keys."""

SESSION, CHECKPOINT, INITIAL, META = b"s", b"c", b"i", b"m"
"""What keys of the table begin with."""
HISTORY = b"h"
"""What those of parts of histories begin with."""
ARITHMETIC = META + b"arithmetic/"
"""What the keys of a model's `Arithmetics` begin with; "name/version" follows."""
APPLIED = META + b"applied"
"""The group up to which the table knows what opened, closed and reset sessions."""
IN_DOUBT = META + b"in_doubt"
"""There while a server runs that may lose acknowledged steps when it ends in no good order."""


def history_key(number: int, position: int) -> bytes:
    """The key of a part of a session's history, by the position where it begins."""
    return HISTORY + number.to_bytes(8, "big") + position.to_bytes(8, "big")


def part_of(key: bytes) -> tuple[int, int]:
    """The session and the position of such a key."""
    return int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:17], "big")


def key(kind: bytes, number: int) -> bytes:
    """The key of a session's row."""
    return kind + number.to_bytes(8, "big")
