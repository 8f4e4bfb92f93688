"""The load process: commands in JSON lines, see `Cases`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import uvloop

from benchmarks.echo import SERVICE as ECHO
from benchmarks.load.calls import (
    EchoCallLane,
    ForecastLane,
    GenerateLane,
    StepLane,
    open_session,
)
from benchmarks.load.frames import EchoStreamLane, FrameLane, SessionLane
from benchmarks.load.lane import Lane, drive
from benchmarks.load.wire import Papers, Wire
from benchmarks.pipe import Reply, answer


class Cases:
    """Callers by the name of their case; each case has a connection of its own.

    Commands are ``frames``, ``steps``, ``generations``, ``forecasts``, ``echo_streams`` and
    ``echo_calls``, which prepare a case and answer with the sizes of its messages in bytes
    (frames and steps), then ``run`` and ``close``. What callers show, see `Papers`, may be added.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, Sequence[Lane]] = {}
        self._channels: dict[str, Wire] = {}

    async def frames(
        self,
        case: str,
        address: str,
        model: str,
        streams: int,
        rows: int,
        sessions: int = 0,
        **papers: str,
    ) -> Reply:
        """Streams with frames of ``rows`` out of ``sessions`` per stream; 0 means ``rows``."""
        channel = self._channel(case, address, papers)
        names = [f"{case}-{number}" for number in range(streams)]
        lanes = [
            SessionLane(channel, prefix=name, seed=seed)
            if max(rows, sessions) == 1
            else FrameLane(channel, rows=rows, sessions=sessions or rows, prefix=name, seed=seed)
            for seed, name in enumerate(names)
        ]
        for lane in lanes:
            await lane.open(model)
            await lane.touch()
        self._lanes[case] = lanes
        return await self._sizes(lanes[0])

    async def steps(
        self, case: str, address: str, model: str, sessions: int, steps: int = 1, **papers: str
    ) -> Reply:
        """Unary steps, or chunks of them."""
        channel = self._channel(case, address, papers)
        lanes = []
        for number in range(sessions):
            session = f"{case}-{number}"
            await open_session(channel, model, session)
            lanes.append(StepLane(channel, session=session, steps=steps, seed=number))
        self._lanes[case] = lanes
        return await self._sizes(lanes[0])

    async def generations(
        self, case: str, address: str, model: str, sessions: int, steps: int, **papers: str
    ) -> Reply:
        """Generations of so many steps."""
        channel = self._channel(case, address, papers)
        lanes = []
        for number in range(sessions):
            session = f"{case}-{number}"
            await open_session(channel, model, session)
            lanes.append(GenerateLane(channel, session=session, steps=steps, seed=number))
        self._lanes[case] = lanes
        return {}

    async def forecasts(
        self, case: str, address: str, model: str, horizon: int, paths: int, **papers: str
    ) -> Reply:
        """Forecasts of one session, after a random walk of 100 values."""
        channel = self._channel(case, address, papers)
        session = f"{case}-0"
        await open_session(channel, model, session)
        lane = ForecastLane(channel, session=session, horizon=horizon, paths=paths)
        walk = np.random.default_rng(0).normal(0, 0.01, size=100).cumsum()
        await lane.read_series((100 * np.exp(walk)).tolist())
        self._lanes[case] = [lane]
        return {}

    async def echo_streams(
        self, case: str, address: str, streams: int, request_bytes: int
    ) -> Reply:
        """Streams to the echo."""
        channel = self._channel(case, address, {})
        method = f"/{ECHO}/Stream"
        self._lanes[case] = [
            EchoStreamLane(channel, method=method, request_bytes=request_bytes)
            for _ in range(streams)
        ]
        return {}

    async def echo_calls(self, case: str, address: str, calls: int, request_bytes: int) -> Reply:
        """Unary calls to the echo."""
        channel = self._channel(case, address, {})
        method = f"/{ECHO}/Call"
        self._lanes[case] = [
            EchoCallLane(channel, method=method, request_bytes=request_bytes) for _ in range(calls)
        ]
        return {}

    async def run(self, case: str, seconds: float, rate: float | None = None) -> Reply:
        """One round."""
        return await drive(self._lanes[case], seconds=seconds, rate=rate)

    async def close(self, case: str) -> Reply:
        """Hang up."""
        del self._lanes[case]
        await self._channels.pop(case).close()
        return {}

    def _channel(self, case: str, address: str, papers: Mapping[str, str]) -> Wire:
        channel = self._channels[case] = Wire(address, Papers(**papers))
        return channel

    @staticmethod
    async def _sizes(lane: Any) -> Reply:
        await lane.exchange()
        await lane.check()
        return {"request_bytes": lane.request_bytes, "reply_bytes": lane.reply_bytes}


if __name__ == "__main__":
    _cases = Cases()
    _commands = (
        _cases.frames,
        _cases.steps,
        _cases.generations,
        _cases.forecasts,
        _cases.echo_streams,
        _cases.echo_calls,
        _cases.run,
        _cases.close,
    )
    uvloop.run(answer({command.__name__: command for command in _commands}))
