"""Sessions that go back: where they are told to, and where a generation was left."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import grpc
import pytest

import cellar
import cellar.aio
from cellar.cli import main
from tests.client.fake import FakeServer, run

FAR = 10_000


def test_to_a_position_or_by_steps(client: cellar.Client, server: FakeServer) -> None:
    with client.session("series", history_steps="all") as session:
        assert server.sessions[session.id].history_steps == 2**53
        session.feed([1.0, 2.0, 3.0, 4.0, 5.0])
        before = session.branch
        info = session.rewind(position=4)
        assert (info.position, session.position) == (4, 4)
        assert session.branch == info.branch != before
        assert session.rewind(steps=2).position == 2
        assert session.rewind(steps=0).position == 2
        prediction = session.step(7.0)
        assert prediction.raw is not None
        assert (prediction.position, prediction.raw.tolist()) == (3, [run([1, 2, 7])])
        with pytest.raises(cellar.BadInputError):
            session.rewind(position=4)
        assert session.step(8.0).position == 4


def test_what_is_asked_wrongly_is_not_sent(client: cellar.Client, server: FakeServer) -> None:
    with client.session("series", history_steps=10) as session:
        assert server.sessions[session.id].history_steps == 10
        session.step(1.0)
        asked = len(server.requests)
        for arguments in (
            {},
            {"position": 1, "steps": 1},
            {"position": -1},
            {"steps": -1},
            {"steps": 2},
            {"position": "1"},
            {"position": 2**64},
        ):
            with pytest.raises(cellar.BadInputError, match=r"position|steps"):
                session.rewind(**arguments)
        for wrong in ("everything", -1, 1.5, True):
            with pytest.raises(cellar.BadInputError, match="history_steps"):
                client.session("series", history_steps=wrong)  # type: ignore[arg-type]
        assert len(server.requests) == asked


def test_without_a_history(client: cellar.Client) -> None:
    with client.session("series") as session:
        session.feed([1.0, 2.0])
        with pytest.raises(cellar.HistoryMissingError):
            session.rewind(position=1)
        assert session.step(3.0).position == 3


def test_an_answer_that_is_lost(
    client: cellar.Client, hasty: cellar.Client, server: FakeServer
) -> None:
    session = client.session("series", history_steps="all", id="mine")
    session.feed([1.0, 2.0, 3.0])
    server.fail("RewindSession", after=True)
    assert session.rewind(position=2).position == 2
    assert server.calls["RewindSession"] == 2
    assert session.branch == server.sessions["mine"].branch
    session = hasty.attach("mine")
    server.fail("RewindSession", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.rewind(position=1)
    prediction = session.step(9.0)
    assert prediction.raw is not None
    assert (prediction.position, prediction.raw.tolist()) == (2, [run([1, 9])])


def test_somebody_else_has_rewound_it(client: cellar.Client) -> None:
    session = client.session("series", history_steps="all", id="mine")
    session.feed([1.0, 2.0, 3.0])
    client.attach("mine").rewind(position=1)
    with pytest.raises(cellar.StaleBranchError):
        session.step(1.0)


@pytest.mark.parametrize("way", ["close", "leave", "lose"])
@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_a_session_has_read_what_has_come(
    way: str, pieces: int, client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char") as session:
        session.step("c")
        generation = session.generate("ab", max_steps=FAR, timeout_s=0.5 if way == "lose" else 10)
        tokens = [int(next(generation).tokens[0]) for _ in range(pieces)]
        if way == "close":
            generation.close()
        elif way == "lose" and pieces:
            server.fail("Generate", bare=grpc.StatusCode.UNAVAILABLE)
            generation._pieces.close()
        told = server.sessions[session.id]
        prediction = session.step("d")
        if not pieces:  # it was never begun
            assert prediction.position == 2
            return
        assert prediction.position == 1 + 2 + pieces + 1
        assert told.read[: 3 + pieces] == [2, 0, 1, *tokens]
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [run([2, 0, 1, *tokens, 3])]


@pytest.mark.parametrize("tries", [1, 6])
@pytest.mark.parametrize("lost", [1, 2])
def test_what_was_taken_back_and_never_answered(
    lost: int, tries: int, client: cellar.Client, hasty: cellar.Client, server: FakeServer
) -> None:
    """The session is on the branch that this began, which no answer has told of."""
    with (hasty if tries == 1 else client).session("char") as session:
        generation = session.generate("ab", max_steps=FAR)
        tokens = [int(next(generation).tokens[0]) for _ in range(3)]
        while server.sessions[session.id].position < 10:  # the server goes on ahead
            time.sleep(0.001)
        for _ in range(lost):
            server.fail("RewindSession", after=True)
        generation.close()
        for _ in range(lost):
            with suppress(cellar.ConnectionLostError):
                session.refresh()
        assert session.position == 5
        assert server.calls["RewindSession"] >= 1
        prediction = session.step("d")
        assert prediction.raw is not None
        assert (prediction.position, prediction.raw.tolist()) == (6, [run([0, 1, *tokens, 3])])


@pytest.mark.parametrize("older", [True, False])
def test_where_the_server_cannot_it_stands_where_it_says(
    older: bool, client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char") as session:
        generation = session.generate("ab", max_steps=FAR)
        piece = next(generation)
        server.knows_rewinds = not older
        if not older:
            server.sessions[session.id].generated = (10**9, -1)
        generation.close()
        stands = server.sessions[session.id].position
        assert session.position == stands >= piece.position
        assert session.step("d").position == stands + 1


async def test_the_asynchronous_client(server: FakeServer) -> None:
    async with cellar.aio.connect(server.address) as client:
        session = await client.session("char", history_steps="all")
        await session.feed("abc")
        assert (await session.rewind(steps=1)).position == 2
        generation = session.generate(max_steps=FAR)
        tokens = [int((await anext(generation)).tokens[0]) for _ in range(3)]
        await generation.close()
        assert session.position == 5
        assert server.sessions[session.id].read == [0, 1, *tokens]
        await session.close()


def test_the_command(
    client: cellar.Client, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    client.session("series", history_steps="all", id="mine").feed([1.0, 2.0, 3.0, 4.0])
    assert main(["rewind", "mine", "--to", "3", "--server", server.address]) == 0
    assert capsys.readouterr().out == "mine is at position 3\n"
    assert main(["rewind", "mine", "--steps", "2", "--json", "--server", server.address]) == 0
    assert json.loads(capsys.readouterr().out)["position"] == 1
    assert main(["rewind", "mine", "--to", "3", "--server", server.address]) != 0
    assert "BAD_INPUT" in capsys.readouterr().err
    for wrong in ([], ["--to", "1", "--steps", "1"], ["--to", "-1"]):
        with pytest.raises(SystemExit):
            main(["rewind", "mine", *wrong, "--server", server.address])
