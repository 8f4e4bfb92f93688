"""Sessions that people can see, over a real connection: listed, ephemeral, reset on streams."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

import cellar
import cellar.aio
from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from service import server
from tests.client.conftest import QUICK
from tests.recurrent import char_case, torch_predictions
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import open_session, refused, text
from tests.service.rpc.native.test_streams import Stream, tokens

GRACE_S = 0.3


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is due is looked for more often, so that nobody waits here."""
    monkeypatch.setattr(server, "_EXPIRY_PERIOD_S", 0.05)


async def listed(wire: Wire, **fields: Any) -> list[pb.Session]:
    """All pages."""
    found: list[pb.Session] = []
    token = ""
    while True:
        request = pb.ListSessionsRequest(page_token=token, **fields)
        page = await wire.sessions.ListSessions(request)
        found += page.sessions
        token = page.next_page_token
        if not token:
            return found


async def is_open(wire: Wire, name: str) -> bool:
    return name in [session.id for session in await listed(wire)]


async def reset(stream: Stream, *channels: int) -> pb.StreamResetReply:
    await stream.call.write(pb.StreamRequest(reset=pb.StreamReset(channels=channels)))
    return (await stream.read()).reset


def raw_after(*ids: int) -> Any:
    """What a session alone predicts."""
    return torch_predictions(char_case(seed=1), np.array(ids))[0][-1]


@pytest.mark.usefixtures("several_models")
async def test_sessions_are_listed_by_model_and_page(wire: Wire) -> None:
    for number in range(5):
        await open_session(wire, "letters", f"s{number}")
    await open_session(wire, "prices", "p")
    request = pb.OpenSessionRequest(
        model="letters",
        model_version=1,
        session_id="old",
        idle_timeout=Duration(seconds=9),
        ephemeral=True,
    )
    await wire.sessions.OpenSession(request)
    await wire.sessions.Step(pb.StepRequest(session_id="s2", inputs=text("one")))
    everybody = await listed(wire, page_size=2)
    assert {session.id for session in everybody} == {f"s{n}" for n in range(5)} | {"p", "old"}
    for session in everybody:
        got = await wire.sessions.GetSession(pb.GetSessionRequest(session_id=session.id))
        apart_ns = session.last_used_time.ToNanoseconds()  # told anew from an age
        apart_ns -= got.session.last_used_time.ToNanoseconds()
        assert abs(apart_ns) < 10**8
        got.session.last_used_time.CopyFrom(session.last_used_time)
        assert session == got.session
        assert session.tier == pb.SESSION_TIER_DEVICE
        assert session.owner == ""
    (old,) = await listed(wire, model="letters", model_version=1)
    assert (old.id, old.ephemeral, old.idle_timeout.seconds) == ("old", True, 9)
    assert len(await listed(wire, model="letters")) == 6
    assert await listed(wire, idle_for=Duration(seconds=60)) == []
    await refused(
        wire.sessions.ListSessions(pb.ListSessionsRequest(page_token="x")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "BAD_INPUT",
    )
    await refused(
        wire.sessions.ListSessions(pb.ListSessionsRequest(model="nobody")),
        grpc.StatusCode.NOT_FOUND,
        "MODEL_UNKNOWN",
    )


async def test_sessions_of_a_stream_have_the_timeout_that_was_asked_for(wire: Wire) -> None:
    stream = await Stream(wire).begin()
    attach = pb.StreamAttach(
        session_ids=["a", "b"], channels=[0, 1], open=True, idle_timeout=Duration(seconds=5)
    )
    await stream.call.write(pb.StreamRequest(attach=attach))
    assert list((await stream.read()).attached.channels) == [0, 1]
    assert [session.idle_timeout.seconds for session in await listed(wire)] == [5, 5]
    attach.idle_timeout.seconds = 10**9
    attach.session_ids[:], attach.channels[:] = ["c"], [2]
    await stream.call.write(pb.StreamRequest(attach=attach))
    (error,) = (await stream.read()).attached.errors
    assert (error.reason, "idle_timeout" in error.message) == ("BAD_INPUT", True)


@pytest.mark.parametrize("field", [{"idle_timeout": Duration(seconds=5)}, {"ephemeral": True}])
async def test_how_to_open_is_not_said_of_what_is_open(wire: Wire, field: dict[str, Any]) -> None:
    await open_session(wire)
    stream = await Stream(wire).begin()
    attach = pb.StreamAttach(session_ids=["s"], channels=[0], **field)
    await stream.call.write(pb.StreamRequest(attach=attach))
    info = await refused(stream.call.read(), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
    assert info.metadata["field"] == f"attach.{next(iter(field))}"


@pytest.mark.parametrize("how", ["a step that is not applied", "a forecast"])
@pytest.mark.usefixtures("several_models")
async def test_an_ephemeral_session_lasts_while_it_is_used(repository: Path, how: str) -> None:
    async with serving(repository, ephemeral_grace_s=GRACE_S) as wire:
        request = pb.OpenSessionRequest(model="prices", session_id="a", ephemeral=True)
        await wire.sessions.OpenSession(request)
        value = values_pb2.Inputs(values=values_pb2.Values(data=[1.0]))
        await wire.sessions.Step(pb.StepRequest(session_id="a", inputs=value))
        for _ in range(8):
            await asyncio.sleep(GRACE_S / 4)
            if how == "a forecast":
                await wire.sessions.Forecast(pb.ForecastRequest(session_id="a", horizon=1))
            else:
                dry = pb.StepRequest(session_id="a", inputs=value, commit=False)
                await wire.sessions.Step(dry)
        assert await is_open(wire, "a")
        await asyncio.sleep(GRACE_S + 0.2)
        assert not await is_open(wire, "a")


@pytest.mark.parametrize("how", ["done writing", "cancelled", "connection lost"])
async def test_an_ephemeral_session_ends_after_its_stream(repository: Path, how: str) -> None:
    async with serving(repository, ephemeral_grace_s=GRACE_S) as wire:
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{wire.server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        other = Wire(wire.server, channel, type(wire.sessions)(channel), None)
        stream = await Stream(other).begin()
        attach = pb.StreamAttach(session_ids=["a"], channels=[0], open=True, ephemeral=True)
        await stream.call.write(pb.StreamRequest(attach=attach))
        await stream.read()
        await stream.attach([1], ["b"])
        await asyncio.sleep(GRACE_S + 0.2)
        assert await is_open(wire, "a")
        if how == "done writing":
            await stream.call.done_writing()
            assert await stream.call.read() is grpc.aio.EOF
        elif how == "cancelled":
            stream.call.cancel()
        else:
            await channel.close(None)
        await asyncio.sleep(GRACE_S / 4)
        assert await is_open(wire, "a")
        await asyncio.sleep(GRACE_S + 0.2)
        assert not await is_open(wire, "a")
        assert await is_open(wire, "b")
        asked = wire.sessions.GetSession(pb.GetSessionRequest(session_id="a"))
        await refused(asked, grpc.StatusCode.NOT_FOUND, "SESSION_CLOSED")
        await channel.close(None)


async def test_a_stream_that_resumes_in_time_keeps_its_sessions(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(repository, ephemeral_grace_s=30.0) as wire:
        later_s = 0.0  # what a test need not wait for
        directory = wire.server.engine.directory
        monkeypatch.setattr(directory, "_clock", lambda: time.monotonic() + later_s)
        client = await cellar.aio.connect(f"127.0.0.1:{wire.server.port}", retry=QUICK)
        stream = await client.stream("letters", raw=True)
        channels = await stream.open(2, ephemeral=True)
        await stream.step(channels, [1, 2])
        (call,) = wire.server._sessions._streams
        call.cut()  # the server ends it; the client comes back by itself
        reply = await stream.step(channels, [3, 4])
        assert reply.positions.tolist() == [2, 2]
        later_s = 40.0
        await asyncio.sleep(0.2)
        assert len(await listed(wire)) == 2
        await stream.close()
        await asyncio.sleep(0.2)
        assert len(await listed(wire)) == 2
        later_s = 80.0
        await asyncio.sleep(0.2)
        assert await listed(wire) == []
        events = wire.server.metrics.session_events
        assert events.labels("closed")._value.get() == 2
        assert events.labels("expired")._value.get() == 0
        await client.close()


async def test_a_reset_is_in_order_with_the_frames(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    before = dict(zip((0, 1), (await stream.attach([0, 1], ["a", "b"])).branches, strict=True))
    # Nothing waits for an answer here.
    await stream.send([0, 1], inputs=tokens(1, 2), positions=[0, 0], number=1)
    await stream.send([0, 1], inputs=tokens(3, 4), positions=[1, 1], number=2)
    await stream.call.write(pb.StreamRequest(reset=pb.StreamReset(channels=[1])))
    await stream.send([0, 1], inputs=tokens(5, 6), positions=[2, 0], number=3)
    found: dict[tuple[int, int], Any] = {}
    answer = None
    while len(found) < 6:
        response = await stream.read()
        if response.WhichOneof("message") == "reset":
            answer = response.reset
            assert {(1, 1), (2, 1)} <= set(found)
            assert (3, 1) not in found
            continue
        reply = response.reply
        assert not reply.errors
        rows = np.array(reply.predictions.raw).reshape(len(reply.channels), -1)
        for channel, position, row in zip(reply.channels, reply.positions, rows, strict=True):
            found[reply.frame, channel] = position, row
    assert answer is not None
    assert list(answer.channels) == [1]
    assert answer.branches[0] not in (0, before[1])
    for key, read in {(2, 1): [2, 4], (3, 0): [1, 3, 5], (3, 1): [6]}.items():
        position, row = found[key]
        assert position == len(read)
        np.testing.assert_allclose(row, raw_after(*read), rtol=1e-4, atol=1e-5)
    got = await wire.sessions.GetSession(pb.GetSessionRequest(session_id="b"))
    assert (got.session.branch, got.session.position) == (answer.branches[0], 1)


async def test_channels_that_cannot_be_reset_are_refused_alone(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    await stream.attach([0, 1, 2, 3], ["a", "b", "c", "d"])
    await stream.send([0, 1, 2, 3], inputs=tokens(1, 2, 3, 4))
    await stream.rows(4)
    await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="b"))
    elsewhere = await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id="c"))
    answer = await reset(stream, 3, 1, 2, 9)
    assert list(answer.channels) == [3]
    errors = {error.channel: error for error in answer.errors}
    assert {channel: error.reason for channel, error in errors.items()} == {
        1: "SESSION_CLOSED",
        2: "STALE_BRANCH",
        9: "BAD_INPUT",
    }
    assert (errors[2].branch, errors[2].position) == (elsewhere.session.branch, 0)
    await stream.send([0, 3], inputs=tokens(5, 6), positions=[1, 0])
    good, bad = await stream.rows(2)
    assert not bad
    assert (good[0]["position"], good[3]["position"]) == (2, 1)


@pytest.mark.parametrize(
    ("channels", "message"), [([], "no channel"), ([1, 1], "twice"), ([1, 2, 3], "limit of 2")]
)
async def test_a_reset_that_cannot_be_meant_ends_the_stream(
    repository: Path, channels: list[int], message: str
) -> None:
    async with serving(repository, max_attach_sessions=2) as wire:
        stream = await Stream(wire).begin()
        await stream.attach([1], ["a"])
        await stream.call.write(pb.StreamRequest(reset=pb.StreamReset(channels=channels)))
        asked = stream.call.read()
        info = await refused(asked, grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
        assert info.metadata["field"] == "reset.channels"
        assert message in await stream.call.details()


async def test_a_lost_session_is_mended_by_a_reset(wire: Wire) -> None:
    stream = await Stream(wire, raw=True).begin()
    await stream.attach([0], ["a"])
    session = wire.server.engine.directory.find("a")
    session.shard.table.lost[session.slot] = True
    await stream.send([0], inputs=tokens(1))
    _, bad = await stream.rows(1)
    assert bad[0].reason == "STATE_LOST"
    assert list((await reset(stream, 0)).channels) == [0]
    await stream.send([0], inputs=tokens(1))
    good, _ = await stream.rows(1)
    np.testing.assert_allclose(good[0]["raw"][0], raw_after(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("durability", ["commit", "interval"])
async def test_a_reset_outlives_the_process(
    repository: Path, tmp_path: Path, durability: str
) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    async with serving(repository, store=store, durability=durability) as wire:
        stream = await Stream(wire, raw=True).begin()
        await stream.attach([0, 1], ["a", "b"])
        await stream.send([0, 1], inputs=tokens(1, 2))
        await stream.rows(2)
        branches = dict(zip([0, 1], (await reset(stream, 0, 1)).branches, strict=True))
        await stream.send([0], inputs=tokens(3), positions=[0])
        await stream.rows(1)
    async with serving(repository, store=store, durability=durability) as wire:
        found = {session.id: session for session in await listed(wire)}
        assert {name: (each.branch, each.position) for name, each in found.items()} == {
            "a": (branches[0], 1),
            "b": (branches[1], 0),
        }
        stream = await Stream(wire, raw=True).begin()
        await stream.attach([0], ["a"], open=False)
        await stream.send([0], inputs=tokens(4), positions=[1])
        good, _ = await stream.rows(1)
        np.testing.assert_allclose(good[0]["raw"][0], raw_after(3, 4), rtol=1e-4, atol=1e-5)


async def test_the_server_makes_room_by_itself_and_soon(repository: Path) -> None:
    async with serving(repository, max_sessions=3000, idle_timeout_s=0.2) as wire:
        stream = await Stream(wire).begin()
        for start in range(0, 3000, 1000):
            numbers = list(range(start, start + 1000))
            await stream.attach(numbers, [f"s{number}" for number in numbers])
        stream.call.cancel()
        await asyncio.sleep(0.3)
        await open_session(wire, "letters", "at once")
        for _ in range(40):
            await asyncio.sleep(0.1)
            if len(await listed(wire, page_size=1000)) <= 1:
                break
        else:
            pytest.fail("they are there still")


async def test_a_fault_does_not_keep_sessions_from_expiring(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_EXPIRY_PERIOD_S", 0.02)
    async with serving(repository, idle_timeout_s=0.2) as wire:
        await open_session(wire, "letters", "a")
        directory, faults = wire.server.engine.directory, [MemoryError("of ours")]
        expire = directory.expire

        def at_first_not() -> int:
            if faults:
                raise faults.pop()
            return expire()

        monkeypatch.setattr(directory, "expire", at_first_not)
        async with asyncio.timeout(5):
            while "a" in directory.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not faults
