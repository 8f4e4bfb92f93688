"""Branches on the wire: told by whatever tells of a session, and checked where they are sent."""

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from cellar.v1 import session_pb2 as pb
from tests.service.rpc.conftest import Wire
from tests.service.rpc.native.test_sessions import open_session, refused, text, values
from tests.service.rpc.native.test_streams import Stream, tokens

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def describe(wire: Wire, session: str = "s") -> pb.Session:
    response = await wire.sessions.GetSession(pb.GetSessionRequest(session_id=session))
    found: pb.Session = response.session
    return found


def step(wire: Wire, position: int, **fields: Any) -> Awaitable[pb.StepResponse]:
    request = pb.StepRequest(session_id="s", position=position, **fields)
    reply: Awaitable[pb.StepResponse] = wire.sessions.Step(request)
    return reply


async def generate(wire: Wire, **fields: Any) -> list[pb.GenerateResponse]:
    request = pb.GenerateRequest(session_id="s", max_steps=3, **fields)
    return [piece async for piece in wire.sessions.Generate(request)]


async def stale(wire: Wire, call: Awaitable[Any]) -> None:
    """A call must be refused, and say where the session is."""
    now = await describe(wire)
    info = await refused(call, FAILED_PRECONDITION, "STALE_BRANCH")
    assert dict(info.metadata) == {"branch": str(now.branch), "position": str(now.position)}
    after = await describe(wire)
    assert (after.branch, after.position) == (now.branch, now.position)


async def test_every_answer_tells_the_branch(wire: Wire) -> None:
    opened = await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="s"))
    first = opened.session.branch
    assert 0 < first < 2**63
    assert (await describe(wire)).branch == first
    for inputs, commit in (("a", True), ("bcd", True), ("a", False)):
        reply = await wire.sessions.Step(
            pb.StepRequest(session_id="s", inputs=text(inputs), commit=commit)
        )
        assert reply.branch == first
    assert (await step(wire, 1, inputs=text("bcd"))).branch == first, "a replay"
    reset = await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id="s", branch=first))
    assert reset.session.branch not in (0, first)
    assert (await describe(wire)).branch == reset.session.branch


@pytest.mark.parametrize("anew", ["reset", "opened"])
@pytest.mark.usefixtures("several_models")
async def test_what_carries_another_branch_is_refused(wire: Wire, anew: str) -> None:
    await open_session(wire, "prices")
    old = (await describe(wire)).branch
    first = await step(wire, 0, inputs=values(100), branch=old)
    assert first.position == 1
    if anew == "reset":
        await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id="s", branch=old))
    else:
        await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="s", branch=old))
        await open_session(wire, "prices")
    for position in (0, 1):
        await stale(wire, step(wire, 0, inputs=values(100), branch=old))
        await stale(wire, step(wire, position, inputs=values(100), branch=old))
        await stale(wire, step(wire, position, inputs=values(100, 101), branch=old))
        await stale(wire, step(wire, position, inputs=values(1), branch=old, commit=False))
        await stale(wire, step(wire, position, inputs=values(1), branch=2**64 - 1))
        await stale(wire, generate(wire, prompt=values(1), branch=old))
        await stale(wire, generate(wire, branch=old))
        calls = wire.sessions
        facts: dict[str, Any] = {"session_id": "s", "branch": old}
        await stale(wire, calls.Forecast(pb.ForecastRequest(horizon=3, **facts)))
        await stale(wire, calls.GetSession(pb.GetSessionRequest(**facts)))
        await stale(wire, calls.GetSession(pb.GetSessionRequest(settle=True, **facts)))
        await stale(wire, calls.ResetSession(pb.ResetSessionRequest(**facts)))
        await stale(wire, calls.CloseSession(pb.CloseSessionRequest(**facts)))
        now = (await describe(wire)).branch
        reply = await step(wire, position, inputs=values(100), branch=now)
        assert (reply.position, reply.branch) == (position + 1, now)
    forecast = await wire.sessions.Forecast(
        pb.ForecastRequest(session_id="s", horizon=3, branch=now)
    )
    assert forecast.position == 2
    assert len(await generate(wire, branch=now)) > 0
    await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="s", branch=now))


async def test_no_branch_and_none_of_them_are_not_checked(wire: Wire) -> None:
    await open_session(wire)
    for position, fields in enumerate(({}, {"branch": 0})):
        reply = await step(wire, position, inputs=text("a"), **fields)
        assert reply.position == position + 1
        assert (await generate(wire, branch=0))[-1].position == 4 + position
        await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id="s", **fields))
        await step(wire, 0, inputs=text("a"))


async def test_a_stream_tells_branches_and_keeps_them(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    attached = await stream.attach([3, 1, 2], ["a", "b", "c"])
    found = {name: (await describe(wire, name)).branch for name in "abc"}
    assert list(attached.branches) == [found[name] for name in "abc"]
    await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id="b"))
    now = (await describe(wire, "b")).branch
    for inputs, more in ((tokens(1, 2, 3), {}), (tokens(1, 1, 2, 3), {"steps": [1, 2, 1]})):
        await stream.send([3, 1, 2], inputs=inputs, **more)
        good, bad = await stream.rows(3)
        assert set(good) == {2, 3}
        assert (bad[1].reason, bad[1].code) == ("STALE_BRANCH", FAILED_PRECONDITION.value[0])
        assert (bad[1].branch, bad[1].position) == (now, 0)
    await stream.send([1], inputs=tokens(1), positions=[0])
    _, bad = await stream.rows(1)
    assert bad[1].branch == now
    await stream.call.write(pb.StreamRequest(detach=pb.StreamDetach(channels=[1, 2, 3])))
    await stream.read()
    request = pb.StreamAttach(
        session_ids=["a", "b", "c"],
        channels=[1, 2, 3],
        branches=[found["a"], found["b"], 0],
    )
    await stream.call.write(pb.StreamRequest(attach=request))
    again = (await stream.read()).attached
    assert list(again.channels) == [1, 3]
    assert list(again.branches) == [found["a"], found["c"]]
    (error,) = again.errors
    assert (error.channel, error.reason, error.branch, error.position) == (
        *(2, "STALE_BRANCH"),
        *(now, 0),
    )
    request = pb.StreamAttach(session_ids=["b"], channels=[2], branches=[now])
    await stream.call.write(pb.StreamRequest(attach=request))
    assert list((await stream.read()).attached.branches) == [now]
    await stream.send([2], inputs=tokens(1), positions=[0])
    good, _ = await stream.rows(1)
    assert good[2]["position"] == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"branches": [1, 2]}, "2 for 1 sessions"), ({"branches": [1], "open": True}, "opened")],
)
async def test_branches_that_fit_no_attach_end_the_stream(
    wire: Wire, fields: dict[str, Any], words: str
) -> None:
    stream = await Stream(wire).begin()
    request = pb.StreamAttach(session_ids=["a"], channels=[0], **fields)
    await stream.call.write(pb.StreamRequest(attach=request))
    info = await refused(stream.call.read(), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
    assert info.metadata["field"] == "attach.branches"
    assert words in (await stream.call.details())
    await refused(
        wire.sessions.GetSession(pb.GetSessionRequest(session_id="a")),
        grpc.StatusCode.NOT_FOUND,
        "SESSION_UNKNOWN",
    )
