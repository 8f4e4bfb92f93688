"""TLS: what a client shows and trusts, what it is told, and certificates that change."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import cellar
from tests.client.access.certificates import LONG_AGO, Authority, Pair, server_credentials
from tests.client.access.conftest import Start
from tests.client.conftest import QUICK
from tests.client.fake import FakeServer
from tests.client.front import Front, closes

ONCE = cellar.RetryPolicy(attempts=1)


async def asked(server: str, **options: Any) -> None:
    """Every kind of call, by both clients."""
    options = {"retry": QUICK, "timeout_s": 10, **options}
    with cellar.connect(server, **options) as client:
        assert client.models()
        with client.session("char") as session, client.stream("char") as stream:
            session.step("a")
            assert session.generate(max_steps=2).text()
            assert stream.step(stream.open(1), "a").positions.tolist() == [1]
    async with cellar.aio.connect(server, **options) as aclient:
        assert await aclient.models()
        async with await aclient.session("char") as asession, await aclient.stream("char") as other:
            await asession.step("a")
            assert await asession.generate(max_steps=2).text()
            assert (await other.step(await other.open(1), "a")).positions.tolist() == [1]


async def told(server: str, **options: Any) -> str:
    """What a client is told, and the other one in the same words."""
    options = {"retry": ONCE, "timeout_s": 5, **options}
    with cellar.connect(server, **options) as client, pytest.raises(cellar.CellarError) as caught:
        client.models()
    async with cellar.aio.connect(server, **options) as aclient:
        with pytest.raises(cellar.CellarError) as other:
            await aclient.models()
    assert str(caught.value).partition("(")[0] == str(other.value).partition("(")[0]
    assert isinstance(caught.value, cellar.ConnectionLostError)
    return str(caught.value)


async def test_tls(secure: FakeServer, authority: Authority) -> None:
    await asked(secure.address, ca=authority.file)
    await asked(f"localhost:{secure.port}", tls=True, ca=str(authority.file))


async def test_mutual_tls(mutual: FakeServer, authority: Authority, alice: Pair) -> None:
    await asked(mutual.address, ca=authority.file, cert=alice.cert, key=str(alice.key))


async def test_the_roots_of_grpc(secure: FakeServer) -> None:
    assert "is not trusted: ca=FILE" in await told(secure.address, tls=True)


async def test_another_name(start: Start, authority: Authority) -> None:
    server = start(server_credentials(authority.pair("named", "cellar.example")))
    why = await told(server.address, ca=authority.file)
    assert "for another name: use that in the address, or say server_name=NAME" in why
    await asked(server.address, ca=authority.file, server_name="cellar.example")


async def test_a_server_that_is_not_trusted(secure: FakeServer, stranger: Authority) -> None:
    assert "is not trusted: ca=FILE names" in await told(secure.address, ca=stranger.file)


async def test_a_server_whose_certificate_has_expired(start: Start, authority: Authority) -> None:
    pair = authority.pair("late", "127.0.0.1", valid=LONG_AGO)
    why = await told(start(server_credentials(pair)).address, ca=authority.file)
    assert "has expired" in why
    assert "not trusted" not in why


async def test_a_server_that_wants_a_certificate(
    mutual: FakeServer, authority: Authority, stranger: Authority
) -> None:
    why = await told(mutual.address, ca=authority.file)
    assert "may want a client certificate (cert and key)" in why
    pair = stranger.pair("bob", "bob@cellar.example")
    why = await told(mutual.address, ca=authority.file, cert=pair.cert, key=pair.key)
    assert "it may not trust the client's certificate" in why


async def test_tls_on_one_side_only(
    server: FakeServer, secure: FakeServer, authority: Authority
) -> None:
    for options in ({"tls": True}, {"ca": authority.file}):
        why = await told(server.address, **options)
        assert "does not speak TLS: leave tls, ca, cert, key and credentials out" in why
    why = await told(secure.address)
    assert "it may speak TLS (say tls=True, or ca=FILE)" in why


async def test_what_closes_under_tls(front: Front, authority: Authority) -> None:
    front.turn(closes)
    assert "TLS" in await told(front.address, ca=authority.file)


async def test_credentials_of_grpc(secure: FakeServer, authority: Authority) -> None:
    await asked(secure.address, credentials=grpc.ssl_channel_credentials(authority.pem))


def test_certificates_that_change_are_used_by_the_next_connection(
    start: Start,
    local: Pair,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    shown = first.pair("shown", "alice@cellar.example")
    server = start(server_credentials(local, first))
    with cellar.connect(
        server.address, ca=authority.file, cert=shown.cert, key=shown.key, timeout_s=20
    ) as client:
        session = client.session("char")
        session.step("a")
        stream = client.stream("char")
        channels = stream.open(2)
        server.stop()
        server.credentials = server_credentials(local, second)
        server.start()
        with pytest.raises(cellar.ConnectionLostError, match="not trust the client's certificate"):
            session.step("b", timeout_s=2)
        second.pair("shown", "alice@cellar.example")
        session.step("b")
        assert session.position == 2
        assert stream.step(channels, "ab").positions.tolist() == [1, 1]
        stream.close()


async def test_certificates_that_change_in_aio(
    start: Start, local: Pair, authority: Authority, tmp_path: Path
) -> None:
    roots, other = Authority(tmp_path, "roots"), Authority(tmp_path, "other")
    server = start(server_credentials(local))
    async with cellar.aio.connect(server.address, ca=roots.file, timeout_s=20) as client:
        with pytest.raises(cellar.ConnectionLostError, match="is not trusted"):
            await client.models(timeout_s=0.5)
        roots.file.write_bytes(other.pem + authority.pem)
        session = await client.session("char")
        await session.step("a")
        async with client.stream("char") as stream:
            assert (await stream.step(await stream.open(1), "a")).positions.tolist() == [1]


def test_certificates_that_cannot_be_used_change_nothing(
    secure: FakeServer, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.pem)
    with cellar.connect(secure.address, ca=roots, timeout_s=20) as client:
        session = client.session("char")
        session.step("a")
        roots.write_text("half of a certificate")
        with caplog.at_level(logging.WARNING, "cellar"):
            for _ in range(2):
                secure.stop()
                with pytest.raises(cellar.CellarError):
                    session.step("b", timeout_s=0.3)
                secure.start()
                session.step("b")
        (said,) = {each.getMessage() for each in caplog.records}
        assert said.startswith(f"the certificates stay as they were: ca: {roots}: there is no")


def test_threads_while_certificates_change(
    start: Start, local: Pair, authority: Authority, tmp_path: Path
) -> None:
    """Calls that another thread's new channel cuts off are sent again, and applied once."""
    authorities = [Authority(tmp_path, name) for name in ("one", "two", "three")]
    shown = authorities[0].pair("shown", "alice@cellar.example")
    server = start(server_credentials(local, authorities[0]))
    stop = threading.Event()
    with (
        cellar.connect(
            server.address, ca=authority.file, cert=shown.cert, key=shown.key, timeout_s=20
        ) as client,
        ThreadPoolExecutor(6) as pool,
    ):

        def step_on() -> tuple[int, int]:
            session, steps = client.session("char"), 0
            while not stop.is_set():
                session.step("a")
                steps += 1
            return session.position, steps

        def stream_on() -> tuple[int, int]:
            steps = 0
            with client.stream("char") as stream:
                channels = stream.open(2)
                while not stop.is_set():
                    stream.step(channels, "ab")
                    steps += 1
                return int(stream.positions(channels)[0]), steps

        running = [pool.submit(work) for work in (step_on, stream_on) * 3]
        for each in authorities[1:]:
            time.sleep(0.2)
            each.pair("shown", "alice@cellar.example")
            server.stop()
            server.credentials = server_credentials(local, each)
            server.start()
        time.sleep(1.5)
        stop.set()
        found = [work.result() for work in running]
    assert all(position == steps > 0 for position, steps in found)
