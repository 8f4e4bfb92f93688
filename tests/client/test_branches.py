"""A session object is for one branch: what is late for another changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import cellar
from tests.client.fake import FakeServer, run


def branches(server: FakeServer, session_id: str) -> list[int]:
    """The branches of all requests for a session, but for those that cannot carry one."""
    carriers = [each for each in server.requests if hasattr(each, "branch")]
    return [each.branch for each in carriers if each.session_id == session_id]


def test_every_request_carries_the_branch(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("series", id="mine")
    first = session.branch
    assert first == server.sessions["mine"].branch
    session.step(1.0)
    session.peek(2.0)
    session.forecast(2)
    session.generate(max_steps=2).values()
    session.refresh()
    session.reset()
    second = session.branch
    assert second == server.sessions["mine"].branch != first
    session.step(1.0)
    session.close()
    assert branches(server, "mine") == [first] * 6 + [second] * 2


ASKED: dict[str, Callable[[cellar.Session], object]] = {
    "step": lambda session: session.step(2.0),
    "steps": lambda session: session.steps([2.0, 3.0]),
    "peek": lambda session: session.peek(2.0),
    "forecast": lambda session: session.forecast(2),
    "generate": lambda session: session.generate(1.0, max_steps=2).values(),
    "refresh": lambda session: session.refresh(),
    "reset": lambda session: session.reset(),
    "close": lambda session: session.close(),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("anew", ["reset", "opened"])
def test_a_session_that_began_anew_is_not_taken_for_the_old_one(
    asked: str, anew: str, client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("series", id="mine")
    session.step(1.0)
    other = client.attach("mine")
    if anew == "reset":
        other.reset()
    else:
        other.close()
        other = client.session("series", id="mine")
    other.step(7.0)  # so that positions are equal
    for _ in range(2):  # not healed behind the caller's back
        with pytest.raises(cellar.StaleBranchError) as caught:
            ASKED[asked](session)
        assert (caught.value.branch, caught.value.position) == (other.branch, 1)
    assert other.step(2.0).position == 2
    assert server.sessions["mine"].state == run([7, 2])
    assert client.attach("mine").step(3.0).position == 3


@pytest.mark.parametrize("anew", ["reset", "opened"])
def test_a_repeated_step_is_not_applied_after_a_new_beginning(
    anew: str, hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char", id="mine")
    server.fail("Step", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")  # at position 0, where the session will stand again
    if anew == "reset":
        server.sessions["mine"].reset()
    else:
        hasty.attach("mine").close()
        hasty.session("char", id="mine")
    for _ in range(2):
        with pytest.raises(cellar.StaleBranchError):
            session.step("b")
        with pytest.raises(cellar.StaleBranchError):
            session.step("c")
    assert server.sessions["mine"].position == 0


def test_a_retried_step_is_not_applied_after_a_reset(
    client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("char", id="mine")
    server.fail("Step", unavailable=True)
    step = server.Step
    told: list[object] = []

    def reset_first(request: object, context: object) -> object:
        if told:
            server.sessions["mine"].reset()
        told.append(request)
        return step(request, context)

    server.Step = reset_first  # type: ignore[method-assign]
    server.stop()
    server.start()
    with pytest.raises(cellar.StaleBranchError):
        session.step("b")
    assert len(told) == 2
    assert server.sessions["mine"].position == 0


def test_a_reset_whose_answer_was_lost_is_asked_for_again(
    client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("char", id="mine")
    session.step("abc")
    server.fail("ResetSession", after=True)
    session.reset()
    assert (session.position, session.branch) == (0, server.sessions["mine"].branch)
    assert session.step("a").position == 1


@pytest.mark.parametrize("later", ["step", "refresh", "reset", "close"])
def test_a_reset_without_an_answer_may_have_begun_the_branch(
    later: str, hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char", id="mine")
    session.step("abc")
    server.fail("ResetSession", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.reset()
    if later == "step":
        assert session.step("b").position == 1
        assert server.sessions["mine"].state == run([1])
    elif later == "refresh":
        assert session.refresh().position == session.position == 0
    elif later == "reset":
        session.reset()
        assert session.step("b").position == 1
    else:
        session.close()
        assert "mine" not in server.sessions
        return
    assert session.branch == server.sessions["mine"].branch


def test_a_reset_without_an_answer_explains_no_session_that_has_gone_on(
    hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char", id="mine")
    session.step("abc")
    server.fail("ResetSession", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.reset()
    hasty.attach("mine").step("d")
    for request in (lambda: session.step("b"), session.reset, session.close):
        with pytest.raises(cellar.StaleBranchError):
            request()
    assert server.sessions["mine"].state == run([3])


def test_a_stream_that_resumes_leaves_what_began_anew(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char") as stream:
        channels = stream.open(3)
        stream.step(channels, "abc")
        ids = [stream.session_id(channel) for channel in channels]
        server.sessions[ids[1]].reset()
        now = server.sessions[ids[1]].branch
        server.kill_before_frames.add(1)
        reply = stream.step(channels, "def", strict=False)
        assert reply.channels.tolist() == [channels[0], channels[2]]
        (failure,) = reply.failures
        assert isinstance(failure.error, cellar.StaleBranchError)
        assert (failure.error.branch, failure.error.position) == (now, 0)
        with pytest.raises(cellar.StaleBranchError):
            stream.step(channels, "def")
        assert server.sessions[ids[1]].position == 0
        stream.detach([channels[1]])
        (again,) = stream.attach([ids[1]])
        assert stream.step([again], "j").positions.tolist() == [1]
        assert stream.step(channels[[0, 2]], "gh").positions.tolist() == [3, 3]


def test_a_stream_is_told_of_a_reset(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(2)
        client.attach(stream.session_id(channels[0])).reset()
        reply = stream.step(channels, "ab", strict=False)
        (failure,) = reply.failures
        assert isinstance(failure.error, cellar.StaleBranchError)
        assert failure.error.branch == server.sessions[failure.session_id].branch
        assert failure.error.position == 0
        assert reply.channels.tolist() == [channels[1]]


def test_a_server_that_knows_no_branches(client: cellar.Client, server: FakeServer) -> None:
    server.knows_branches = False
    with client.session("char") as session:
        session.step("a")
        session.reset()
        assert session.branch == 0
        assert session.step("a").position == 1
        assert set(branches(server, session.id)) == {0}
    with client.stream("char") as stream:
        channels = stream.open(2)
        server.kill_before_frames.add(0)
        assert stream.step(channels, "ab").positions.tolist() == [1, 1]
