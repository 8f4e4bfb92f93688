"""Calls that come faster than they can be accepted."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc, values_pb2
from service.errors import OverloadedError
from service.rpc import calls
from service.rpc.accept_queue import AcceptQueue, calls_of_newest_server, core_options
from tests.service.rpc.conftest import Wire


class World:
    """A clock, and calls that wait."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waiting = 0
        self.shown = 0
        self.queue = AcceptQueue(
            0.25,  # two seconds for calls
            running=lambda: 5,
            show=self._show,
            clock=lambda: self.now_s,
        )
        self.queue.started = lambda: 5 + self.waiting

    def calls(self, count: int, every_s: float = 0.001) -> list[OverloadedError]:
        refused = []
        for _ in range(count):
            self.now_s += every_s
            try:
                self.queue.check()
            except OverloadedError as error:
                refused.append(error)
        return refused

    def _show(self, waiting: int) -> None:
        self.shown = waiting


def test_nobody_is_refused_while_few_wait() -> None:
    world = World()
    world.waiting = 900  # .9 s
    assert not world.calls(2000)
    assert world.shown == 900


def test_part_of_the_calls_are_refused_when_many_wait_and_none_afterwards() -> None:
    world = World()
    world.waiting = 1200
    some = world.calls(2000)[-100:]
    world.waiting = 50_000
    more = world.calls(2000)
    assert 0.45 < len(more) / 2000 <= 0.5, "half of them are served even then"
    assert len(some) < len(more)
    delays = [error.retry_after_s or 0 for error in more]
    assert min(delays) > 1.0, "not before those who wait now are served"
    assert max(delays) <= 5.0
    world.waiting = 0
    world.calls(200)
    assert not world.calls(2000)


def test_a_pause_says_nothing() -> None:
    world = World()
    world.waiting = 100
    world.calls(1000)
    world.now_s += 3600
    assert not world.calls(1000)
    assert not world.calls(1000, every_s=0.1), "nor do calls that come one by one"


@asynccontextmanager
async def blocked() -> AsyncIterator[tuple[Any, asyncio.Event, Callable[[], int]]]:
    """A bare server that answers when it is let."""
    free = asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        await free.wait()
        return request

    server = grpc.aio.server(options=core_options(is_exposed=False))
    started = calls_of_newest_server()
    method: Any = grpc.unary_unary_rpc_method_handler(handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x", {"S": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary("/x/S"), free, started
    await server.stop(None)


async def test_what_grpc_counts_is_what_has_come_and_not_ended() -> None:
    async with blocked() as (call, free, started):
        assert started() == 0
        calls = [asyncio.ensure_future(call(b"a")) for _ in range(7)]
        async with asyncio.timeout(20):
            while started() != 7:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            free.set()
            await asyncio.gather(*calls)
            while started():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_grpc_itself_refuses_nobody(wire: Wire) -> None:
    """It cut off calls beyond a thousand that were not accepted yet, with a bare CANCELLED."""
    for number in range(50):
        await wire.sessions.OpenSession(
            pb.OpenSessionRequest(model="letters", session_id=f"s{number}")
        )
    seen: Counter[str] = Counter()

    async def one(number: int, channel: int) -> None:
        try:
            await stubs[channel].GetSession(pb.GetSessionRequest(session_id=f"s{number % 50}"))
            seen["OK"] += 1
        except grpc.aio.AioRpcError as error:
            seen[error.code().name] += 1

    address, options = f"127.0.0.1:{wire.server.port}", [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(3)]
    stubs: Any = [session_pb2_grpc.SessionServiceStub(channel) for channel in channels]
    await asyncio.gather(*(one(number, number % 3) for number in range(2400)))
    for channel in channels:
        await channel.close()
    assert seen == {"OK": 2400}


async def test_a_refused_call_says_when_to_come_again_and_is_counted(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="s"))

    def full(_: AcceptQueue) -> None:
        raise OverloadedError("many wait", retry_after_s=1.5)

    monkeypatch.setattr(AcceptQueue, "check", full)
    inputs = values_pb2.Inputs(text="a")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.sessions.Step(pb.StepRequest(session_id="s", inputs=inputs))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    found: Any = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    retry = error_details_pb2.RetryInfo()
    assert found.details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5
    await wire.sessions.GetSession(pb.GetSessionRequest(session_id="s"))  # as cheap as a refusal
    await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="s"))
    counted = wire.server.metrics.registry.get_sample_value(
        "cellar_requests_total", {"method": "Step", "code": "RESOURCE_EXHAUSTED"}
    )
    assert counted == 1


async def test_what_waited_is_not_told_for_ever(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked only while many come: once they are gone, nobody would say so."""

    def shown() -> float | None:
        return wire.server.metrics.registry.get_sample_value("cellar_waiting_calls")

    wire.server._calls._show_waiting(7)
    assert shown() == 7
    monkeypatch.setattr(calls, "_MOMENT_S", -1.0)
    assert shown() == 0
