"""How a server starts and ends: signals, drains, threads, and what it writes to its log."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cellar.v1 import session_pb2 as pb
from service import server as server_module
from service.healthcheck import is_serving
from service.logs import configure_logs
from service.server import Server, serve
from service.settings import Settings
from tests.service.rpc.conftest import Wire
from tests.service.rpc.native.test_sessions import refused

SMALL: dict[str, Any] = {
    "port": 0,
    "metrics_port": None,
    "max_sessions": 8,
    "spare_slots": 8,
    "max_paths": 8,
    "default_paths": 8,
}


def our_threads() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith(("shard", "metrics"))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_server_that_is_loading(
    number: signal.Signals, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = asyncio.Event()

    class Endless(Server):
        async def _load(self) -> None:
            await super()._load()  # threads and all
            loading.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(server_module, "Server", Endless)
    with structlog.testing.capture_logs() as entries:
        serving = asyncio.create_task(
            serve(Settings(models=repository, **SMALL | {"metrics_port": 0}))
        )
        await loading.wait()
        assert our_threads()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(serving, 5)
    events = [entry["event"] for entry in entries]
    assert events[-1] == "stopped"
    assert "serving" not in events
    assert not our_threads()


async def test_a_signal_ends_a_server_that_is_serving(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()

    class Telling(Server):
        async def start(self) -> None:
            await super().start()
            started.set()

    monkeypatch.setattr(server_module, "Server", Telling)
    with structlog.testing.capture_logs() as entries:
        serving = asyncio.create_task(serve(Settings(models=repository, **SMALL)))
        await started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 5)
    assert [entry["event"] for entry in entries][-2:] == ["draining", "stopped"]
    assert not our_threads()


async def test_calls_that_wait_for_their_client_do_not_hold_up_the_end(wire: Wire) -> None:
    unstarted = wire.sessions.Stream()
    started = wire.sessions.Stream()
    await started.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    await started.read()
    watch = health_pb2_grpc.HealthStub(wire.channel).Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    reflect: Any = reflection_pb2_grpc.ServerReflectionStub(wire.channel)  # type: ignore[arg-type]
    names = reflect.ServerReflectionInfo()
    await names.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await names.read()
    began = time.monotonic()
    await wire.server.stop()
    assert time.monotonic() - began < 3, "the drain timeout is 5 s"
    for call in (unstarted, started):
        await refused(call.read(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    assert await names.read() is grpc.aio.EOF


async def test_work_that_never_ends_does_not_hold_up_the_end(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_QUIET_S", 0.05)
    server = Server(Settings(models=repository, drain_timeout_s=0, **SMALL))
    await server.start()
    monkeypatch.setattr(server.engine, "drain", asyncio.Event().wait)
    with structlog.testing.capture_logs() as entries:
        await asyncio.wait_for(server.stop(), 5)
    (left,) = [entry for entry in entries if entry["log_level"] == "error"]
    assert left["event"] == "work is left behind"
    assert left["pending_steps"]["letters/2"] == 0


async def test_the_metrics_end_with_the_server(wire: Wire) -> None:
    port = wire.server.metrics_port
    await wire.server.stop()
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")
    assert not our_threads()


async def test_a_server_can_listen_on_ipv6(repository: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    settings = Settings(models=repository, host="::1", **SMALL | {"metrics_port": 0})
    server = Server(settings)
    await server.start()
    assert await asyncio.to_thread(is_serving, f"[::1]:{server.port}")
    url = f"http://[::1]:{server.metrics_port}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert "cellar_sessions" in page
    await server.stop()
    assert not await asyncio.to_thread(is_serving, f"[::1]:{server.port}")


@pytest.fixture
def logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.usefixtures("logs")
def test_no_input_of_a_user_is_in_a_traceback(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings(log_format=form))

    def fail(text: str) -> None:
        raise RuntimeError("the device caught fire")

    try:
        fail("dear " + "diary")
    except RuntimeError:
        structlog.get_logger().exception("call failed")
    out = capsys.readouterr().out
    assert "caught fire" in out
    assert "in fail" in out or '"name": "fail"' in out
    assert "dear diary" not in out, "not even by way of a local variable"
    assert len(out) < 5000
    if form == "json":
        assert json.loads(out)["event"] == "call failed"
