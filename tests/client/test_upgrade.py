"""Sessions that go on with another version of their model."""

from __future__ import annotations

import json

import pytest

import cellar
import cellar.aio
from cellar.cli import main
from tests.client.fake import FakeServer


def test_it_goes_on_there(client: cellar.Client, server: FakeServer) -> None:
    with client.session("series", version=2, history_steps="all") as session:
        assert session.model.version == 2
        session.feed([1.0, 2.0, 3.0])
        before = session.branch
        info = session.upgrade()
        assert (info.version, info.position, session.position) == (3, 3, 3)
        assert session.branch == info.branch != before
        assert session.model.version == 3
        assert "series 3" in repr(session)
        assert session.step(7.0).position == 4
        assert session.upgrade(version=3).branch == info.branch
        asked = len(server.requests)
        for wrong in (-1, 1.5, "two", True):
            with pytest.raises(cellar.BadInputError, match="version"):
                session.upgrade(version=wrong)  # type: ignore[arg-type]
        assert len(server.requests) == asked
        with pytest.raises(cellar.ModelUnknownError):
            session.upgrade(version=9)
        assert session.step(7.0).position == 5


def test_without_a_history(client: cellar.Client) -> None:
    with client.session("series", version=2) as session:
        session.feed([1.0, 2.0])
        with pytest.raises(cellar.HistoryMissingError):
            session.upgrade()
        assert session.model.version == 2
        assert session.step(3.0).position == 3


def test_an_answer_that_is_lost(
    client: cellar.Client, hasty: cellar.Client, server: FakeServer
) -> None:
    session = client.session("series", version=2, history_steps="all", id="mine")
    session.feed([1.0, 2.0])
    server.fail("UpgradeSession", after=True)
    assert session.upgrade().version == 3
    assert server.calls["UpgradeSession"] == 2
    assert session.step(3.0).position == 3
    session = hasty.attach("mine")
    server.fail("UpgradeSession", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.upgrade(version=1)
    # Nothing is read in the order of another version's features before that is known.
    with pytest.raises(cellar.StaleBranchError):
        session.step(1.0)
    assert session.upgrade(version=1).version == 1
    assert session.model.version == 1
    assert session.step(1.0).position == 4


def test_somebody_else_has_upgraded_it(client: cellar.Client) -> None:
    session = client.session("series", version=2, history_steps="all", id="mine")
    session.feed([1.0, 2.0, 3.0])
    client.attach("mine").upgrade()
    with pytest.raises(cellar.StaleBranchError):
        session.step(1.0)


async def test_the_asynchronous_client(server: FakeServer) -> None:
    async with cellar.aio.connect(server.address) as client:
        session = await client.session("char", version=2, history_steps="all")
        await session.feed("abc")
        assert (await session.upgrade()).version == session.model.version == 3
        assert (await session.step("a")).position == 4
        await session.close()


def test_the_command(
    client: cellar.Client, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    client.session("series", version=1, history_steps="all", id="mine").feed([1.0, 2.0])
    command = ["upgrade", "mine", "--server", server.address]
    assert main([*command, "--version", "2"]) == 0
    assert capsys.readouterr().out == "mine is a session of series 2, at position 2\n"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 3
    assert main([*command, "--version", "9"]) != 0
    assert "MODEL_UNKNOWN" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--version", "-1"])
