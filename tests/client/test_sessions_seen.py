"""Sessions that people can see: listed, closed and reset by their ids, and reset on streams."""

from __future__ import annotations

import asyncio
import io
import json
import sys

import numpy as np
import pytest

import cellar
import cellar.aio
from cellar.cli import main
from cellar.v1 import session_pb2
from tests.client.conftest import QUICK
from tests.client.fake import FakeServer, Refusal


@pytest.fixture
def at_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's default server is the fake one."""
    monkeypatch.setenv("CELLAR_SERVER", server.address)
    monkeypatch.setenv("TZ", "UTC")


def last(server: FakeServer, kind: type) -> object:
    """The latest request of a kind."""
    return next(each for each in reversed(server.requests) if isinstance(each, kind))


def test_sessions_are_listed_over_pages(client: cellar.Client, server: FakeServer) -> None:
    server.page_size = 2
    for number in range(5):
        client.session("char", id=f"s{number}")
    client.session("series", id="other")
    server.sessions["s3"].position = 7
    found = list(client.list_sessions("char", version=3, idle_for_s=1.5))
    assert [info.id for info in found] == [f"s{number}" for number in range(5)]
    assert found[3].position == 7
    assert server.calls["ListSessions"] == 3
    asked = last(server, session_pb2.ListSessionsRequest)
    assert isinstance(asked, session_pb2.ListSessionsRequest)
    assert (asked.model, asked.model_version) == ("char", 3)
    assert asked.idle_for.ToMilliseconds() == 1500
    assert not asked.HasField("owner")
    assert len(list(client.list_sessions())) == 6


def test_a_page_that_fails_is_asked_for_again(client: cellar.Client, server: FakeServer) -> None:
    server.page_size = 1
    for number in range(3):
        client.session("char", id=f"s{number}")
    pages = client.list_sessions()
    assert next(pages).id == "s0"
    server.fail("ListSessions", after=True)
    assert [info.id for info in pages] == ["s1", "s2"]


async def test_sessions_are_listed_in_tasks(server: FakeServer) -> None:
    server.page_size = 2
    async with cellar.aio.connect(server.address, retry=QUICK) as client:
        for number in range(3):
            await client.session("char", id=f"s{number}")
        assert [info.id async for info in client.list_sessions()] == ["s0", "s1", "s2"]
        assert await client.close_session("s1") == 0
        assert (await client.reset_session("s2")).position == 0
        assert [info.id async for info in client.list_sessions()] == ["s0", "s2"]


def test_sessions_are_closed_and_reset_by_id(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char", id="mine")
    session.step("ab")
    info = client.reset_session("mine")
    assert (info.position, info.branch) == (0, server.sessions["mine"].branch)
    with pytest.raises(cellar.StaleBranchError):
        client.close_session("mine", branch=session.branch)
    assert client.close_session("mine", branch=info.branch) == 0
    with pytest.raises(cellar.SessionClosedError):
        client.close_session("mine")
    client.session("char", id="mine")
    server.fail("CloseSession", after=True)
    assert client.close_session("mine") is None


def test_an_admin_names_the_owner(client: cellar.Client, server: FakeServer) -> None:
    client.session("char", id="a")
    assert len(list(client.list_sessions(owner="alice"))) == 1
    asked = last(server, session_pb2.ListSessionsRequest)
    assert isinstance(asked, session_pb2.ListSessionsRequest)
    assert asked.owner == "alice"
    client.close_session("a", owner="")
    closed = last(server, session_pb2.CloseSessionRequest)
    assert isinstance(closed, session_pb2.CloseSessionRequest)
    assert closed.HasField("owner")
    assert closed.owner == ""


@pytest.mark.parametrize(
    ("model", "version", "asked"), [("series", 0, "series"), ("char", 2, "char/2")]
)
def test_a_session_of_another_model_or_version_is_not_resumed(
    client: cellar.Client, server: FakeServer, model: str, version: int, asked: str
) -> None:
    client.session("char", id="mine").step("ab")
    with pytest.raises(
        cellar.BadInputError, match=rf"open on char/3.* asked for on {asked}:"
    ) as no:
        client.session(model, version=version, id="mine", resume=True)
    assert (no.value.reason, no.value.field) == (
        "BAD_INPUT",
        "model" if version == 0 else "model_version",
    )
    assert server.sessions["mine"].position == 2
    for good in (0, 3):
        assert client.session("char", version=good, id="mine", resume=True).position == 2


def test_how_sessions_are_opened_is_sent(client: cellar.Client, server: FakeServer) -> None:
    client.session("char", id="mine", idle_timeout_s=2.5, ephemeral=True)
    opened = last(server, session_pb2.OpenSessionRequest)
    assert isinstance(opened, session_pb2.OpenSessionRequest)
    assert (opened.idle_timeout.ToMilliseconds(), opened.ephemeral) == (2500, True)
    assert not opened.HasField("initial_state")
    client.session("char", initial_state={"c": np.ones((2, 2)), "h": [0, 0.5]})
    opened = last(server, session_pb2.OpenSessionRequest)
    assert isinstance(opened, session_pb2.OpenSessionRequest)
    tensors = {own.name: list(own.values) for own in opened.initial_state.tensors}
    assert tensors == {"c": [1.0] * 4, "h": [0.0, 0.5]}
    with client.stream("char") as stream:
        stream.open(2, idle_timeout_s=2.5, ephemeral=True)
        attach = last(server, session_pb2.StreamAttach)
        assert isinstance(attach, session_pb2.StreamAttach)
        assert (attach.idle_timeout.ToMilliseconds(), attach.ephemeral) == (2500, True)
        stream.attach(["mine"])
        attach = last(server, session_pb2.StreamAttach)
        assert isinstance(attach, session_pb2.StreamAttach)
        assert not attach.HasField("idle_timeout")
        assert not attach.ephemeral
        with pytest.raises(cellar.BadInputError):
            stream.open(1, idle_timeout_s=float("nan"))
        assert len(stream.open(1)) == 1


@pytest.mark.usefixtures("at_server")
def test_the_command_lists_sessions(
    client: cellar.Client, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sessions"]) == 0
    assert capsys.readouterr().out == "no sessions\n"
    client.session("char", id="mine").step("ab")
    client.session("series", id="a-longer-id")
    assert main(["sessions"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["id", "model", "version", "status", "position"]
    assert [row.split()[:5] for row in rows] == [
        ["mine", "char", "3", "open", "2"],
        ["a-longer-id", "series", "3", "open", "0"],
    ]
    assert len({row.index("open") for row in rows} | {head.index("status")}) == 1
    assert main(["sessions", "--model", "char/3", "--idle-for", "2m", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["id"], found["position"], found["idle_timeout_s"]) == ("mine", 2, 60.0)
    asked = last(server, session_pb2.ListSessionsRequest)
    assert isinstance(asked, session_pb2.ListSessionsRequest)
    assert (asked.model_version, asked.idle_for.seconds) == (3, 120)
    for wrong in ("soon", "0s"):
        with pytest.raises(SystemExit):
            main(["sessions", "--idle-for", wrong])


@pytest.mark.usefixtures("at_server")
def test_the_command_closes_and_resets(
    client: cellar.Client, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two", "three"):
        client.session("char", id=name).step("ab")
    assert main(["reset", "one"]) == 0
    assert capsys.readouterr().out == "one is at position 0\n"
    assert main(["close", "a\nb", "nobody"]) == 1
    assert "cellar: id: character 2, '\\n', is a control" in capsys.readouterr().err
    assert main(["close", "one", "nobody", "two"]) == 1  # whatever fails, the others are closed
    out, err = capsys.readouterr()
    assert out == "one is closed, at position 0\ntwo is closed, at position 2\n"
    assert "SESSION_UNKNOWN" in err
    assert set(server.sessions) == {"three"}
    for wrong in ([], ["three", "--all"], ["--all"], ["three", "--idle-for", "1h"]):
        with pytest.raises(SystemExit):
            main(["close", *wrong])
    assert set(server.sessions) == {"three"}


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("at_server")
@pytest.mark.parametrize(
    ("typed", "left"),
    [("y\n", {"other"}), ("\n", {"one", "two", "other"}), ("", {"one", "two", "other"})],
)
def test_the_command_asks_before_it_closes_all(
    client: cellar.Client,
    server: FakeServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    left: set[str],
) -> None:
    for name in ("one", "two"):
        client.session("char", id=name)
    client.session("series", id="other")
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert main(["close", "--model", "char", "--all"]) == 0
    assert capsys.readouterr().out.startswith("close 2 sessions of char? [y/N] ")
    assert set(server.sessions) == left
    assert main(["close", "--model", "char", "--all", "--yes"]) == 0
    assert set(server.sessions) == {"other"}


@pytest.mark.usefixtures("at_server")
def test_a_session_that_began_anew_meanwhile_is_not_closed(
    client: cellar.Client, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        client.session("char", id=name)
    server.fail("CloseSession", before=Refusal("STALE_BRANCH"))
    assert main(["close", "--model", "char", "--all"]) == 0
    assert capsys.readouterr().out == "closed 1 session; 1 session gone already\n"


# Resets on a stream


def test_a_stream_resets_its_sessions(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char", raw=True) as stream:
        channels = stream.open(3)
        stream.step(channels, [1, 2, 3])
        number = stream.send(channels, [4, 5, 6])  # in flight when the reset is sent
        stream.reset(channels[:2])
        assert stream.positions(channels).tolist() == [0, 0, 2]
        assert stream.receive().frame == number
        reply = stream.step(channels, [7, 8, 9])
        assert reply.positions.tolist() == [1, 1, 3]
        names = [stream.session_id(channel) for channel in channels.tolist()]
        assert [server.sessions[name].read for name in names] == [[7], [8], [3, 6, 9]]


def test_what_cannot_be_reset_is_told_by_row(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(2)
        stream.step(channels, [1, 2])
        del server.sessions[stream.session_id(1)]
        with pytest.raises(cellar.RowsRefusedError) as refused:
            stream.reset(channels)
        assert [each.channel for each in refused.value.failures] == [1]
        assert stream.positions([0]).tolist() == [0]
        with pytest.raises(cellar.BadInputError, match="not attached"):
            stream.reset([7])


@pytest.mark.parametrize("applied", [False, True])
def test_a_reset_survives_a_break(client: cellar.Client, server: FakeServer, applied: bool) -> None:
    with client.stream("char", raw=True) as stream:
        channels = stream.open(2)
        stream.step(channels, [1, 2])
        if applied:
            server.kill_after_resets = 1
        else:
            server.kill_before_resets = 1
        stream.reset(channels[:1])
        assert stream.positions(channels).tolist() == [0, 1]
        assert stream.step(channels, [3, 4]).positions.tolist() == [1, 2]
        names = [stream.session_id(channel) for channel in channels.tolist()]
        assert [server.sessions[name].read for name in names] == [[3], [2, 4]]


def test_a_frame_whose_reply_was_lost_before_a_reset_says_so(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char", raw=True) as stream:
        (channel,) = stream.open(1).tolist()
        server.split = 1
        server.hold_frames = {0}  # its reply is not sent before the reset
        server.kill_after_resets = 1
        stream.send([channel], [5])
        stream.reset([channel])
        (failure,) = stream.receive().failures
        assert isinstance(failure.error, cellar.ReplyLostError)
        assert stream.step([channel], [6]).positions.tolist() == [1]


def test_a_reset_that_was_given_up_is_found_out(server: FakeServer) -> None:
    once = cellar.RetryPolicy(attempts=1)
    with cellar.connect(server.address, retry=once, timeout_s=10) as client:
        stream = client.stream("char", raw=True)
        (channel,) = stream.open(1).tolist()
        stream.step([channel], [1])
        server.kill_after_resets = 1
        with pytest.raises(cellar.ConnectionLostError):
            stream.reset([channel])
        with pytest.raises(cellar.RowsRefusedError) as refused:
            stream.step([channel], [2])  # built on a past that has ended
        assert isinstance(refused.value.failures[0].error, cellar.StaleBranchError)
        assert stream.step([channel], [3]).positions.tolist() == [1]
        assert server.sessions[stream.session_id(channel)].read == [3]
        stream.close()


async def test_a_task_cannot_step_what_another_is_resetting(server: FakeServer) -> None:
    async with (
        cellar.aio.connect(server.address, retry=QUICK) as client,
        client.stream("char", raw=True) as stream,
    ):
        channels = await stream.open(1)
        await stream.step(channels, [1])
        resetting = asyncio.create_task(stream.reset(channels))
        await asyncio.sleep(0)
        with pytest.raises(cellar.BadInputError, match="being reset"):
            await stream.step(channels, [2])
        await resetting
        assert (await stream.step(channels, [3])).positions.tolist() == [1]


def test_a_refusal_from_before_a_reset_moves_nothing(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char", raw=True) as stream:
        (channel,) = stream.open(1).tolist()
        for token in (1, 2, 3):
            stream.step([channel], [token])
        server.hold_frames = {3}  # its answer comes behind the next frame's
        stream.send([channel], [13])
        stream.reset([channel])
        assert stream.step([channel], [4]).positions.tolist() == [1]
        assert isinstance(stream.receive().failures[0].error, cellar.BadInputError)
        assert stream.positions([channel]).tolist() == [1]
        assert stream.step([channel], [5]).positions.tolist() == [2]
