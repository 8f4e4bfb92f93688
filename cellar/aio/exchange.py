"""What an asynchronous stream sends and receives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import numpy.typing as npt

from cellar.aio.drive import drive
from cellar.aio.duplex import Duplex
from cellar.aio.transport import Transport
from cellar.calls.retry import CLEANUP_TIMEOUT_S
from cellar.errors import CellarError, ClosedError, DeadlineExceededError, UnansweredError
from cellar.streams.pending import Frame, Pending
from cellar.streams.stream_protocol import StreamProtocol
from cellar.values import arguments
from cellar.values.inputs import FrameInputs
from cellar.values.model_info import ModelInfo
from cellar.values.results import StreamReply


class Exchange:
    """Any task may ask; a task of the exchange's own reads all answers.

    Attributes:
        model: the model.
    """

    def __init__(
        self, protocol: StreamProtocol, transport: Transport, timeout_s: float | None
    ) -> None:
        """Nothing is sent yet."""
        self._protocol = protocol
        self._in_flight = protocol.in_flight
        self._duplex = Duplex(transport)
        self._timeout_s = timeout_s
        self._sent: set[int] = set()
        self._replies: deque[StreamReply | CellarError] = deque()
        self._changed = asyncio.Condition()
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Task[None] | None = None
        self.model: ModelInfo = protocol.model

    async def send(self, channels: npt.ArrayLike, inputs: FrameInputs) -> int:
        """Sends a frame without waiting for it; returns its number. ``receive`` its reply later.

        Waits only while the connection cannot take more.
        """
        self._check_loop()
        frame = self._in_flight.frame(channels, inputs)
        self._sent.add(frame.number)
        await self._submit(frame)
        return frame.number

    async def receive(self, *, timeout_s: float | None = None) -> StreamReply:
        """The next whole reply to a frame that was sent, in the order they complete.

        Waits for one, without end unless ``timeout_s`` is given. Refused rows are in its
        ``failures``; ``reply.check()`` raises them.

        Raises:
            UnansweredError: the stream was closed before the frames that are left were answered.
            CellarError: the stream is broken, and the frames in flight are lost. To repeat
                them is safe.
        """
        self._check_loop()
        bound = arguments.optional_seconds("timeout_s", timeout_s)
        try:
            async with asyncio.timeout(bound), self._changed:
                await self._changed.wait_for(lambda: self._replies or self._protocol.closed)
        except TimeoutError:
            raise DeadlineExceededError("no reply on the stream in time") from None
        if not self._replies and self._protocol.closed is not None:
            raise self._protocol.closed
        reply = self._replies.popleft()
        if isinstance(reply, CellarError):
            raise reply
        return reply

    async def replies(self) -> AsyncIterator[StreamReply]:
        """The replies to frames that were sent; ends when nothing is in flight."""
        while self._replies or self._sent or isinstance(self._protocol.closed, UnansweredError):
            yield await self.receive()

    async def close(self) -> None:
        """Ends the stream, and leaves its sessions open.

        Frames in flight are waited for first, a second at most. ``receive`` still gives their
        replies, and then tells which had none.
        """
        self._check_loop()
        awaited = self._in_flight.awaited()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLEANUP_TIMEOUT_S), self._changed:
                    await self._changed.wait_for(lambda: all(frame.done for frame in awaited))
        finally:
            failed = self._protocol.close(awaited)
            self._sent.clear()
            await self._stop()
            await self._failed(failed)

    async def _submit(self, pending: Pending) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="cellar-stream")
        if self._protocol.live:
            # A cancelled write would end the call; a failed one is sent again by the reader.
            write = asyncio.ensure_future(self._duplex.write(pending.request()))
            write.add_done_callback(lambda done: done.cancelled() or done.exception())
            with suppress(CellarError):
                await asyncio.shield(write)

    async def _ask(self, asked: Sequence[Pending], timeout_s: float | None) -> None:
        """Sends what is asked, and waits until all of it is answered."""
        self._check_loop()
        attempts = self._protocol.attempts(self._timeout_s if timeout_s is None else timeout_s)
        try:
            async with asyncio.timeout(attempts.remaining_s()):
                for each in asked:
                    await self._submit(each)
                async with self._changed:
                    await self._changed.wait_for(lambda: all(each.done for each in asked))
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
                done = await drive(self._protocol.pump(None), self._duplex.perform)
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
                async with self._changed:
                    self._changed.notify_all()

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ClosedError("the stream belongs to another event loop: open one in this")

    async def _stop(self) -> None:
        self._duplex.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])

    async def _failed(self, failed: Sequence[Pending]) -> None:
        async with self._changed:
            lost = [
                each for each in failed if isinstance(each, Frame) and each.number in self._sent
            ]
            if lost and lost[0].error is not None:
                self._sent.clear()
                self._replies.append(lost[0].error)
            self._changed.notify_all()
