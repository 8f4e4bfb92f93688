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
from cellar.v1 import session_pb2_grpc
from service import server as server_module
from service.healthcheck import is_serving
from service.logs import configure_logs
from service.server import Server, serve
from service.settings import Settings
from tests import http2
from tests.service.rpc.conftest import Wire
from tests.service.rpc.native.test_sessions import refused, text

SMALL: dict[str, Any] = {
    "port": 0,
    "metrics_port": None,
    "max_sessions": 8,
    "spare_slots": 8,
    "max_paths": 8,
    "default_paths": 8,
}


_OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Threads of engines that other tests have left behind, as a crash leaves them."""
    _OTHERS.clear()
    _OTHERS.update(threading.enumerate())


def our_threads() -> list[str]:
    names = (thread.name for thread in threading.enumerate() if thread not in _OTHERS)
    return [name for name in names if name.startswith(("shard", "http"))]


async def no_threads() -> None:
    """Ours end, but nothing waits for them for long."""
    async with asyncio.timeout(10):
        while our_threads():  # noqa: ASYNC110 (threads tell nobody)
            await asyncio.sleep(0.01)


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
    await no_threads()


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
    await no_threads()


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


async def test_a_peer_that_reads_nothing_holds_up_nobody(wire: Wire) -> None:
    health = health_pb2_grpc.HealthStub(wire.channel)
    with http2.connect(wire.server.port, window=0) as peer:
        http2.call(peer, b"/grpc.health.v1.Health/Watch")
        async with asyncio.timeout(10):
            await asyncio.to_thread(http2.heard, peer)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await wire.server.stop()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_new_calls_are_refused_in_words_until_the_delay_is_over(repository: Path) -> None:
    delay_s = 0.5
    server = Server(Settings(models=repository, drain_delay_s=delay_s, **SMALL))
    await server.start()
    address = f"127.0.0.1:{server.port}"
    async with grpc.aio.insecure_channel(address) as old, grpc.aio.insecure_channel(address) as new:
        opened = pb.OpenSessionRequest(model="letters", session_id="a")
        sessions: Any = session_pb2_grpc.SessionServiceStub(old)
        await sessions.OpenSession(opened)
        began = time.monotonic()
        stopping = asyncio.create_task(server.stop())
        while not server.engine.draining:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0)
        later: Any = session_pb2_grpc.SessionServiceStub(new)
        for refusal in (
            sessions.Step(pb.StepRequest(session_id="a", inputs=text("x"))),
            later.OpenSession(opened),
            sessions.Stream().read(),
        ):
            await refused(refusal, grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await stopping
        assert time.monotonic() - began >= delay_s


async def test_what_runs_for_too_long_is_told_that_it_is_cut_off(repository: Path) -> None:
    server = Server(Settings(models=repository, drain_timeout_s=0.05, **SMALL))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        sessions: Any = session_pb2_grpc.SessionServiceStub(channel)
        await sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a"))
        request = pb.GenerateRequest(session_id="a", prompt=text("x"), max_steps=100_000)
        generation = sessions.Generate(request)
        await generation.read()

        async def rest() -> None:
            while await generation.read() is not grpc.aio.EOF:
                pass

        with structlog.testing.capture_logs() as entries:
            _, _ = await asyncio.gather(
                refused(rest(), grpc.StatusCode.UNAVAILABLE, "DRAINING"),
                asyncio.wait_for(server.stop(), 10),
            )
    (cut,) = [entry for entry in entries if entry["log_level"] == "warning"]
    assert (cut["event"], cut["calls"]) == ("calls are cut off", 1)


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
    await no_threads()


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
