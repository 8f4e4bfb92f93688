# Generated from cellar/aio/stream.py by `make sync-client`; do not edit.
"""The synchronous stream."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from cellar.calls.closing import not_hiding
from cellar.calls.retry import CLEANUP_TIMEOUT_S, CLOSING_TIMEOUT_S
from cellar.connection.connection import new_session_id
from cellar.streams.pending import OpenOptions
from cellar.streams.stream_protocol import StreamProtocol
from cellar.sync.exchange import Exchange
from cellar.sync.transport import Transport
from cellar.values import arguments
from cellar.values.inputs import FrameInputs
from cellar.values.predictions import Positions
from cellar.values.results import RowsRefusedError, StreamReply


class Stream(Exchange):
    """Many sessions of one model on one connection. For one thread at a time.

    A *channel* is a session's number on this stream; a *frame* is one message with the steps
    of many channels; many frames may be in flight. When the connection breaks, the stream
    connects again by itself, and every step in flight is still applied once. What a server loses
    in a crash, because it had answered before it wrote, is sent once more. As a context manager
    it closes the sessions that it opened, and leaves those that it attached.

    A channel whose session is elsewhere than the stream believes (``PositionMismatchError``,
    ``ReplyLostError``), or was reset by somebody else (``StaleBranchError``), is to be
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

    def __repr__(self) -> str:
        """Of which model, with how many channels and frames in flight."""
        channels, frames = len(self._in_flight.channels.sessions), len(self._in_flight.awaited())
        closed = ", closed" if self._protocol.closed else ""
        return (
            f"<cellar stream of {self.model.title}: {channels} channels, {frames} frames in flight"
            f"{closed}>"
        )

    def open(
        self,
        count: int,
        *,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
        timeout_s: float | None = None,
    ) -> Positions:
        """Opens so many sessions; returns their channels (count,).

        They begin with the model's own state: see ``Client.session`` for those that do not.

        Args:
            count: how many.
            idle_timeout_s: overrides the server's idle timeout.
            ephemeral: ends the sessions with this stream, or the last one that attaches them: soon
                after it has ended (10 s unless the server is set otherwise), however it does. A
                stream that loses its connection and is back by then goes on with them.
            timeout_s: overrides the stream's.

        Raises:
            RowsRefusedError: some could not be opened; the others are.
            CellarError: none is attached.
        """
        most = arguments.MOST_CHANNELS
        ids = [new_session_id() for _ in range(arguments.whole("count", count, most=most))]
        opening = OpenOptions(
            idle_timeout_s=arguments.optional_seconds("idle_timeout_s", idle_timeout_s),
            ephemeral=arguments.flag("ephemeral", ephemeral),
        )
        return self._attach(ids, opening, timeout_s)

    def attach(self, ids: str | Sequence[str], *, timeout_s: float | None = None) -> Positions:
        """Attaches sessions that are open; returns their channels (ids,). One id is one session.

        Raises:
            RowsRefusedError: some could not be attached; the others are.
            CellarError: none is attached.
        """
        return self._attach(arguments.texts("ids", ids), None, timeout_s)

    def step(
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
        strict = arguments.flag("strict", strict)
        bound = arguments.optional_seconds("timeout_s", timeout_s)
        frame = self._in_flight.frame(channels, inputs)
        self._ask([frame], bound)
        reply = frame.reply()
        return reply.check() if strict else reply

    def reset(self, channels: npt.ArrayLike, *, timeout_s: float | None = None) -> None:
        """Puts the sessions of channels back to position 0, and waits until they are.

        Frames that were sent before are applied and answered first. Until it returns, nothing else
        can be sent for these channels.

        Raises:
            RowsRefusedError: some were not reset; the others are.
            BadInputError: a channel is not attached.
            CellarError: no answer. What the sessions were reset to is found out by itself: steps
                built on a past that has ended are refused with ``StaleBranchError``.
        """
        bound = arguments.optional_seconds("timeout_s", timeout_s)
        reset = self._in_flight.reset(arguments.channels(channels))
        self._ask(reset, bound)
        failures = [failure for each in reset for failure in each.failures]
        if failures:
            raise RowsRefusedError(failures)

    def detach(
        self,
        channels: npt.ArrayLike,
        *,
        close: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Lets go of channels; their sessions stay open, unless they are to be closed."""
        numbers = arguments.channels(channels).tolist()
        close = arguments.flag("close", close)
        bound = arguments.optional_seconds("timeout_s", timeout_s)
        detach = self._in_flight.detach(numbers, close=close)
        self._opened.difference_update(numbers)
        if not detach.done:
            self._ask([detach], bound)

    def positions(self, channels: npt.ArrayLike) -> Positions:
        """Where channels will be once all frames in flight are applied (rows,)."""
        return self._in_flight.positions(arguments.channels(channels))

    def session_id(self, channel: int) -> str:
        """The id of the session on a channel."""
        return self._in_flight.session_id(channel)

    def __enter__(self) -> Self:
        """Returns the stream."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the sessions that the stream opened, and the stream.

        A failure to do so hides neither what the block came to nor the error that ended it: it is
        logged, and the sessions expire when they have been idle for long enough.
        """
        try:
            if self._opened:
                with not_hiding("the sessions of a stream"):
                    most_s = CLEANUP_TIMEOUT_S if error else CLOSING_TIMEOUT_S
                    bound = min(most_s, self._protocol.attempts(self._timeout_s).remaining_s())
                    self.detach(sorted(self._opened), close=True, timeout_s=bound)
        finally:
            self.close()

    def _attach(
        self, ids: Sequence[str], opening: OpenOptions | None, timeout_s: float | None
    ) -> Positions:
        bound = arguments.optional_seconds("timeout_s", timeout_s)
        attaches = self._in_flight.attach(ids, opening)
        channels = [channel for attach in attaches for channel in attach.waiting]
        self._ask(attaches, bound)
        failures = [failure for attach in attaches for failure in attach.failures]
        if opening is not None:
            self._opened.update(set(channels) - {failure.channel for failure in failures})
        if failures:
            raise RowsRefusedError(failures)
        return np.array(channels, np.int64)
