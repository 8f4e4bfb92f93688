"""Export, import and fork: what is asked before them, and what a lost answer means."""

from __future__ import annotations

from contextlib import closing

import pytest

import cellar
from tests.client.fake import FakeServer, Refusal, advance, run


def numbers(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


def state(session: cellar.Session) -> int:
    """What the fake model has come to, by a step that reads a zero."""
    raw = session.peek("a", raw=True).raw
    assert raw is not None
    return int(raw[0])


def test_what_was_exported_is_imported(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char", id="one") as session:
        session.step("bcd")
        snapshot = session.export()
        expected = state(session)
        branch = session.branch
    with client.import_session(snapshot) as session:
        assert (session.id, session.position, state(session)) == ("one", 3, expected)
        assert session.branch != branch
        with client.import_session(snapshot, id="two", idle_timeout_s=5) as other:
            assert (other.id, state(other)) == ("two", expected)
            assert other.step("b").position == 4
        assert session.step("b").position == 4
    assert server.sessions == {}


def test_a_fork_begins_where_the_session_stands(client: cellar.Client) -> None:
    with client.session("char") as session:
        session.step("bcd")
        with session.fork() as fork, session.fork(id="early", position=1) as early:
            assert (fork.position, fork.branch != session.branch) == (3, True)
            assert state(fork) == state(session)
            assert (early.id, early.position) == ("early", 1)
            assert state(early) == advance(run(numbers("b")), 1, 0)
        with session.fork(model="series") as other:
            assert (other.model.name, session.model.name) == ("series", "char")


@pytest.mark.parametrize("name", [None, "", "chosen"])
def test_a_fork_whose_answer_was_lost(
    client: cellar.Client, server: FakeServer, name: str | None
) -> None:
    with client.session("char") as session:
        session.step("bcd")
        server.fail("ForkSession", after=True)
        with session.fork(id=name) as fork:
            assert fork.position == 3
            assert fork.step("b").position == 4
        assert server.calls["ForkSession"] == 2
        assert len(server.sessions) == 1


def test_a_session_that_was_there_is_not_taken_for_the_fork(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char") as session, client.session("char", id="there"):
        session.step("bcd")
        with pytest.raises(cellar.SessionExistsError):
            session.fork(id="there")
        server.fail("ForkSession", unavailable=True)
        with pytest.raises(cellar.SessionExistsError):  # it stands elsewhere
            session.fork(id="there")


def test_an_import_whose_answer_was_lost_says_so(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char", id="one") as session:
        session.step("bcd")
        snapshot = session.export()
        server.fail("ImportSession", after=True)
        with pytest.raises(cellar.SessionExistsError):
            client.import_session(snapshot, id="two")
        assert client.attach("two").position == 3
        server.fail("ImportSession", unavailable=True)
        with client.import_session(snapshot, id="three") as other:
            assert other.position == 3


def test_what_was_in_doubt_is_known_before(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        session.step("b")
        server.fail("Step", after=True, count=100)
        with pytest.raises(cellar.CellarError):
            session.step("c", timeout_s=0.3)
        server.faults.clear()
        assert session.in_doubt
        with session.fork() as fork:
            assert fork.position == session.position == 2
        with closing(session.generate("b", max_steps=5)) as generation:
            next(generation)
            assert session.export()
        assert server.sessions[session.id].settled == 1


def test_another_branch_is_not_copied(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        session.step("bcd")
        client.reset_session(session.id)
        for copy in (session.export, session.fork):
            with pytest.raises(cellar.StaleBranchError):
                copy()
        assert len(server.sessions) == 1


def test_refusals_have_classes_of_their_own(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        session.step("b")
        with pytest.raises(cellar.SnapshotInvalidError):
            client.import_session(b"none")
        server.fail("ForkSession", before=Refusal("STATE_MISMATCH"))
        with pytest.raises(cellar.StateMismatchError):
            session.fork(model="series")
        server.fail("ForkSession", before=Refusal("HISTORY_MISSING", {"history_position": "7"}))
        with pytest.raises(cellar.HistoryMissingError):
            session.fork(position=0)
        calls = dict(server.calls)
        for wrong in ({"position": -1}, {"position": 1.5}, {"id": "\n"}, {"model": 3}):
            with pytest.raises(cellar.BadInputError) as refused:
                session.fork(**wrong)
            assert refused.value.metadata["field"] in wrong
        with pytest.raises(cellar.BadInputError, match="snapshot: bytes"):
            client.import_session("text")  # type: ignore[arg-type]
        assert server.calls == calls
