"""What the field's own tools find: health, reflection, metrics."""

import asyncio
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from models.errors import ModelError
from service.server import Server
from service.settings import Settings
from tests.service.rpc.conftest import Wire

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_says_serving_until_the_server_drains(wire: Wire) -> None:
    health = health_pb2_grpc.HealthStub(wire.channel)
    for service in ("", "cellar.v1.SessionService", "cellar.v1.ModelService"):
        reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    stopping = asyncio.create_task(wire.server.stop())
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()
    await stopping


async def test_a_loading_server_is_alive_but_not_serving(wire: Wire) -> None:
    server = Server(wire.server.settings.model_copy(update={"metrics_port": None}))
    statuses = []

    async def ask_while_loading(*_: object) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            statuses.append((await health.Check(health_pb2.HealthCheckRequest())).status)

    class LoadingServer(Server):
        async def _load(self) -> None:
            await ask_while_loading()
            await super()._load()

    server = LoadingServer(wire.server.settings.model_copy(update={"metrics_port": None}))
    await server.start()
    await ask_while_loading()
    assert statuses == [NOT_SERVING, SERVING]
    await server.stop()


async def test_an_empty_repository_says_what_to_do(wire: Wire, tmp_path: Path) -> None:
    server = Server(Settings(models=tmp_path, port=0, metrics_port=None))
    with pytest.raises(ModelError, match="cellar-train"):
        await server.start()
    await server.stop()


async def test_reflection_lists_the_services(wire: Wire) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(wire.channel)  # type: ignore[arg-type]
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    reply = await call.read()
    names = {service.name for service in reply.list_services_response.service}
    assert {"cellar.v1.SessionService", "cellar.v1.ModelService", "grpc.health.v1.Health"} <= names


@pytest.mark.usefixtures("several_models")
async def test_metrics_count_what_happened(wire: Wire) -> None:
    await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="s"))
    for _ in range(2):
        await wire.sessions.Step(
            pb.StepRequest(session_id="s", inputs=values_pb2.Inputs(text="abc"), position=0)
        )
    url = f"http://127.0.0.1:{wire.server.metrics_port}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    for line in (
        'cellar_steps_total{model="letters/2"} 3.0',
        "cellar_replayed_steps_total 1.0",
        'cellar_sessions{model="letters/2",tier="device"} 1.0',
        'cellar_requests_total{code="OK",method="Step"} 2.0',
        'cellar_session_capacity{model="prices/1"} 64.0',
    ):
        assert line in page, line


async def test_gauges_tell_how_things_are_when_they_are_read(wire: Wire) -> None:
    def read() -> list[float | None]:
        return [
            wire.server.metrics.registry.get_sample_value(name, {"model": "letters/2", **more})
            for name, more in (
                ("cellar_sessions", {"tier": "device"}),
                ("cellar_state_bytes", {"tier": "device"}),
                ("cellar_pending_steps", {}),
            )
        ]

    call = wire.sessions.Stream()
    await call.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    await call.write(
        pb.StreamRequest(attach=pb.StreamAttach(session_ids=["a"], channels=[0], open=True))
    )
    inputs = values_pb2.Inputs(text="a" * 900)
    frame = pb.StreamFrame(channels=[0], steps=[900], inputs=inputs)
    await call.write(pb.StreamRequest(frame=frame))
    async with asyncio.timeout(20):
        while not read()[2]:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0)
    assert read()[0] == 1
    wire.server.engine.directory.close("a")  # in this turn of the loop: steps are queued
    for _ in range(2):  # started, attached
        await call.read()
    assert (await call.read()).reply.errors
    assert read() == [0, 0, 0]
