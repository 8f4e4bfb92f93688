"""Principals that are polite beside an attack: steps on connections of their own, and newcomers.

Run as ``python -m benchmarks.attack.polite ADDRESS CA TOKEN...``; reads commands and writes JSON
lines.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.fuzz.messages.names import LETTERS
from benchmarks.pipe import Reply, answer
from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc

_STEP_S, _NEW_S = 0.01, 0.2  # from one to the next
_SESSIONS = 2  # of each principal
_PATIENCE_S = 15.0
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


class Polite:
    """Steps, and comes anew, at a leisurely pace; notes how long each takes.

    Args:
        address: of the server.
        authority: PEM of its authority.
        tokens: of the principals.
    """

    def __init__(self, address: str, authority: bytes, tokens: Sequence[str]) -> None:
        self._address = address
        self._credentials = grpc.ssl_channel_credentials(authority)
        self._tokens = tokens
        self._steps: list[float] = []
        self._news: list[float] = []
        self._failed: dict[str, int] = {}

    async def measure(self, seconds: float) -> Reply:
        """Go on for so long; returns milliseconds, how many failed, and of what."""
        self._steps, self._news, self._failed = [], [], {}
        until = time.monotonic() + seconds
        try:
            await asyncio.gather(
                *(self._step(token, until) for token in self._tokens), self._come(until)
            )
        except grpc.aio.AioRpcError as error:  # there is no session to step
            self._note(error)
        return {
            "step_ms": _shares(self._steps),
            "new_ms": _shares(self._news),
            "steps": len(self._steps),
            "news": len(self._news),
            "failed": sum(self._failed.values()),
            "why": self._failed,
        }

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._address, self._credentials, _OPTIONS)

    async def _step(self, token: str, until: float) -> None:
        async with self._channel() as channel:
            stub: Any = session_pb2_grpc.SessionServiceStub(channel)
            await asyncio.gather(*(self._one(stub, token, until) for _ in range(_SESSIONS)))

    async def _one(self, stub: Any, token: str, until: float) -> None:
        """A session, stepped from time to time."""
        asked = {"timeout": _PATIENCE_S, "metadata": _bearer(token)}
        opened = await stub.OpenSession(pb.OpenSessionRequest(model=LETTERS), **asked)
        request = pb.StepRequest(session_id=opened.session.id)
        request.inputs.text = "a"
        while time.monotonic() < until:
            await self._timed(stub.Step(request, **asked), self._steps)
            await asyncio.sleep(_STEP_S)
        await stub.CloseSession(pb.CloseSessionRequest(session_id=opened.session.id), **asked)

    async def _come(self, until: float) -> None:
        """A connection, a call, and gone."""
        metadata = _bearer(self._tokens[0])
        while time.monotonic() < until:
            async with self._channel() as channel:
                stub: Any = session_pb2_grpc.SessionServiceStub(channel)
                listing = stub.ListSessions(
                    pb.ListSessionsRequest(page_size=1),
                    timeout=_PATIENCE_S,
                    metadata=metadata,
                    wait_for_ready=True,
                )
                await self._timed(listing, self._news)
            await asyncio.sleep(_NEW_S)

    async def _timed(self, call: Any, times: list[float]) -> None:
        began = time.perf_counter()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self._note(error)
        times.append(1000 * (time.perf_counter() - began))

    def _note(self, error: grpc.aio.AioRpcError) -> None:
        why = f"{error.code().name}: {(error.details() or '')[:80]}"
        self._failed[why] = self._failed.get(why, 0) + 1


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def _shares(times: Sequence[float]) -> list[float]:
    """Median and 99th percentile."""
    ordered = sorted(times) or [0.0]
    return [round(ordered[min(len(ordered) - 1, int(of * len(ordered)))], 2) for of in (0.5, 0.99)]


if __name__ == "__main__":
    _polite = Polite(sys.argv[1], Path(sys.argv[2]).read_bytes(), sys.argv[3:])
    uvloop.run(answer({"measure": _polite.measure}))
