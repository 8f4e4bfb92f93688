"""Asynchronous generations: one, and several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

from cellar.errors import CellarError
from cellar.values.predictions import Floats
from cellar.values.results import Piece


class Generation(AsyncIterator[Piece]):
    """A generation in progress: iterate over its pieces, or take it whole."""

    def __init__(
        self,
        pieces: AsyncGenerator[Piece | None, None],
        settle: Callable[[], Awaitable[None]] | None = None,
        over: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Use ``Session.generate``.

        ``settle`` is called when it is closed, ``over`` when no piece will come any more.
        """
        self._pieces = pieces
        self._settle = settle
        self._over = over

    async def __anext__(self) -> Piece:
        """The next piece, as soon as it has come."""
        try:
            piece = await anext(self._pieces)
            while piece is None:
                piece = await anext(self._pieces)
            return piece
        except (StopAsyncIteration, CellarError):
            await self._end()
            raise

    def __repr__(self) -> str:
        """How to take what it gives."""
        return "<cellar generation: iterate over it, or take its .text() or .values()>"

    async def text(self) -> str:
        """All that is still to come, as text."""
        return "".join([piece.text async for piece in self])

    async def values(self) -> Floats:
        """All that is still to come, as values (steps,)."""
        return np.concatenate([np.zeros(0, np.float32), *[piece.values async for piece in self]])

    async def close(self) -> None:
        """Stops the generation where it is; the session's ``position`` tells then where that is.

        It is behind the last piece that has come, on another ``branch`` if the server had gone on
        past that. Where the server cannot go back so far, as an older one, it is behind the last
        piece that the server wrote.
        """
        await self._pieces.aclose()
        if self._settle is not None:
            await self._settle()
        await self._end()

    async def _begin(self) -> None:
        """Has the server begin, where the transport tells of that by a piece that is None."""
        await anext(self._pieces)

    async def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            await over()


class Generations(AsyncIterator[tuple[int, Piece]]):
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

    async def __anext__(self) -> tuple[int, Piece]:
        """The next piece, of each generation in turn: its number, counted from 0, and the piece."""
        while self._turns:
            number = self._turns[0]
            try:
                piece = await anext(self.each[number])
            except StopAsyncIteration:
                self._turns.popleft()
                continue
            self._turns.rotate(-1)
            return number, piece
        raise StopAsyncIteration

    def __repr__(self) -> str:
        """How to take what they give."""
        return (
            f"<{len(self.each)} cellar generations: iterate over them, or take their .texts() or "
            ".values()>"
        )

    async def texts(self) -> list[str]:
        """All that is still to come of each, as text."""
        found: list[list[str]] = [[] for _ in self.each]
        async for number, piece in self:
            found[number].append(piece.text)
        return ["".join(parts) for parts in found]

    async def values(self) -> list[Floats]:
        """All that is still to come of each, as values (steps,)."""
        found: list[list[Floats]] = [[np.zeros(0, np.float32)] for _ in self.each]
        async for number, piece in self:
            found[number].append(piece.values)
        return [np.concatenate(parts) for parts in found]

    async def close(self) -> None:
        """Stops them, and closes their sessions."""
        for generation in self.each:
            # One that another task is reading from cannot be stopped here: its session's end does.
            with suppress(RuntimeError, ValueError):
                await generation._pieces.aclose()
            await generation._end()

    async def __aenter__(self) -> Self:
        """Returns the generations."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops them, and closes their sessions."""
        await self.close()
