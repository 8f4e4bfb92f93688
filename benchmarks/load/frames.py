"""Frames: many sessions in one message, on a stream. A frame of one is a stream per session."""

from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.load.wire import SERVICE, FrameBytes, Wire, stream_attach, stream_start
from cellar.v1 import session_pb2

ATTACHED_AT_ONCE = 65_536


class FrameLane:
    """A stream with its sessions, of which some step in each frame.

    Args:
        channel: the connection.
        rows: sessions of a frame.
        sessions: sessions attached; more than ``rows`` are drawn from at random, each as often as
            any other.
        prefix: begins the sessions' ids.
        seed: of tokens and draws.
    """

    def __init__(self, channel: Wire, *, rows: int, sessions: int, prefix: str, seed: int) -> None:
        self.steps = rows
        self.request_bytes = 0
        self.reply_bytes = 0
        self._channel = channel
        self._sessions = sessions
        self._prefix = prefix
        self._noise = np.random.default_rng(seed)
        self._bytes = FrameBytes(rows, self._noise)
        self._bytes.channels[:] = np.arange(rows)
        self._positions = np.zeros(sessions, np.uint64)
        self._deck = np.empty((0, rows), np.int64)  # (frames, rows) shuffled sessions
        self._dealt = 0
        self._number = 0
        self._last = b""
        self._call: Any = None

    async def open(self, model: str) -> None:
        """Begin the stream and open the sessions, which takes a while for many."""
        self._call = self._channel.stream_stream(SERVICE + "Stream")()
        await self._call.write(stream_start(model))
        await self._read()
        for first in range(0, self._sessions, ATTACHED_AT_ONCE):
            count = min(ATTACHED_AT_ONCE, self._sessions - first)
            names = [f"{self._prefix}-{number}" for number in range(first, first + count)]
            await self._call.write(stream_attach(names, first))
            attached = session_pb2.StreamResponse.FromString(await self._read()).attached
            if attached.errors:
                raise RuntimeError(f"attach refused: {attached.errors[0].message}")

    async def touch(self) -> None:
        """Step every session once."""
        for first in range(0, self._sessions, self.steps):
            last = min(first + self.steps, self._sessions)
            await self._step(np.arange(last - self.steps, last))

    async def exchange(self) -> None:
        """Step one frame."""
        await self._step(None if self._sessions == self.steps else self._deal())

    async def check(self) -> None:
        """The last answer names no fault, and positions that this caller knows."""
        reply = session_pb2.StreamResponse.FromString(self._last).reply
        if reply.errors:
            raise RuntimeError(f"step refused: {reply.errors[0].message}")
        known = self._positions[np.fromiter(reply.channels, np.int64)]
        if reply.frame != self._number or list(reply.positions) != known.tolist():
            raise RuntimeError("the answer is not to the frame that was sent")

    async def _step(self, rows: NDArray[np.int64] | None) -> None:
        """Step some sessions, or those of the only frame there is."""
        message = self._bytes
        if rows is None:
            message.positions[:] = self._positions
        else:
            message.channels[:] = rows
            message.positions[:] = self._positions[rows]
        self._number += 1
        message.number[0] = self._number
        request = message.message()
        await self._call.write(request)
        self._last = reply = await self._read()
        if len(reply) != self.reply_bytes:
            await self._take_in_pieces(reply)
        if rows is None:
            self._positions += np.uint64(1)
        else:
            self._positions[rows] += np.uint64(1)
        self.request_bytes = len(request)

    async def _take_in_pieces(self, reply: bytes) -> None:
        """Count the rows: an answer of the usual length is whole, all others must be looked at."""
        missing = self.steps
        while True:
            found = session_pb2.StreamResponse.FromString(reply).reply
            if found.errors or not found.channels:
                reason = found.errors[0].message if found.errors else "an empty answer"
                raise RuntimeError(f"step refused: {reason}")
            if len(found.channels) == self.steps:
                self.reply_bytes = len(reply)
            missing -= len(found.channels)
            if missing == 0:
                break
            self._last = reply = await self._read()

    def _deal(self) -> NDArray[np.int64]:
        """The next frame's sessions, from a pack that is shuffled once it is dealt out."""
        if self._dealt == len(self._deck):
            shuffled = self._noise.permutation(self._sessions)
            whole = self._sessions // self.steps * self.steps
            self._deck = shuffled[:whole].reshape(-1, self.steps)
            self._dealt = 0
        self._dealt += 1
        rows: NDArray[np.int64] = self._deck[self._dealt - 1]
        return rows

    async def _read(self) -> bytes:
        return await read(self._call)


class SessionLane(FrameLane):
    """A stream with one session. A message costs the caller little more than one of an echo."""

    def __init__(self, channel: Wire, *, prefix: str, seed: int) -> None:
        super().__init__(channel, rows=1, sessions=1, prefix=prefix, seed=seed)
        self._position = self._bytes.positions.view(np.uint8).data.cast("Q")
        self._count = self._bytes.number.view(np.uint8).data.cast("Q")

    async def touch(self) -> None:
        """See `FrameLane.touch`."""
        await self.exchange()

    async def exchange(self) -> None:
        """Step the session."""
        self._position[0] = self._number
        self._number += 1
        self._count[0] = self._number
        request = self._bytes.message()
        await self._call.write(request)
        self._last = reply = await read(self._call)
        if len(reply) != self.reply_bytes:
            await self._take_in_pieces(reply)
            self.request_bytes = len(request)

    async def check(self) -> None:
        """See `FrameLane.check`."""
        self._positions[0] = self._number
        await super().check()


class EchoStreamLane:
    """A stream to the echo, with messages of one size."""

    steps = 1

    def __init__(self, channel: Wire, *, method: str, request_bytes: int) -> None:
        self._call: Any = channel.stream_stream(method)()
        self._request = bytes(request_bytes)

    async def exchange(self) -> None:
        """Send one message and take its answer."""
        await self._call.write(self._request)
        await read(self._call)

    async def check(self) -> None:
        """An echo says nothing."""


async def read(call: Any) -> bytes:
    """The next message of a stream, which must not end."""
    found = await call.read()
    if found is grpc.aio.EOF:
        raise RuntimeError(f"the stream ended: {await call.code()}: {await call.details()}")
    message: bytes = found
    return message


__all__ = ["EchoStreamLane", "FrameLane", "SessionLane", "read"]
