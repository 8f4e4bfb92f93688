"""Unary calls, generations and forecasts."""

from typing import Any

import grpc
import numpy as np

from benchmarks.load.wire import SERVICE, TOKENS, StepBytes, Wire
from cellar.v1 import session_pb2, values_pb2


async def open_session(channel: Wire, model: str, session: str) -> None:
    """Open a session by its id."""
    request = session_pb2.OpenSessionRequest(model=model, session_id=session)
    call: Any = channel.unary_unary(SERVICE + "OpenSession")
    await call(request.SerializeToString())


class StepLane:
    """Unary steps of one session: one each, or many as a chunk."""

    def __init__(self, channel: Wire, *, session: str, steps: int, seed: int) -> None:
        tokens = np.random.default_rng(seed).integers(TOKENS, size=steps).tolist()
        self.steps = steps
        self.request_bytes = 0
        self.reply_bytes = 0
        self._bytes = StepBytes(session, tokens)
        self._call: Any = channel.unary_unary(SERVICE + "Step")
        self._position = 0
        self._last = b""

    async def exchange(self) -> None:
        """Step."""
        request = self._bytes.message(self._position)
        self._last = await self._call(request)
        self._position += self.steps
        self.request_bytes, self.reply_bytes = len(request), len(self._last)

    async def check(self) -> None:
        """The last answer stands where this caller does."""
        response = session_pb2.StepResponse.FromString(self._last)
        if response.position != self._position or len(response.predictions.argmax) != 1:
            raise RuntimeError("the answer is not to the step that was sent")


class EchoCallLane:
    """Unary calls to the echo, with messages of one size."""

    steps = 1

    def __init__(self, channel: Wire, *, method: str, request_bytes: int) -> None:
        self._call: Any = channel.unary_unary(method)
        self._request = bytes(request_bytes)

    async def exchange(self) -> None:
        """Call."""
        await self._call(self._request)

    async def check(self) -> None:
        """An echo says nothing."""


class GenerateLane:
    """Generations of one session, one after the other; each reads a token first.

    ``steps`` are those generated.
    """

    def __init__(self, channel: Wire, *, session: str, steps: int, seed: int) -> None:
        self.steps = steps
        self.pieces = 0
        request = session_pb2.GenerateRequest(
            session_id=session,
            prompt=values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[seed % TOKENS])),
            max_steps=steps,
            sampling=values_pb2.Sampling(temperature=1.0, seed=seed),
        )
        self._request = request.SerializeToString()
        self._call: Any = channel.unary_stream(SERVICE + "Generate")
        self._position = 0
        self._last = b""

    async def exchange(self) -> None:
        """Generate to the end."""
        call = self._call(self._request)
        while (piece := await call.read()) is not grpc.aio.EOF:
            self._last = piece
            self.pieces += 1
        if await call.code() is not grpc.StatusCode.OK:
            raise RuntimeError(f"the generation ended: {await call.details()}")
        self._position += 1 + self.steps

    async def check(self) -> None:
        """The last piece stands where this caller does."""
        if session_pb2.GenerateResponse.FromString(self._last).position != self._position:
            raise RuntimeError("the generation has not the length that was asked for")


class ForecastLane:
    """Forecasts of one session that has read some values; ``steps`` are path-steps."""

    def __init__(self, channel: Wire, *, session: str, horizon: int, paths: int) -> None:
        self.steps = horizon * paths
        self._horizon = horizon
        self._session = session
        self._channel = channel
        self._call: Any = channel.unary_unary(SERVICE + "Forecast")
        self._paths = paths
        self._seed = 0
        self._last = b""

    async def read_series(self, values: list[float]) -> None:
        """Step the session through a series first."""
        request = session_pb2.StepRequest(
            session_id=self._session,
            inputs=values_pb2.Inputs(values=values_pb2.Values(data=values)),
        )
        step: Any = self._channel.unary_unary(SERVICE + "Step")
        await step(request.SerializeToString())

    async def exchange(self) -> None:
        """Forecast, with another seed each time: an answer that is kept would measure nothing."""
        self._seed += 1
        request = session_pb2.ForecastRequest(
            session_id=self._session, horizon=self._horizon, paths=self._paths, seed=self._seed
        )
        self._last = await self._call(request.SerializeToString())

    async def check(self) -> None:
        """The last answer reaches to the horizon."""
        if len(session_pb2.ForecastResponse.FromString(self._last).mean) != self._horizon:
            raise RuntimeError("the forecast has not the length that was asked for")


__all__ = [
    "EchoCallLane",
    "ForecastLane",
    "GenerateLane",
    "StepLane",
    "open_session",
]
