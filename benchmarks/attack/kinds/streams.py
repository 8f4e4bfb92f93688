"""Attackers that have many streams, and send frames on them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from benchmarks.attack.attack import Attack, Run, Tally, Victim, add
from benchmarks.fuzz.messages.names import LETTERS
from benchmarks.load.wire import SERVICE
from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2

_ROWS = 64
_AHEAD = 16  # frames that are not answered
_FRAMES_PER_S = 1600
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
)
_AT_ONCE = 20  # connections that are being made
_AGAIN_S = 0.2

Mischief = Callable[["Streamer", Tally], Awaitable[None]]


class Streamer:
    """A stream on a connection of its own, with so many sessions.

    Args:
        call: of gRPC.
        rows: sessions, all of which are in each frame.
        pace_s: from one frame to the next, for those who keep a pace.
    """

    def __init__(self, call: Any, rows: int, pace_s: float) -> None:
        self.call = call
        self.rows = rows
        self.pace_s = pace_s
        self._number = 0
        inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[1] * rows))
        self._frame = pb.StreamFrame(channels=range(rows), inputs=inputs)

    async def open(self, prefix: str) -> None:
        """Begin the stream, and have its sessions."""
        names = [f"{prefix}-{number}" for number in range(self.rows)]
        attach = pb.StreamAttach(session_ids=names, channels=range(self.rows), open=True)
        for request in (
            pb.StreamRequest(start=pb.StreamStart(model=LETTERS)),
            pb.StreamRequest(attach=attach),
        ):
            await self.call.write(request.SerializeToString())
        for _ in range(2):  # what each of them is told
            await self.call.read()

    async def send(self) -> None:
        """A frame; it waits where the server takes no more."""
        self._number += 1
        self._frame.number = self._number
        await self.call.write(pb.StreamRequest(frame=self._frame).SerializeToString())

    async def take(self, tally: Tally) -> int:
        """A reply; returns how many rows it answers, 0 at the stream's end."""
        data = await self.call.read()
        if data is grpc.aio.EOF:
            return 0
        reply = pb.StreamResponse.FromString(data).reply
        tally.answered += len(reply.channels)
        tally.refused += len(reply.errors)
        return len(reply.channels) + len(reply.errors)


def streams(connections: int, rows: int, mischief: Mischief, *, pace_s: float = 0.0) -> Run:
    """So many connections with a stream each; one that ends begins again."""

    async def run(victim: Victim, tally: Tally, ending: asyncio.Event) -> None:
        credentials = grpc.ssl_channel_credentials(victim.pem())
        metadata = (("authorization", f"Bearer {victim.token}"),)
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            while not ending.is_set():
                async with grpc.aio.secure_channel(victim.address, credentials, _OPTIONS) as over:
                    stream: Any = over.stream_stream(SERVICE + "Stream")
                    streamer = Streamer(stream(metadata=metadata), rows, pace_s)
                    try:
                        async with places:
                            await streamer.open(f"m-{number}")
                        tally.open += 1
                        try:
                            await mischief(streamer, tally)
                        finally:
                            tally.open -= 1
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        pass
                    tally.cut += 1
                await asyncio.sleep(_AGAIN_S)

        tasks = [asyncio.create_task(one(number)) for number in range(connections)]
        await ending.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return run


async def _full_speed(ahead: int, streamer: Streamer, tally: Tally) -> None:
    """Send as soon as fewer than so many frames are not answered."""
    room = asyncio.Semaphore(ahead)

    async def take() -> None:
        missing = streamer.rows
        while rows := await streamer.take(tally):
            missing -= rows
            while missing <= 0:
                missing += streamer.rows
                room.release()

    taking = asyncio.create_task(take())
    try:
        while not taking.done():
            await room.acquire()
            await streamer.send()
            tally.sent += streamer.rows
    finally:
        taking.cancel()


async def _paced(streamer: Streamer, tally: Tally) -> None:
    """Send at a pace, whatever is answered; what the server does not take is not sent."""

    async def take() -> None:
        while await streamer.take(tally):
            pass

    taking = asyncio.create_task(take())
    now = asyncio.get_running_loop().time
    due_s = now()
    try:
        while not taking.done():
            await streamer.send()
            tally.sent += streamer.rows
            due_s = max(due_s + streamer.pace_s, now() - 1.0)
            await asyncio.sleep(max(0.0, due_s - now()))
    finally:
        taking.cancel()


async def _deaf(streamer: Streamer, tally: Tally) -> None:
    """Send, and read nothing."""
    while True:
        await streamer.send()
        tally.sent += streamer.rows


_PACED = 16  # connections

add(
    {
        "quota: frames": Attack(
            says=f"{_FRAMES_PER_S * _ROWS:,} steps a second in frames of {_ROWS}, of 1,000",
            run=streams(_PACED, _ROWS, _paced, pace_s=_PACED / _FRAMES_PER_S),
            quota={"max_steps_per_s": 1000},
        ),
        "quota: pending": Attack(
            says=f"16 streams of {_ROWS} that have {_AHEAD} frames waiting each, of 160 steps",
            run=streams(16, _ROWS, partial(_full_speed, _AHEAD)),
            quota={"max_pending_steps": 160},
        ),
        "quota: bytes": Attack(
            says="100 streams that send and read nothing, of 1 MiB that may wait",
            run=streams(100, _ROWS, _deaf),
            quota={"max_waiting_bytes": 1 << 20},
        ),
        "no quota: frames": Attack(
            says=f"16 streams of {_ROWS} at full speed, {_AHEAD} frames ahead",
            run=streams(16, _ROWS, partial(_full_speed, _AHEAD)),
        ),
        "no quota: 200 connections": Attack(
            says="200 connections with a stream of 16 each, 4 frames ahead",
            run=streams(200, 16, partial(_full_speed, 4)),
        ),
    }
)
