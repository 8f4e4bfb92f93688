"""What a synchronous stream sends and receives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy.typing as npt

from cellar.calls.procedures import Write
from cellar.calls.retry import CLEANUP_TIMEOUT_S, Attempts
from cellar.errors import BadInputError, CellarError, DeadlineExceededError, UnansweredError
from cellar.streams.pending import Frame, Pending
from cellar.streams.stream_protocol import StreamProtocol
from cellar.sync.drive import drive
from cellar.sync.duplex import Duplex
from cellar.sync.transport import Transport
from cellar.values.inputs import FrameInputs
from cellar.values.model_info import ModelInfo
from cellar.values.results import StreamReply


class Exchange:
    """One thread asks, and reads the answers while it waits for its own.

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
        self._replies: deque[StreamReply] = deque()
        self.model: ModelInfo = protocol.model

    def send(self, channels: npt.ArrayLike, inputs: FrameInputs) -> int:
        """Sends a frame without waiting; returns its number. ``receive`` its reply later."""
        frame = self._in_flight.frame(channels, inputs)
        self._sent.add(frame.number)
        self._submit(frame)
        return frame.number

    def receive(self, *, timeout_s: float | None = None) -> StreamReply:
        """The next whole reply to a frame that was sent, in the order they complete.

        Refused rows are in its ``failures``; ``reply.check()`` raises them.

        Raises:
            BadInputError: nothing is in flight.
            UnansweredError: the stream was closed before the frames that are left were answered.
            CellarError: no answer.
        """
        attempts = self._attempts(timeout_s)
        while not self._replies:
            if self._protocol.closed is not None:
                raise self._protocol.closed
            if not self._in_flight.awaited():
                raise BadInputError("nothing is in flight on the stream")
            self._pump(attempts)
        return self._replies.popleft()

    def replies(self) -> Iterator[StreamReply]:
        """The replies to frames that were sent; ends when nothing is in flight."""
        while (
            self._replies
            or self._in_flight.awaited()
            or isinstance(self._protocol.closed, UnansweredError)
        ):
            yield self.receive()

    def close(self) -> None:
        """Ends the stream, and leaves its sessions open.

        Frames in flight are waited for first, a second at most. ``receive`` still gives their
        replies, and then tells which had none.
        """
        awaited = self._in_flight.awaited()
        attempts = self._attempts(CLEANUP_TIMEOUT_S)
        try:
            with suppress(CellarError):
                while not all(frame.done for frame in awaited):
                    self._pump(attempts)
        finally:
            self._protocol.close(awaited)
            self._duplex.close()

    def _submit(self, pending: Pending) -> None:
        if self._protocol.live:
            self._duplex.perform(Write(pending.request()))

    def _ask(self, asked: Sequence[Pending], timeout_s: float | None) -> None:
        """Sends what is asked, and waits until all of it is answered."""
        for each in asked:
            self._submit(each)
        attempts = self._attempts(timeout_s)
        try:
            while not all(each.done for each in asked):
                self._pump(attempts)
        except BaseException:
            for each in asked:
                self._protocol.abandon(each)
            raise

    def _pump(self, attempts: Attempts) -> None:
        try:
            done = drive(self._protocol.pump(attempts.remaining_s()), self._duplex.perform)
        except DeadlineExceededError:
            raise
        except CellarError as error:
            self._sent.clear()
            self._protocol.give_up(error)
            self._duplex.close()
            raise
        for each in done:
            if isinstance(each, Frame) and each.number in self._sent:
                self._sent.remove(each.number)
                self._replies.append(each.reply())

    def _attempts(self, timeout_s: float | None) -> Attempts:
        return self._protocol.attempts(self._timeout_s if timeout_s is None else timeout_s)
