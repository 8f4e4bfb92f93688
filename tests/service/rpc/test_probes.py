"""Probes of a real server: alive, ready, and of one mind with gRPC's health service."""

import asyncio
import http.client
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellar.v1 import session_pb2 as pb
from service import health as health_module
from service.server import Server
from service.settings import Settings
from tests.service.rpc.conftest import Wire

SERVING = health_pb2.HealthCheckResponse.SERVING
SMALL: dict[str, Any] = {
    "port": 0, "metrics_port": 0, "max_sessions": 8, "spare_slots": 8, "max_paths": 8,
    "default_paths": 8,
}  # fmt: skip


def ask(server: Server, path: str) -> tuple[int, str]:
    """Without the help of the server's event loop."""
    assert server.metrics_port is not None
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=10)
    try:
        connection.request("GET", path)
        found = connection.getresponse()
        return found.status, found.read().decode()
    finally:
        connection.close()


def ready(server: Server) -> tuple[int, dict[str, Any]]:
    status, body = ask(server, "/readyz")
    return status, json.loads(body)


async def serving(server: Server) -> bool:
    """As gRPC's health service says."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest())
        return bool(reply.status == SERVING)


def with_a_broken_one(repository: Path, to: Path) -> None:
    for entry in repository.iterdir():
        (to / entry.name).symlink_to(entry)
    (to / "broken" / "3").mkdir(parents=True)


@pytest.mark.usefixtures("several_models")
async def test_models_are_told_of_while_they_are_loaded(repository: Path, tmp_path: Path) -> None:
    with_a_broken_one(repository, tmp_path)
    seen: list[tuple[int, dict[str, Any], bool]] = []

    class Looking(Server):
        async def _load(self) -> None:
            loading = asyncio.create_task(super()._load())
            while not loading.done():
                self.health.look()
                found = await asyncio.to_thread(ready, self)
                seen.append((*found, await serving(self)))
            await loading

    server = Looking(Settings(models=tmp_path, **SMALL))
    await server.start()
    try:
        for status, told, is_serving in seen:
            assert (status, told["status"], is_serving) == (503, "loading", False)
        models = [model for _, told, _ in seen for model in told["models"]]
        assert {model["name"] for model in models} == {"broken", "letters", "prices"}
        assert "loading" in {model["status"] for model in models}
        status, told = await asyncio.to_thread(ready, server)
        assert (status, await serving(server)) == (200, True)
        assert told["ready"] is True
        states = {(each["name"], each["version"]): each for each in told["models"]}
        assert states["letters", 2] == {"name": "letters", "version": 2, "status": "served"}
        broken = states["broken", 3]
        assert broken["status"] == "unavailable"
        assert "broken/3" in broken["reason"]
        assert str(tmp_path) not in broken["reason"]
    finally:
        await server.stop()


async def test_a_drain_is_not_ready_at_once_and_alive_until_the_end(repository: Path) -> None:
    server = Server(Settings(models=repository, drain_delay_s=1.0, **SMALL))
    await server.start()
    assert (await asyncio.to_thread(ready, server))[0] == 200
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    status, told = await asyncio.to_thread(ready, server)
    assert (status, told["status"], told["ready"]) == (503, "draining", False)
    assert not await serving(server)
    answers = []
    while not stopping.done():
        try:
            answers.append(await asyncio.to_thread(ask, server, "/livez"))
        except OSError:
            break
        await asyncio.sleep(0.02)
    await stopping
    assert len(answers) > 10
    assert set(answers) == {(200, "ok\n")}


async def test_a_device_or_store_that_failed_is_not_alive(wire: Wire) -> None:
    server = wire.server
    assert await asyncio.to_thread(ask, server, "/livez") == (200, "ok\n")
    server.engine.lose_device("letters/2", RuntimeError("an illegal address"))
    server.health.look()
    words = "a device has failed, and the server ends"
    assert await asyncio.to_thread(ask, server, "/livez") == (503, f"{words}\n")
    status, told = await asyncio.to_thread(ready, server)
    assert (status, told["status"], told["reason"]) == (503, "failed", words)
    assert not await serving(server)


async def test_an_event_loop_that_stands_still_is_told_of(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "STILL_S", 0.2)
    answers: list[tuple[int, str]] = []
    looking = threading.Timer(
        0.5, lambda: answers.extend((ask(wire.server, "/livez"), ask(wire.server, "/readyz")))
    )
    looking.start()
    while not answers:
        looking.join(10)  # on the event loop, which stands still
    monkeypatch.undo()
    (livez, words), (readyz, body) = answers
    assert (livez, readyz) == (503, 503)
    assert words.startswith("the event loop has stood still for ")
    assert json.loads(body)["reason"].startswith("the event loop has stood still for ")
    await asyncio.sleep(1.1)
    assert await asyncio.to_thread(ask, wire.server, "/livez") == (200, "ok\n")


async def test_scrapes_and_steps_go_on_beside_200_half_sent_requests(wire: Wire) -> None:
    await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="s"))
    assert wire.server.metrics_port is not None
    halves = []
    for number in range(200):
        half = socket.create_connection(("127.0.0.1", wire.server.metrics_port), timeout=10)
        half.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n"[: 1 + number % 30])
        halves.append(half)
    request = pb.StepRequest(session_id="s")
    request.inputs.text = "a"
    for number in range(1, 11):
        await wire.sessions.Step(request)
        async with asyncio.timeout(2):
            status, page = await asyncio.to_thread(ask, wire.server, "/metrics")
        assert status == 200
        assert f'cellar_steps_total{{model="letters/2"}} {number}.0' in page
    for half in halves:
        half.close()


async def test_the_http_port_has_an_address_of_its_own(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "http"
    settings = Settings(models=repository, **SMALL | {"metrics_host": f"unix:{path}"})
    server = Server(settings)
    await server.start()
    assert server.metrics_port is None

    def read() -> bytes:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(os.fspath(path))
            peer.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: peer.recv(65_536), b""))

    assert (await asyncio.to_thread(read)).startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(OSError, match=r"metrics: .*another server.*another --metrics-host"):
        await Server(settings).start()
    await server.stop()
    assert not path.exists()
