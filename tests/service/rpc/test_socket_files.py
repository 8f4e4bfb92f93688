"""Socket files: whose they are, who may use them, and when they go."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import cellar
from cellar import cli
from cellar.v1 import session_pb2 as pb
from service.endpoint import Endpoint
from service.errors import BadInputError
from service.healthcheck import address_of, is_serving
from service.rpc.listener import Listener
from service.server import Server
from service.settings import Settings
from tests.service.rpc.conftest import Wire, serving


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    return Endpoint(f"unix:{tmp_path}/s", 8001)


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002, 0o007, 0])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_who_may_use_it(endpoint: Endpoint, umask: int) -> None:
    assert endpoint.path is not None
    with socket.socket(socket.AF_UNIX) as made, endpoint.binding():
        made.bind(str(endpoint.path))
    mode = stat.S_IMODE(endpoint.path.stat().st_mode)
    assert mode == (0o600 if umask & stat.S_IWGRP else 0o660)
    assert os.umask(umask) == umask, "others make files as before"


def test_what_a_dead_server_left_is_taken_over(endpoint: Endpoint) -> None:
    path = endpoint.path
    assert path is not None
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: another server"):
            endpoint.check_free()
        assert path.exists()
    endpoint.check_free()
    assert not path.exists()


def test_other_files_are_let_be(endpoint: Endpoint) -> None:
    path = endpoint.path
    assert path is not None
    path.write_text("mine")
    with pytest.raises(OSError, match="a file that is no socket"):
        endpoint.check_free()
    assert path.read_text() == "mine"
    endpoint.remove(None)
    endpoint.remove(path.stat().st_ino + 1)
    assert path.exists(), "it is another's"


@pytest.mark.parametrize(
    ("host", "says"),
    [("unix:/nowhere/s", "there is no folder /nowhere"), ("unix:/tmp/" + 120 * "x", "107 bytes")],
)
def test_what_cannot_be_a_socket(host: str, says: str) -> None:
    with pytest.raises(OSError, match=says):
        Endpoint(host, 0).check_free()


def test_how_it_is_named() -> None:
    assert str(Endpoint("unix:///run/s", 1)) == "unix:/run/s"
    assert str(Endpoint("unix:run/s", 1)) == "unix:run/s"
    assert str(Endpoint("::1", 8001)) == "[::1]:8001"


async def test_another_server_takes_the_file_over(endpoint: Endpoint) -> None:
    """gRPC removes the file by its name when it stops: never that of the next one."""
    path = endpoint.path
    assert path is not None

    async def stray(context: Any) -> None:
        del context

    listener = Listener(options=(), add=lambda _: None, stray=stray)
    await listener.start(endpoint)
    first = path.stat().st_ino
    await listener._replace(endpoint)
    await asyncio.sleep(0.2)
    assert path.exists()
    async with grpc.aio.insecure_channel(str(endpoint)) as channel:
        await asyncio.wait_for(channel.channel_ready(), 5)
    await listener.stop(0)
    assert not path.exists()
    assert first


async def test_a_server_on_a_file(endpoint: Endpoint, repository: Path) -> None:
    host, path = endpoint.host, endpoint.path
    assert path is not None
    async with serving(repository, host=host), cellar.aio.connect(host) as client:
        async with client.session("letters") as session:
            assert (await session.step("a")).position == 1
        assert await asyncio.to_thread(is_serving, address_of([], {"CELLAR_HOST": host}))
        with pytest.raises(OSError, match="another server listens there"):
            await Server(Settings(models=repository, host=host, metrics_port=None)).start()
        assert await client.models()
    assert not path.exists()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::]"])
async def test_ipv6(host: str, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(repository, host=host) as wire:
        port = str(wire.server.port)
        async with cellar.aio.connect(f"[::1]:{port}", timeout_s=20) as client:
            assert await client.models()
        command = ["models", "--server", f"[::1]:{port}"]
        assert await asyncio.to_thread(cli.main, command) == 0
        assert "letters" in capsys.readouterr().out
        asked = address_of([], {"CELLAR_HOST": "::1", "CELLAR_PORT": port})
        assert await asyncio.to_thread(is_serving, asked)
        other = await asyncio.to_thread(is_serving, f"127.0.0.1:{port}")
        assert other == (host == "[::]")


@pytest.mark.parametrize(
    ("session_id", "says"),
    [
        ("tab\t", r"character 4, '\\t', is a control character"),
        ("zero\u200bwidth", "is one that cannot be printed"),
        ("x" * 129, "129 characters"),
    ],
)
async def test_ids_are_refused_by_name(session_id: str, says: str, wire: Wire) -> None:
    with pytest.raises(BadInputError, match="session_id.*" + says):
        wire.server.engine.directory.open(wire.server.engine.registry.all()[0], session_id)
    with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
        await wire.sessions.OpenSession(
            pb.OpenSessionRequest(model="letters", session_id=session_id)
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_longest_id_there_can_be(repository: Path) -> None:
    """It is twelve times as long in the metadata, and again in errors."""
    longest = 1024 * "\N{SNAKE}"
    async with serving(repository, max_id_length=1024) as wire:
        address = f"127.0.0.1:{wire.server.port}"
        async with cellar.aio.connect(address, timeout_s=20) as client:
            await (await client.session("letters", id=longest)).step("a")
            for _ in range(20):  # gRPC refuses by chance what is a little too long
                with pytest.raises(cellar.SessionExistsError, match="is open already"):
                    await client.session("letters", id=longest)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("unix:/run/s", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.1.2.3", False),
        ("no.such.host.invalid", False),
    ],
)
def test_what_only_this_machine_reaches_is_loopback(host: str, is_loopback: bool) -> None:
    assert Endpoint(host, 8001).is_loopback is is_loopback
