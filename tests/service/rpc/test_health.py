"""Watches end with the latest status, and without one who leaves."""

import asyncio

from grpc_health.v1 import health_pb2

from service.engine.engine import Engine
from service.health import Health
from service.metrics import Metrics
from service.rpc.health import HealthServicer
from service.settings import Settings

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class SlowCall:
    """A call whose messages are on their way until ``arrives`` is set."""

    def __init__(self) -> None:
        self.arrives = asyncio.Event()
        self.metadata_sent = False
        self.heard: list[int] = []
        self.cancelled_writes = 0

    async def send_initial_metadata(self, metadata: object) -> None:
        assert metadata == ()
        self.metadata_sent = True

    async def write(self, message: health_pb2.HealthCheckResponse) -> None:
        assert self.metadata_sent, "without it, no status could follow a write that is cut"
        try:
            await self.arrives.wait()
        except asyncio.CancelledError:
            self.cancelled_writes += 1
            raise
        self.heard.append(message.status)


async def test_a_watcher_that_leaves_is_let_go() -> None:
    engine = Engine(Settings(), Metrics())
    servicer, call = HealthServicer(Health(engine), ()), SlowCall()
    call.arrives.set()
    watching = asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(), call))
    await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait((watching,), timeout=5)
    assert watching.cancelled()
    assert call.heard == [NOT_SERVING]
