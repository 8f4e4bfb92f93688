"""The asynchronous stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from cellar.aio.transport import Duplex, Transport
from cellar.client_protocol import new_session_id
from cellar.errors import CellarError, DeadlineExceededError
from cellar.inputs import FrameInputs
from cellar.model_info import ModelInfo
from cellar.pending import Frame, Pending
from cellar.predictions import Positions
from cellar.procedures import drive_async
from cellar.results import RowsRefusedError, StreamReply
from cellar.retry import PARTING_S
from cellar.stream_protocol import StreamProtocol


class Stream:
    """Many sessions of one model on one connection. Tasks may share it.

    A *channel* is a session's number on this stream; a *frame* is one message with the steps
    of many channels; many frames may be in flight. When the connection breaks, the stream
    connects again by itself, and every step in flight is still applied once. As a context
    manager it closes the sessions that it opened, and leaves those that it attached.

    A channel whose session is elsewhere than the stream believes (``PositionMismatchError``,
    ``ReplyLostError``) is to be detached and attached again, which reads the position.

    Attributes:
        model: the model.
    """

    def __init__(
        self, protocol: StreamProtocol, transport: Transport, timeout_s: float | None
    ) -> None:
        """Use ``Client.stream``."""
        self._protocol = protocol
        self._flight = protocol.flight
        self._duplex = Duplex(transport)
        self._timeout_s = timeout_s
        self._opened: set[int] = set()
        self._sent: set[int] = set()
        self._replies: deque[StreamReply | CellarError] = deque()
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self.model: ModelInfo = protocol.model

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
        frame = self._flight.frame(channels, inputs)
        await self._wait([frame], timeout_s)
        reply = frame.reply()
        return reply.check() if strict else reply

    async def send(self, channels: npt.ArrayLike, inputs: FrameInputs) -> int:
        """Sends a frame without waiting for it; returns its number. ``receive`` its reply later.

        Waits only while the connection cannot take more.
        """
        frame = self._flight.frame(channels, inputs)
        self._sent.add(frame.number)
        await self._submit(frame)
        return frame.number

    async def receive(self, *, timeout_s: float | None = None) -> StreamReply:
        """The next whole reply to a frame that was sent, in the order they complete.

        Waits for one, without end unless ``timeout_s`` is given. Refused rows are in its
        ``failures``; ``reply.check()`` raises them.

        Raises:
            CellarError: the stream is broken, and the frames in flight are lost. To repeat
                them is safe.
        """
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: bool(self._replies))
        except TimeoutError:
            raise DeadlineExceededError("no reply on the stream in time") from None
        reply = self._replies.popleft()
        if isinstance(reply, CellarError):
            raise reply
        return reply

    async def replies(self) -> AsyncIterator[StreamReply]:
        """The replies to frames that were sent; ends when nothing is in flight."""
        while self._replies or self._sent:
            yield await self.receive()

    async def detach(
        self,
        channels: npt.ArrayLike,
        *,
        close: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Lets go of channels; their sessions stay open, unless they are to be closed."""
        numbers = np.atleast_1d(np.asarray(channels, np.int64)).tolist()
        detach = self._flight.detach(numbers, close=close)
        self._opened.difference_update(numbers)
        if not detach.done:
            await self._wait([detach], timeout_s)

    def positions(self, channels: npt.ArrayLike) -> Positions:
        """Where channels will be once all frames in flight are applied (rows,)."""
        return self._flight.positions(np.atleast_1d(np.asarray(channels, np.int64)))

    def session_id(self, channel: int) -> str:
        """The id of the session on a channel."""
        return self._flight.session_id(channel)

    async def close(self) -> None:
        """Ends the stream, and leaves its sessions open."""
        failed = self._protocol.close()
        await self._stop()
        await self._failed(failed)

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
                    parting_s = PARTING_S if error else None
                    await self.detach(sorted(self._opened), close=True, timeout_s=parting_s)
        finally:
            await self.close()

    async def _attach(
        self, ids: Sequence[str], *, open: bool, timeout_s: float | None
    ) -> Positions:
        attaches = self._flight.attach(ids, open=open)
        channels = [channel for attach in attaches for channel in attach.waiting]
        await self._wait(attaches, timeout_s)
        failures = [failure for attach in attaches for failure in attach.failures]
        if open:
            self._opened.update(set(channels) - {failure.channel for failure in failures})
        if failures:
            raise RowsRefusedError(failures)
        return np.array(channels, np.int64)

    async def _submit(self, pending: Pending) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="cellar-stream")
        if self._protocol.live:
            # A cancelled write would end the call; a failed one is sent again by the reader.
            write = asyncio.ensure_future(self._duplex.write(pending.request()))
            write.add_done_callback(lambda done: done.cancelled() or done.exception())
            with suppress(CellarError):
                await asyncio.shield(write)

    async def _wait(self, asked: Sequence[Pending], timeout_s: float | None) -> None:
        attempts = self._protocol.attempts(self._timeout_s if timeout_s is None else timeout_s)
        try:
            async with asyncio.timeout(attempts.remaining_s()):
                for each in asked:
                    await self._submit(each)
                async with self._news:
                    await self._news.wait_for(lambda: all(each.done for each in asked))
        except BaseException as error:
            for each in asked:
                if failed := self._protocol.abandon(each):
                    await self._stop()
                    await self._failed(failed)
            if isinstance(error, TimeoutError):
                raise DeadlineExceededError("the stream did not answer in time") from None
            raise
        for each in asked:
            if each.error is not None:
                raise each.error

    async def _read(self) -> None:
        while True:
            try:
                done = await drive_async(self._protocol.pump(None), self._duplex.perform)
            except CellarError as error:
                self._duplex.close()
                self._reader = None  # whoever asks from now on starts another
                await self._failed(self._protocol.give_up(error))
                return
            for each in done:
                if isinstance(each, Frame) and each.number in self._sent:
                    self._sent.remove(each.number)
                    self._replies.append(each.reply())
            if done:
                async with self._news:
                    self._news.notify_all()

    async def _stop(self) -> None:
        self._duplex.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])

    async def _failed(self, failed: Sequence[Pending]) -> None:
        async with self._news:
            lost = [
                each for each in failed if isinstance(each, Frame) and each.number in self._sent
            ]
            if lost and lost[0].error is not None:
                self._sent.clear()
                self._replies.append(lost[0].error)
            self._news.notify_all()
