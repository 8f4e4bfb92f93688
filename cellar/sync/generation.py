# Generated from cellar/aio/generation.py by `make sync-client`; do not edit.
"""Asynchronous generations: one, and several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

from cellar.errors import CellarError
from cellar.values.predictions import Floats
from cellar.values.results import Piece


class Generation(Iterator[Piece]):
    """A generation in progress: iterate over its pieces, or take it whole."""

    def __init__(
        self,
        pieces: Generator[Piece | None, None],
        settle: Callable[[], None] | None = None,
        over: Callable[[], None] | None = None,
    ) -> None:
        """Use ``Session.generate``.

        ``settle`` is called when it is closed, ``over`` when no piece will come any more.
        """
        self._pieces = pieces
        self._settle = settle
        self._over = over

    def __next__(self) -> Piece:
        """The next piece, as soon as it has come."""
        try:
            piece = next(self._pieces)
            while piece is None:
                piece = next(self._pieces)
            return piece
        except (StopIteration, CellarError):
            self._end()
            raise

    def __repr__(self) -> str:
        """How to take what it gives."""
        return "<cellar generation: iterate over it, or take its .text() or .values()>"

    def text(self) -> str:
        """All that is still to come, as text."""
        return "".join([piece.text for piece in self])

    def values(self) -> Floats:
        """All that is still to come, as values (steps,)."""
        return np.concatenate([np.zeros(0, np.float32), *[piece.values for piece in self]])

    def close(self) -> None:
        """Stops the generation where it is; the session's ``position`` tells then where that is.

        It is behind the last piece that has come, on another ``branch`` if the server had gone on
        past that. Where the server cannot go back so far, as an older one, it is behind the last
        piece that the server wrote.
        """
        self._pieces.close()
        if self._settle is not None:
            self._settle()
        self._end()

    def _begin(self) -> None:
        """Has the server begin, where the transport tells of that by a piece that is None."""
        next(self._pieces)

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()


class Generations(Iterator[tuple[int, Piece]]):
    """Generations of one session, side by side: iterate over their pieces, or take them whole.

    Each is of a session of its own, which closes when the generation is over; all of them do when
    this is closed, as it is where it ends as a context manager. The session that was forked stays
    where it was. The server draws for all of them at once, and goes no further ahead of a reader
    than it does in a single generation.

    Attributes:
        each: the generations, in the order of their seeds; another task may read each.
    """

    def __init__(self, each: Sequence[Generation]) -> None:
        """Use ``Session.generate``."""
        self.each: tuple[Generation, ...] = tuple(each)
        self._turns = deque(range(len(self.each)))

    def __next__(self) -> tuple[int, Piece]:
        """The next piece, of each generation in turn: its number, counted from 0, and the piece."""
        while self._turns:
            number = self._turns[0]
            try:
                piece = next(self.each[number])
            except StopIteration:
                self._turns.popleft()
                continue
            self._turns.rotate(-1)
            return number, piece
        raise StopIteration

    def __repr__(self) -> str:
        """How to take what they give."""
        return (
            f"<{len(self.each)} cellar generations: iterate over them, or take their .texts() or "
            ".values()>"
        )

    def texts(self) -> list[str]:
        """All that is still to come of each, as text."""
        found: list[list[str]] = [[] for _ in self.each]
        for number, piece in self:
            found[number].append(piece.text)
        return ["".join(parts) for parts in found]

    def values(self) -> list[Floats]:
        """All that is still to come of each, as values (steps,)."""
        found: list[list[Floats]] = [[np.zeros(0, np.float32)] for _ in self.each]
        for number, piece in self:
            found[number].append(piece.values)
        return [np.concatenate(parts) for parts in found]

    def close(self) -> None:
        """Stops them, and closes their sessions."""
        for generation in self.each:
            # One that another task is reading from cannot be stopped here: its session's end does.
            with suppress(RuntimeError, ValueError):
                generation._pieces.close()
            generation._end()

    def __enter__(self) -> Self:
        """Returns the generations."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops them, and closes their sessions."""
        self.close()
