"""Something that is being opened: await it, or enter it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar


class Closable(Protocol):
    """What an opening gives: an asynchronous context manager of itself."""

    async def __aenter__(self) -> Self:
        """Returns itself."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes itself."""


T = TypeVar("T", bound=Closable)


class Opening(Generic[T]):
    """``x = await opening`` leaves closing to you; ``async with opening as x`` closes."""

    def __init__(self, begin: Callable[[], Awaitable[T]]) -> None:
        """``begin`` opens, once this is awaited or entered."""
        self._begin = begin
        self._opened: T | None = None

    def __repr__(self) -> str:
        """What to do with it."""
        return "<not opened yet: await it, or enter it by async with>"

    def __await__(self) -> Generator[Any, None, T]:
        """Opens."""
        return self._begin().__await__()

    async def __aenter__(self) -> T:
        """Opens."""
        self._opened = await self._begin()
        return await self._opened.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes what was opened."""
        assert self._opened is not None
        await self._opened.__aexit__(kind, error, trace)
