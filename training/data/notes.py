"""What a reader did to the data, to be told to people."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_HEARD: ContextVar[list["Note"] | None] = ContextVar("heard notes", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a reader did to the data, or found odd in it."""

    what: str
    rows: int
    detail: str

    def __post_init__(self) -> None:
        heard = _HEARD.get()
        if heard is not None:
            heard.append(self)


@contextmanager
def unheard() -> Iterator[None]:
    """Notes that are made of others are not heard once more."""
    token = _HEARD.set(None)
    try:
        yield
    finally:
        _HEARD.reset(token)


@contextmanager
def hearing() -> Iterator[list[Note]]:
    """The notes that are made from here on, in order.

    For what a reader had understood when an error ended it: its own notes are lost then.
    """
    heard: list[Note] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)
