"""A caller who does nothing wrong, and whose numbers must not change.

``python -m benchmarks.fuzz.witness ADDRESS`` is a process of its own: what it waits for is the
server, and not the attack's own loop. It takes commands as `benchmarks.pipe` does.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from benchmarks.fuzz.messages.names import LETTERS, PRICES
from benchmarks.pipe import Reply, answer
from cellar.v1 import session_pb2, session_pb2_grpc, values_pb2

STEPS = 48
PATIENCE_S = 15.0
_RAW = values_pb2.Outputs(raw=True)


class Witness:
    """Steps through one sequence again and again: unary, and on a stream.

    Args:
        way: which sequence, and how.

    Attributes:
        rounds: how often it has come to the end.
        calls: calls of its own that were answered, by method.
        slowest_s: the longest wait for an answer since it was last asked.
        faults: what it saw.
    """

    def __init__(self, way: str, channel: grpc.aio.Channel) -> None:
        self.rounds = 0
        self.calls: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.faults: list[str] = []
        self._stub = session_pb2_grpc.SessionServiceStub(channel)
        self._alone: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._walk: Callable[[], AsyncIterator[bytes]] = {
            "letters": self._letters,
            "prices": self._prices,
            "stream": self._stream,
        }[way]

    async def remember(self) -> None:
        """Go through the sequence while nobody else calls, and keep what comes."""
        self._alone = [heard async for heard in self._walk()]

    def start(self) -> None:
        """Go on in the background."""
        self._stopping = False
        self._task = asyncio.create_task(self._compare_for_ever())

    async def stop(self) -> Reply:
        """Stop at the end of a round, with no session left; tells what it saw since its start."""
        self._stopping = True
        if self._task is not None:
            await self._task
        seen = {
            "rounds": self.rounds,
            "calls": dict(self.calls),
            "slowest_s": self.slowest_s,
            "faults": self.faults,
        }
        self.rounds, self.slowest_s, self.faults = 0, 0.0, []
        self.calls = Counter()
        return seen

    async def _compare_for_ever(self) -> None:
        while not self._stopping:
            try:
                await self._compare()
            except grpc.aio.AioRpcError as error:
                self.faults.append(f"a witness was refused: {error.code().name}: {error.details()}")
                return
            except TimeoutError:
                self.faults.append(f"a witness waited for more than {PATIENCE_S:g} s")
                return
            self.rounds += 1

    async def _compare(self) -> None:
        number = 0
        async for heard in self._walk():
            if heard != self._alone[number]:
                self.faults.append("a witness was told other numbers than alone")
            number += 1
        if number != len(self._alone):
            self.faults.append("a witness was not told all numbers")

    async def _timed(self, method: str, call: Awaitable[Any]) -> Any:
        start = time.monotonic()
        heard = await asyncio.wait_for(call, PATIENCE_S)
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        self.calls[method] += 1
        return heard

    def _letters(self) -> AsyncIterator[bytes]:
        tokens = [(number * 7 + 3) % 27 for number in range(STEPS)]
        return self._unary(
            LETTERS, [values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[each])) for each in tokens]
        )

    def _prices(self) -> AsyncIterator[bytes]:
        prices = [100.0 + number * 37 % 11 for number in range(STEPS)]
        return self._unary(
            PRICES, [values_pb2.Inputs(values=values_pb2.Values(data=[each])) for each in prices]
        )

    async def _unary(self, model: str, steps: list[values_pb2.Inputs]) -> AsyncIterator[bytes]:
        opening = session_pb2.OpenSessionRequest(model=model)
        opened = await self._timed("OpenSession", self._stub.OpenSession(opening))
        session = opened.session.id
        for position, inputs in enumerate(steps):
            request = session_pb2.StepRequest(
                session_id=session, inputs=inputs, position=position, outputs=_RAW
            )
            reply = await self._timed("Step", self._stub.Step(request))
            reply.ClearField("branch")  # never the same
            yield reply.SerializeToString()
        closing = session_pb2.CloseSessionRequest(session_id=session)
        await self._timed("CloseSession", self._stub.CloseSession(closing))

    async def _stream(self) -> AsyncIterator[bytes]:
        """Frames of three sessions."""
        names, channels = [f"witness-{number}" for number in range(3)], range(3)
        call = self._stub.Stream()
        attach = session_pb2.StreamAttach(session_ids=names, channels=channels, open=True)
        start = session_pb2.StreamStart(model=LETTERS, outputs=_RAW)
        await call.write(session_pb2.StreamRequest(start=start))
        await call.write(session_pb2.StreamRequest(attach=attach))
        yield (await self._heard(call)).SerializeToString()
        answer = await self._heard(call)
        answer.attached.ClearField("branches")
        yield answer.SerializeToString()
        for number in range(STEPS // 3):
            ids = [(number * 5 + channel) % 27 for channel in channels]
            inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=ids))
            frame = session_pb2.StreamFrame(channels=channels, inputs=inputs, number=number)
            await call.write(session_pb2.StreamRequest(frame=frame))
            for row in await self._rows(call, len(channels)):
                yield row
        detach = session_pb2.StreamDetach(channels=channels, close=True)
        await call.write(session_pb2.StreamRequest(detach=detach))
        await self._heard(call)
        await call.done_writing()
        await call.read()
        self.calls["Stream"] += 1

    async def _rows(self, call: Any, count: int) -> list[bytes]:
        """What each channel is told, in their order: replies may hold some of them."""
        rows: dict[int, bytes] = {}
        while len(rows) < count:
            reply = (await self._heard(call)).reply
            width = len(reply.predictions.raw) // max(1, len(reply.channels))
            for at, channel in enumerate(reply.channels):
                raw = list(reply.predictions.raw)[at * width : (at + 1) * width]
                row = values_pb2.Predictions(raw=raw).SerializeToString()
                rows[channel] = row + reply.positions[at].to_bytes(8, "little")
            for error in reply.errors:
                rows[error.channel] = error.SerializeToString()
        return [rows[channel] for channel in sorted(rows)]

    async def _heard(self, call: Any) -> Any:
        start = time.monotonic()
        heard = await asyncio.wait_for(call.read(), PATIENCE_S)
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        if heard is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(
                await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
            )
        return heard


WAYS = ("letters", "prices", "stream")


class Witnesses:
    """All of them, on one connection, as commands."""

    def __init__(self, address: str) -> None:
        channel = grpc.aio.insecure_channel(address)
        self._all = [Witness(way, channel) for way in WAYS]

    async def remember(self) -> Reply:
        """Each in its turn."""
        for witness in self._all:
            await witness.remember()
        return {}

    async def start(self) -> Reply:
        """All at once."""
        for witness in self._all:
            witness.start()
        return {}

    async def stop(self) -> Reply:
        """What they saw, together."""
        seen = [await witness.stop() for witness in self._all]
        calls: Counter[str] = Counter()
        for each in seen:
            calls.update(each["calls"])
        return {
            "rounds": sum(each["rounds"] for each in seen),
            "calls": calls,
            "slowest_s": max(each["slowest_s"] for each in seen),
            "faults": sorted({fault for each in seen for fault in each["faults"]}),
        }


async def main() -> None:
    witnesses = Witnesses(sys.argv[1])
    handlers = ("remember", "start", "stop")
    await answer({name: getattr(witnesses, name) for name in handlers})


if __name__ == "__main__":
    asyncio.run(main())
