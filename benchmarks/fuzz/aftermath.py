"""What an attack has left of a server: who is served, what is held, what was written."""

import asyncio
import json
import re
import time
from collections import Counter

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.fuzz.messages.grammar import MARK
from benchmarks.fuzz.messages.names import PRICES
from benchmarks.processes import CellarServer
from benchmarks.vitals import Vitals, look_at
from cellar.v1 import session_pb2, session_pb2_grpc, values_pb2

OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)
_QUIET_S = 15.0
_SLACK = 4  # threads and file descriptors that come and go


class Aftermath:
    """Looks at a server after each batch.

    Args:
        server: whom to look at.
        paths: spare slots that it has, all of which a forecast must get.

    Attributes:
        sent: calls that its metrics must know, by method and status.
        rss_mb: resident memory, when it was last looked at.
    """

    def __init__(self, server: CellarServer, *, paths: int) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        self.rss_mb = 0.0
        self._server = server
        self._paths = paths
        self._errors_read = 0
        self._before: Vitals | None = None

    async def begin(self) -> None:
        """Look at it as it is before."""
        self._before = await self._look()

    async def faults(self) -> list[str]:
        """What is wrong with it now; waits for what goes by itself."""
        found = []
        if not self._server.is_running():
            found.append("the server has ended")
        else:
            try:
                found += await self._probe()
                found += await self._leaks()
            except OSError as error:
                found.append(f"the metrics page does not answer: {type(error).__name__}")
        return found + self._logged()

    async def _probe(self) -> list[str]:
        """Whether a newcomer is served: health, and a forecast that takes all spare slots."""
        async with grpc.aio.insecure_channel(self._server.address, options=OPTIONS) as channel:
            try:
                health = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=10
                )
                if health.status != health_pb2.HealthCheckResponse.SERVING:
                    return ["the server does not say that it serves"]
                await self._forecast(session_pb2_grpc.SessionServiceStub(channel))
            except grpc.aio.AioRpcError as error:
                return [f"a newcomer is refused: {error.code().name}: {error.details()}"]
        return []

    async def _forecast(self, stub: session_pb2_grpc.SessionServiceStub) -> None:
        opening = session_pb2.OpenSessionRequest(model=PRICES)
        session = (await stub.OpenSession(opening, timeout=10)).session.id
        inputs = values_pb2.Inputs(values=values_pb2.Values(data=[100.0, 101.0]))
        step = session_pb2.StepRequest(session_id=session, inputs=inputs)
        await stub.Step(step, timeout=10)
        forecast = session_pb2.ForecastRequest(session_id=session, horizon=2, paths=self._paths)
        await stub.Forecast(forecast, timeout=10)
        await stub.CloseSession(session_pb2.CloseSessionRequest(session_id=session), timeout=10)
        for method in ("OpenSession", "Step", "Forecast", "CloseSession"):
            self.sent[method, "OK"] += 1

    async def _leaks(self) -> list[str]:
        """What is still held once everybody is gone."""
        give_up = time.monotonic() + _QUIET_S
        while True:
            now = await self._look()
            found = self._held(now)
            found += [
                f"calls of {method} that ended with {code} are not in the metrics"
                for (method, code), count in self.sent.items()
                if now.requests.get((method, code), 0) < count
            ]
            if not found or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.1)
        self.rss_mb = now.rss_bytes / 2**20
        return found

    def _held(self, now: Vitals) -> list[str]:
        assert self._before is not None
        found = []
        if now.sessions:
            found.append("sessions keep their slots")
        if now.pending_steps:
            found.append("steps stay pending")
        if now.fds > self._before.fds + _SLACK:
            found.append("file descriptors stay open")
        if now.threads > self._before.threads + _SLACK:
            found.append("threads stay")
        return found

    async def _look(self) -> Vitals:
        process, metrics = self._server.pid, self._server.metrics
        return await asyncio.to_thread(look_at, process, metrics)

    def _logged(self) -> list[str]:
        """What the server has written since it was last read, and should not have."""
        found = []
        for line in self._server.unread():
            if MARK in line:
                found.append("the log holds what a caller sent")
            try:
                entry = json.loads(line)
            except ValueError:
                found.append(f"stdout: {general(line)}")
                continue
            if entry.get("event") == "refused":  # as it should be
                continue
            if entry.get("level") not in ("debug", "info") or "exception" in entry:
                fault = entry.get("exception", "")  # in JSON a list, the fault that was raised last
                if isinstance(fault, list):
                    fault = f"{fault[0]['exc_type']}: {fault[0]['exc_value']}"
                found.append(f"log: {entry.get('event')}: {_last_line(fault)}")
        errors = self._server.errors()
        fresh, self._errors_read = errors[self._errors_read :], len(errors)
        if MARK in fresh:
            found.append("stderr holds what a caller sent")
        if fresh.strip():
            found.append(f"stderr: {_last_line(fresh)}")
        return found


def grows(rss_mb: list[float]) -> float:
    """Megabytes by which memory has grown since it was warm, if that is more than comes and goes.

    Compares the medians of the second and the last quarter of the batches.
    """
    quarter = len(rss_mb) // 4
    if quarter < 2:
        return 0.0
    early, late = (sorted(rss_mb[at : at + quarter]) for at in (quarter, len(rss_mb) - quarter))
    grown = late[quarter // 2] - early[quarter // 2]
    return grown if grown > max(16.0, 0.05 * early[quarter // 2]) else 0.0


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return general(lines[-1]) if lines else ""


def general(text: str | None) -> str:
    """A text without what differs from one time to the next."""
    plain = re.sub(r"0x[0-9a-f]+|'[^']*'|\d+", "…", (text or "").strip())
    return re.sub(r"[^ -~…]+", "?", plain)[:160]


__all__ = ["OPTIONS", "Aftermath", "general", "grows"]
