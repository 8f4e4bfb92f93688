"""Watches end with the latest status, also where a message is being written just then."""

import asyncio

import pytest
from grpc_health.v1 import health_pb2

from service.rpc import health
from service.rpc.health import HealthServicer

SERVING = health_pb2.HealthCheckResponse.SERVING
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


@pytest.mark.parametrize("reads", [True, False])
async def test_a_message_under_way_is_written_to_its_end(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_LAST_WORD_S", 0.05)
    servicer, call = HealthServicer(), SlowCall()
    servicer.set("", SERVING)
    watching = asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(), call))
    await asyncio.sleep(0.01)
    servicer.end_watches()
    await asyncio.sleep(0.01)
    if reads:  # after the time for the last word, and before that for what is being written
        monkeypatch.setattr(health, "_LAST_WORD_S", 20.0)
        asyncio.get_running_loop().call_later(0.1, call.arrives.set)
    await asyncio.wait_for(watching, 5)
    assert call.heard == ([SERVING] if reads else [])
    assert not call.cancelled_writes
    call.arrives.set()


async def test_a_watcher_that_leaves_is_let_go() -> None:
    servicer, call = HealthServicer(), SlowCall()
    call.arrives.set()
    servicer.set("", NOT_SERVING)
    watching = asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(), call))
    await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait((watching,), timeout=5)
    assert watching.cancelled()
    assert call.heard == [NOT_SERVING]
