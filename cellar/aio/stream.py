"""The asynchronous stream."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from cellar.aio.exchange import Exchange
from cellar.aio.transport import Transport
from cellar.client_protocol import new_session_id
from cellar.errors import CellarError
from cellar.inputs import FrameInputs
from cellar.predictions import Positions
from cellar.results import RowsRefusedError, StreamReply
from cellar.retry import CLEANUP_TIMEOUT_S
from cellar.stream_protocol import StreamProtocol


class Stream(Exchange):
    """Many sessions of one model on one connection. Tasks may share it.

    A *channel* is a session's number on this stream; a *frame* is one message with the steps
    of many channels; many frames may be in flight. When the connection breaks, the stream
    connects again by itself, and every step in flight is still applied once. What a server loses
    in a crash, because it had answered before it wrote, is sent once more. As a context manager
    it closes the sessions that it opened, and leaves those that it attached.

    A channel whose session is elsewhere than the stream believes (``PositionMismatchError``,
    ``ReplyLostError``), or was reset since it was attached (``StaleBranchError``), is to be
    detached and attached again, which reads the position and the branch.

    Attributes:
        model: the model.
    """

    def __init__(
        self, protocol: StreamProtocol, transport: Transport, timeout_s: float | None
    ) -> None:
        """Use ``Client.stream``."""
        super().__init__(protocol, transport, timeout_s)
        self._opened: set[int] = set()

    async def open(self, count: int, *, timeout_s: float | None = None) -> Positions:
        """Opens so many sessions; returns their channels (count,).

        Raises:
            RowsRefusedError: some could not be opened; the others are.
            CellarError: none is attached.
        """
        ids = [new_session_id() for _ in range(count)]
        return await self._attach(ids, open=True, timeout_s=timeout_s)

    async def attach(self, ids: Sequence[str], *, timeout_s: float | None = None) -> Positions:
        """Attaches sessions that are open; returns their channels (ids,).

        Raises:
            RowsRefusedError: some could not be attached; the others are.
            CellarError: none is attached.
        """
        return await self._attach(ids, open=False, timeout_s=timeout_s)

    async def step(
        self,
        channels: npt.ArrayLike,
        inputs: FrameInputs,
        *,
        strict: bool = True,
        timeout_s: float | None = None,
    ) -> StreamReply:
        """Sends a frame and waits for its whole reply.

        Args:
            channels: the channels that step (rows,), each once.
            inputs: their steps: see ``FrameInputs``.
            strict: raises when rows are refused, instead of listing them in the reply.
            timeout_s: overrides the stream's.

        Raises:
            RowsRefusedError: some rows were refused; its ``reply`` has the others.
            BadInputError: the frame is malformed; nothing was sent.
            CellarError: no answer. To repeat the same frame is safe.
        """
        frame = self._in_flight.frame(channels, inputs)
        await self._ask([frame], timeout_s)
        reply = frame.reply()
        return reply.check() if strict else reply

    async def detach(
        self,
        channels: npt.ArrayLike,
        *,
        close: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Lets go of channels; their sessions stay open, unless they are to be closed."""
        numbers = np.atleast_1d(np.asarray(channels, np.int64)).tolist()
        detach = self._in_flight.detach(numbers, close=close)
        self._opened.difference_update(numbers)
        if not detach.done:
            await self._ask([detach], timeout_s)

    def positions(self, channels: npt.ArrayLike) -> Positions:
        """Where channels will be once all frames in flight are applied (rows,)."""
        return self._in_flight.positions(np.atleast_1d(np.asarray(channels, np.int64)))

    def session_id(self, channel: int) -> str:
        """The id of the session on a channel."""
        return self._in_flight.session_id(channel)

    async def __aenter__(self) -> Self:
        """Returns the stream."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the sessions that the stream opened, and the stream."""
        try:
            if self._opened:
                with suppress(*((CellarError,) if error else ())):
                    cleanup_s = CLEANUP_TIMEOUT_S if error else None
                    await self.detach(sorted(self._opened), close=True, timeout_s=cleanup_s)
        finally:
            await self.close()

    async def _attach(
        self, ids: Sequence[str], *, open: bool, timeout_s: float | None
    ) -> Positions:
        attaches = self._in_flight.attach(ids, open=open)
        channels = [channel for attach in attaches for channel in attach.waiting]
        await self._ask(attaches, timeout_s)
        failures = [failure for attach in attaches for failure in attach.failures]
        if open:
            self._opened.update(set(channels) - {failure.channel for failure in failures})
        if failures:
            raise RowsRefusedError(failures)
        return np.array(channels, np.int64)
