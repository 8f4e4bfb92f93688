"""Tokens and headers: on every call, read again when their file changes, and when refused."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import cellar
from cellar.access.token import Token
from tests.client.access.certificates import Authority
from tests.client.conftest import QUICK
from tests.client.fake import FakeServer, Refusal
from tests.client.test_failures import GENERATIONS, SESSIONS, STREAMS, steps


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, text: str) -> None:
    """For tests that run in an event loop, which may wait for so little."""
    path.write_text(text)


def read(each: Any) -> Any:
    return each.text() if isinstance(each, cellar.Generation) else list(each)


def opened(client: cellar.Client) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Sessions, streams and generations, enough for every method."""
    sessions = [client.session("char") for _ in range(SESSIONS)]
    for session in sessions:
        session.step("a")
    streams = [client.stream("char") for _ in range(STREAMS)]
    for stream in streams:
        stream.open(1)
    generations = [client.session("char").generate("a", max_steps=3) for _ in range(GENERATIONS)]
    many = [client.session("char").generate("a", n=2, max_steps=3) for _ in range(GENERATIONS)]
    return sessions, streams, generations, many


def test_every_call_brings_the_token(secure: FakeServer, authority: Authority) -> None:
    secure.tokens = {"one.SECRET"}
    with cellar.connect(secure.address, ca=authority.file, token="one.SECRET") as client:
        done = set()
        for name, step in steps(client, *opened(client), read).items():
            try:
                step()
            except cellar.NotAllowedError:
                pytest.fail(f"{name} brought no token")
            except cellar.CellarError:
                pass  # that a session is gone, say
            done.add(name)
    assert len(done) > 25
    assert set(secure.calls) == {
        *("ListModels", "GetModel", "Predict", "OpenSession", "GetSession", "ListSessions"),
        *("ExportSession", "ImportSession", "ForkSession", "RewindSession"),
        "UpgradeSession",
        *("CloseSession", "ResetSession", "Step", "Generate", "Forecast", "Stream"),
        *("ExportSession", "ImportSession", "ForkSession"),
    }


@pytest.mark.parametrize("token", [None, "one.WRONG"])
async def test_without_it_nothing_is_done(token: str | None, server: FakeServer) -> None:
    server.tokens = {"one.SECRET"}
    with cellar.connect(server.address, token=token) as client:
        for call in (
            client.models,
            lambda: client.session("char"),
            lambda: client.predict("char", ["a"]),
            lambda: client.attach("a"),
            lambda: list(client.list_sessions()),
        ):
            with pytest.raises(cellar.UnauthenticatedError) as caught:
                call()
            assert (caught.value.reason, caught.value.code) == ("UNAUTHENTICATED",) * 2
            assert not caught.value.retryable
            assert not caught.value.ambiguous
            assert "WRONG" not in repr(caught.value)
    async with cellar.aio.connect(server.address, token=token) as aclient:
        with pytest.raises(cellar.UnauthenticatedError):
            await aclient.models()
    assert set(server.calls.values()) <= {1, 2}  # each once, and ListModels by both
    assert not server.sessions


async def test_streams_without_it(server: FakeServer) -> None:
    with cellar.connect(server.address, token="one.SECRET") as client:
        stream = client.stream("char")
        session = client.session("char")
        server.tokens = set()
        with pytest.raises(cellar.UnauthenticatedError):
            stream.open(1)
        with pytest.raises(cellar.UnauthenticatedError):
            session.generate("a", max_steps=2).text()
        assert server.calls["Stream"] == 1
        assert server.calls["Generate"] <= 1
    server.tokens = None
    async with cellar.aio.connect(server.address, token="one.SECRET") as aclient:
        other = await aclient.stream("char")
        server.tokens = set()
        with pytest.raises(cellar.UnauthenticatedError):
            await other.open(1)
        # A write on a call that has just ended hides why from gRPC, so that it is asked again.
        assert server.calls["Stream"] <= 5


def test_what_is_not_allowed_is_asked_once(server: FakeServer) -> None:
    with cellar.connect(server.address, token="one.SECRET") as client:
        server.fail("ListModels", before=Refusal("PERMISSION_DENIED"))
        with pytest.raises(cellar.PermissionDeniedError) as caught:
            client.models()
        assert isinstance(caught.value, cellar.NotAllowedError)
        assert server.calls["ListModels"] == 1


async def test_a_file_that_changes(server: FakeServer, token_file: Path) -> None:
    server.tokens = {"one.SECRET1"}
    with cellar.connect(server.address, token=token_file, retry=QUICK) as client:
        session, stream = client.session("char"), client.stream("char")
        channels = stream.open(1)
        server.tokens = {"two.SECRET2"}
        write(token_file, "two.SECRET2")
        session.step("a")  # refused at first, and then not
        assert (session.position, server.calls["Step"]) == (1, 2)
        assert stream.step(channels, "a").positions.tolist() == [1]
        server.tokens = {"three.SECRET3"}
        with pytest.raises(cellar.UnauthenticatedError):
            session.step("b")
        assert server.calls["Step"] <= 4
        before = server.calls["Step"]
        write(token_file, "four.SECRET4")  # which is none, either
        with pytest.raises(cellar.UnauthenticatedError):
            session.step("b")
        assert server.calls["Step"] <= before + 2
    server.tokens = {"five.SECRET5"}
    async with cellar.aio.connect(server.address, token=token_file, retry=QUICK) as aclient:
        write(token_file, "five.SECRET5")
        await aclient.models()
        async with aclient.stream("char") as other:
            await other.open(1)


def test_streams_begin_with_the_token_of_today(server: FakeServer, token_file: Path) -> None:
    server.tokens = {"one.SECRET1"}
    with cellar.connect(server.address, token=token_file, retry=QUICK) as client:
        stream = client.stream("char")
        channels = stream.open(1)
        server.stop()
        server.tokens = {"two.SECRET2"}
        write(token_file, "two.SECRET2")
        server.start()
        assert stream.step(channels, "a").positions.tolist() == [1]


def test_a_file_is_looked_at_once_a_second(token_file: Path) -> None:
    clock = Clock()
    token = Token(token_file, clock)
    token_file.write_text("two.SECRET2")
    assert token.header == ("authorization", "Bearer one.SECRET1")
    clock.now += 1
    assert token.header == ("authorization", "Bearer two.SECRET2")
    assert token.is_new()
    clock.now += 30
    assert not token.is_new()


def test_a_file_that_is_exchanged_through_a_link(tmp_path: Path) -> None:
    """As Kubernetes does: token -> ..data/token, and ..data points to another folder."""
    clock = Clock()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"{name}.SECRET")
    os.symlink("first", tmp_path / "..data")
    os.symlink("..data/token", tmp_path / "token")
    token = Token(tmp_path / "token", clock)
    os.symlink("second", tmp_path / "..new")
    os.rename(tmp_path / "..new", tmp_path / "..data")
    clock.now += 1
    assert token.header[1] == "Bearer second.SECRET"


@pytest.mark.parametrize("content", ["", "two lines\nof it", "\xff", None])
def test_a_file_that_cannot_be_used_changes_nothing(
    content: str | None, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    token = Token(token_file, clock)
    token_file.unlink()
    if content is not None:
        token_file.write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING, "cellar"):
        for _ in range(3):
            clock.now += 1
            assert token.header[1] == "Bearer one.SECRET1"
            assert not token.is_new()
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == (content is not None)
    assert all("the token stays as it was: token: " in each and "two" not in each for each in said)
    token_file.write_text("two.SECRET2\r\n")
    clock.now += 1
    assert token.header[1] == "Bearer two.SECRET2"


async def test_headers(server: FakeServer) -> None:
    headers: dict[str, str | bytes] = {"X-Team": "blue", "raw-bin": b"\x00\xff"}
    with cellar.connect(server.address, headers=headers, metadata={"x-trace": "1"}) as client:
        client.session("char").step("a")
    sent: dict[str, Any] = dict(server.metadata)
    assert (sent["x-team"], sent["raw-bin"], sent["x-trace"]) == ("blue", b"\x00\xff", "1")
    async with cellar.aio.connect(server.address, headers={"x-team": "red"}) as aclient:
        await aclient.models()
    assert server.metadata["x-team"] == "red"


async def test_many_calls_while_a_token_changes(server: FakeServer, token_file: Path) -> None:
    """None of those that were under way with the old one fails."""
    server.tokens = {"one.SECRET1"}
    async with cellar.aio.connect(server.address, token=token_file, retry=QUICK) as client:
        sessions = [await client.session("char") for _ in range(20)]
        server.tokens = {"two.SECRET2"}
        write(token_file, "two.SECRET2")
        await asyncio.gather(*(session.step("a") for session in sessions))
        assert {session.position for session in sessions} == {1}
