"""Peers that ping, peers that vanish, ids and socket files, of a real server."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellar
from cellar import cli
from service.healthcheck import address_of, is_serving
from tests import http2
from tests.client.front import front_of
from tests.e2e.process import ServerProcess, launch, running

ONCE = cellar.RetryPolicy(attempts=1)
KEEPALIVE_S = 0.5
MIN_PING_S = 0.1


@pytest.fixture(scope="module")
def watchful(repository: Path) -> Iterator[ServerProcess]:
    """A server that asks silent peers soon, and may be asked often."""
    flags = (f"--keepalive-s={KEEPALIVE_S}", f"--min-ping-s={MIN_PING_S}")
    with running(repository, *flags) as server:
        yield server


def answers(port: int, *, every_s: float) -> bytes:
    """What a server says to ten pings of a peer without calls."""
    with http2.connect(port) as peer:
        said = b""
        for _ in range(10):
            http2.ping(peer)
            time.sleep(every_s)
            said += http2.heard(peer)
            if b"too_many_pings" in said:
                break
        return said


def test_clients_may_ping(watchful: ServerProcess) -> None:
    said = answers(watchful.port, every_s=2 * MIN_PING_S)
    assert said.count(b"\x00\x00\x08\x06\x01") == 10
    assert b"too_many_pings" not in said


def test_clients_that_ping_too_often_are_told(server: ServerProcess) -> None:
    assert b"too_many_pings" in answers(server.port, every_s=0.05)


def test_a_client_that_vanishes_is_let_go(watchful: ServerProcess) -> None:
    """Without a word, not even TCP's; its calls end, and its sessions can be taken up."""
    with front_of(watchful.port) as front, cellar.connect(front.address, retry=ONCE) as client:
        stream = client.stream("letters", argmax=True)
        stream.open(1)
        session = client.session("slow", id="forsaken")
        pieces = iter(session.generate("a", max_steps=100_000))
        next(pieces)
        began_s = time.monotonic()
        front.vanish()
        for method in ("Stream", "Generate"):
            ended = f'cellar_requests_total{{code="CANCELLED",method="{method}"}}'
            watchful.wait_for_metric(ended, 1)
        assert time.monotonic() - began_s < 2 * KEEPALIVE_S + 5
        with cellar.connect(watchful.address, timeout_s=20) as other:
            taken = other.attach("forsaken")
            assert taken.position > 0
            taken.step("b")
            assert watchful.metric('cellar_pending_steps{model="slow/1"}') == 0


@pytest.mark.parametrize("session_id", ["ñandú 100%", "日本語/の?#", "%20"])
async def test_ids_of_any_character(session_id: str, server: ServerProcess) -> None:
    with cellar.connect(server.address, timeout_s=20) as client:
        with client.session("letters", id=session_id) as session:
            session.step("a")
            assert len(session.generate("b", max_steps=3).text()) == 3
            position = session.position
            async with cellar.aio.connect(server.address, timeout_s=20) as aclient:
                assert (await aclient.attach(session_id)).position == position
        with pytest.raises(cellar.SessionClosedError):
            client.attach(session_id)


@pytest.mark.long
async def test_a_socket_file(
    few_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cellar of mine.sock"
    host = f"unix:{path}"
    with running(few_models, f"--host={host}") as server:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) in (0o600, 0o660)
        with cellar.connect(host, timeout_s=20) as client, client.session("letters") as session:
            assert session.step("a").position == 1
        async with cellar.aio.connect(host, timeout_s=20) as aclient:
            assert await aclient.models()
        assert cli.main(["models", "--server", host]) == 0
        assert "letters" in capsys.readouterr().out
        assert is_serving(address_of([], {"CELLAR_HOST": host, "CELLAR_PORT": "8001"}))
        assert server.page(), "the metrics are on a port"
        again = launch(f"--models={few_models}", f"--host={host}", "--metrics-port=off")
        _, errors = again.communicate(timeout=30)
        assert again.returncode == 1
        assert f"cannot listen on {host}: another server listens there" in errors
        server.kill()
    assert path.exists(), "who is killed leaves it behind"
    assert not is_serving(host)
    with running(few_models, f"--host={host}") as server:
        assert is_serving(host)
        server.terminate()
        assert server.wait() == 0
        assert not server.errors()
    assert not path.exists()
