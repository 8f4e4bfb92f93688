"""What a reader did to the data, to be told to people."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a reader did to the data, or found odd in it."""

    what: str
    rows: int
    detail: str
