"""A crash takes what was not durable: it is sent once more, and the application never notices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellar
from cellar.streams import tail
from tests.client.conftest import QUICK
from tests.client.fake import FakeServer, Refusal, run

LOST = 5  # steps at most, in one crash
STEPS = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_play_survives_any_crashes(
    client: cellar.Client, server: FakeServer, data: st.DataObject
) -> None:
    server.undurable_steps = LOST
    read: list[int] = []
    with client.session("char") as session:
        now = server.sessions[session.id]
        for _ in range(data.draw(st.integers(1, 12))):
            durable = max(now.position - LOST, 0)
            if data.draw(st.booleans()):
                now.crash(data.draw(st.integers(durable, now.position)))
                if data.draw(st.booleans()):  # another one follows, before anybody has come
                    now.crash(now.position)
            what = data.draw(st.sampled_from(["step", "text", "peek", "generate", "refresh"]))
            steps = data.draw(STEPS)
            if what == "step":
                prediction = session.step(steps)
                read += steps
            elif what == "text":
                prediction = session.step("".join("abcdefghij"[each] for each in steps))
                read += steps
            elif what == "peek":
                prediction = session.peek(steps)
                assert prediction.raw is not None
                assert prediction.raw.tolist() == [run(read + steps)]
                continue
            elif what == "generate":
                text = session.generate(steps, max_steps=data.draw(st.integers(1, 6))).text()
                read += steps + ["abcdefghij".index(each) for each in text]
                assert session.position == len(read)
                continue
            else:
                assert session.refresh().position == len(read)
                continue
            assert session.position == len(read)
            assert prediction.raw is not None
            assert prediction.raw.tolist() == [run(read)]
        assert session.refresh().position == len(read)
        assert now.state == run(read)


@pytest.mark.parametrize("applied", [True, False])
def test_a_step_in_doubt_when_the_server_crashed(
    applied: bool, hasty: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    with hasty.session("char") as session:
        session.step("abc")
        server.fail("Step", **({"after": True} if applied else {"unavailable": True}))
        with pytest.raises(cellar.ConnectionLostError):
            session.step("de")
        server.crash(4)
        assert session.step("de").position == 5
        assert server.sessions[session.id].state == run([0, 1, 2, 3, 4])
        # And one that was kept is answered again.
        server.fail("Step", after=True)
        with pytest.raises(cellar.ConnectionLostError):
            session.step("f")
        server.crash(0)
        assert session.step("f").replayed
        assert server.sessions[session.id].state == run([0, 1, 2, 3, 4, 5])


def test_what_was_in_doubt_and_applied_is_played_too(
    hasty: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    with hasty.session("char") as session:
        session.step("ab")
        server.fail("Step", after=True)
        with pytest.raises(cellar.ConnectionLostError):
            session.step("cd")
        assert session.refresh().position == 4
        server.crash(3)
        assert session.step("e").position == 5
        assert server.sessions[session.id].state == run([0, 1, 2, 3, 4])


def test_a_crash_while_it_is_played(hasty: cellar.Client, server: FakeServer) -> None:
    server.undurable_steps = LOST
    with hasty.session("char") as session:
        session.step("abc")
        session.step([3, 4])
        now = server.sessions[session.id]
        server.crash(4)
        server.fail("Step", count=2, after=True)  # the first one is told of the branch
        with pytest.raises(cellar.ConnectionLostError):
            session.peek("j")
        assert now.position > 1
        server.crash(1)
        assert session.generate("f", max_steps=1).text()
        assert now.read[:6] == [0, 1, 2, 3, 4, 5]


def test_a_generation_waits_until_it_is_played(hasty: cellar.Client, server: FakeServer) -> None:
    server.undurable_steps = LOST
    with hasty.session("char") as session:
        session.step("abc")
        server.crash(2)
        server.fail("Step", unavailable=True)
        with pytest.raises(cellar.ConnectionLostError):
            session.refresh()
        assert server.sessions[session.id].read == [0]
        assert session.generate("d", max_steps=1).text()
        assert server.sessions[session.id].read[:4] == [0, 1, 2, 3]


ASKED: dict[str, Callable[[cellar.Session], object]] = {
    "step": lambda session: session.step("d"),
    "forecast": lambda session: session.peek("d"),
    "generate": lambda session: session.generate("d", max_steps=2).text(),
    "refresh": lambda session: session.refresh(),
    "reset": lambda session: session.reset(),
    "close": lambda session: session.close(),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("why", ["another writer", "no tail", "more than was told", "a reset"])
def test_what_cannot_be_mended_is_told(
    asked: str, why: str, client: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST if why != "no tail" else None
    session = client.session("char", id="mine")
    session.step("abc")
    if why == "more than was told":
        server.undurable_steps = 0
        session.step("d")
    server.crash(2)
    if why == "another writer":
        client.attach("mine").step("j")
    elif why == "a reset":
        client.attach("mine").reset()
        client.attach("mine").step("j")
    state = server.sessions["mine"].state
    for _ in range(2):
        with pytest.raises(cellar.StaleBranchError):
            ASKED[asked](session)
    assert server.sessions["mine"].state == state


def test_another_writer_comes_while_it_is_played(hasty: cellar.Client, server: FakeServer) -> None:
    server.undurable_steps = LOST
    session = hasty.session("char", id="mine")
    session.step("abc")
    server.crash(2)
    server.fail("Step", count=2, after=True)  # the first one is told of the branch
    with pytest.raises(cellar.ConnectionLostError):
        session.step("d")
    hasty.attach("mine").step("j")
    for _ in range(2):
        with pytest.raises(cellar.StaleBranchError, match="somebody else"):
            session.step("d")
    assert server.sessions["mine"].read == [0, 1, 2, 9]


def test_a_session_that_is_closed_or_reset_is_not_played(
    client: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    session = client.session("char")
    session.step("abc")
    server.crash(2)
    session.reset()
    assert server.calls["Step"] == 1
    assert session.step("b").raw is not None
    assert server.sessions[session.id].state == run([1])
    server.crash(1)
    session.close()
    assert server.calls["Step"] == 2
    assert not server.sessions


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), split=st.integers(0, 3))
def test_any_frames_survive_any_crashes(
    client: cellar.Client, server: FakeServer, data: st.DataObject, split: int
) -> None:
    server.undurable_steps, server.split = LOST, split
    read: dict[int, list[int]] = {}
    with client.stream("char") as stream:
        channels = stream.open(4)
        for _ in range(data.draw(st.integers(1, 6))):
            sent: list[int] = []
            # A session is in each frame once: so many frames back is so many steps back.
            for _ in range(data.draw(st.integers(1, 2))):
                if data.draw(st.booleans()):
                    at = server.frames + data.draw(st.integers(1, 2))
                    server.crash_after_frames[at] = data.draw(st.integers(0, 2))
                steps = data.draw(st.lists(st.integers(0, 9), min_size=4, max_size=4))
                text = data.draw(st.booleans())
                inputs = "".join("abcdefghij"[each] for each in steps) if text else steps
                sent.append(stream.send(channels, inputs))
                for channel, step in zip(channels.tolist(), steps, strict=True):
                    read.setdefault(channel, []).append(step)
            replies = {reply.frame: reply for reply in stream.replies()}
            assert sorted(replies) == sent
            last = replies[sent[-1]]
            assert not last.failures
            assert last.predictions.raw is not None
            assert last.predictions.raw[:, 0].tolist() == [run(read[each]) for each in channels]
        server.crash_after_frames.clear()


def test_a_stream_plays_what_it_kept_across_what_it_gave_up(
    hasty: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    with hasty.stream("char") as stream:
        channels = stream.open(300)
        for step in range(3):
            stream.step(channels, np.full(300, step))
        server.crash_after_frames[4] = 3
        with pytest.raises(cellar.ConnectionLostError):
            stream.step(channels, np.full(300, 3))
        assert stream.positions(channels).tolist() == [3] * 300
        server.crash_after_frames[5] = 1  # while it is played
        with pytest.raises(cellar.ConnectionLostError):
            stream.step(channels, np.full(300, 3))
        reply = stream.step(channels, np.full(300, 3))
        assert reply.predictions.raw is not None
        assert set(reply.predictions.raw[:, 0].tolist()) == {run([0, 1, 2, 3])}


def test_a_stream_leaves_what_others_have_gone_on_with(
    client: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    with client.stream("char") as stream:
        channels = stream.open(3)
        stream.step(channels, "abc")
        ids = [stream.session_id(channel) for channel in channels]
        server.crash(1)
        client.attach(ids[1]).step("j")
        server.kill_before_frames.add(1)
        reply = stream.step(channels, "def", strict=False)
        assert reply.channels.tolist() == [channels[0], channels[2]]
        (failure,) = reply.failures
        assert isinstance(failure.error, cellar.StaleBranchError)
        assert server.sessions[ids[0]].read == [0, 3]
        assert server.sessions[ids[1]].read == [9]
        stream.detach([channels[1]])
        assert stream.attach([ids[1]]).tolist() == [channels[1]]
        assert stream.step(channels, "ghi").positions.tolist() == [3, 2, 3]


def test_a_channel_that_was_lost_leaves_nothing_to_the_next_session(
    client: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    with client.stream("char") as stream:
        (channel,) = stream.open(1)
        for text in "abc":
            stream.step([channel], text)
        client.attach(stream.session_id(channel)).close()
        server.kill_before_frames.add(3)
        assert stream.step([channel], "d", strict=False).failures
        stream.detach([channel])
        other = client.session("char")
        other.step("jj")
        assert stream.attach([other.id]).tolist() == [channel]
        assert stream.step([channel], "j").positions.tolist() == [3]
        server.crash_after_frames[5] = 3  # of which the stream knows the last alone
        reply = stream.step([channel], "j", strict=False)
        assert isinstance(reply.failures[0].error, cellar.StaleBranchError)
        assert server.sessions[other.id].read == [9]


def test_others_go_on_with_it_while_a_stream_plays(
    client: cellar.Client, server: FakeServer
) -> None:
    server.undurable_steps = LOST
    with client.stream("char") as stream:
        channels = stream.open(2)
        stream.step(channels, "ab")
        ids = [stream.session_id(channel) for channel in channels]
        attach = server._attach

        def attach_and_step(*args: object) -> object:
            found = list(attach(*args))  # type: ignore[arg-type]
            if not server.sessions[ids[1]].read:
                server.step(server.sessions[ids[1]], [9], None, cellar.v1.values_pb2.Outputs())
            return iter(found)

        server.crash_after_frames[2] = 2
        server._attach = attach_and_step  # type: ignore[method-assign, assignment]
        calls = server.calls["Stream"]
        reply = stream.step(channels, "cd", strict=False)
        assert server.calls["Stream"] == calls + 1
        assert reply.channels.tolist() == [channels[0]]
        assert isinstance(reply.failures[0].error, cellar.StaleBranchError)
        assert server.sessions[ids[1]].read == [9]
        stream.detach([channels[1]])  # the number is free on the server, too
        assert stream.attach([ids[1]]).tolist() == [channels[1]]
        assert stream.step(channels, "ef").positions.tolist() == [3, 2]


def test_a_server_that_is_busy_is_asked_again(client: cellar.Client, server: FakeServer) -> None:
    server.undurable_steps = LOST
    with client.stream("char") as stream:
        channels = stream.open(2)
        stream.step(channels, "ab")
        step, told = server.step, []

        def busy(*args: object, **options: object) -> object:
            told.append(args)
            if len(told) == 4:  # the second row of what is played
                raise Refusal("LOADING", retry_after_s=0.01)
            return step(*args, **options)  # type: ignore[arg-type]

        server.step = busy  # type: ignore[method-assign]
        server.crash_after_frames[2] = 2
        reply = stream.step(channels, "cd")
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([0, 2]), run([1, 3])]


def test_nothing_is_kept_that_is_durable(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        for lag in (None, 0):
            server.undurable_steps = lag
            session.step("abc")
            session.generate("d", max_steps=3).text()
            assert not session._protocol._tail._pieces
        server.undurable_steps = 2
        session.step("abc")
        session.step("d")
        session.step("ef")
        assert session._protocol._tail._pieces[0][0] == session.position - 2
    for lag in (None, 0, 2):
        server.undurable_steps = lag
        with client.stream("char") as stream:
            channels = stream.open(3)
            for _ in range(6):
                stream.step(channels, "abc")
            assert len(stream._in_flight.tail._kept) == (lag or 0)


async def test_the_asynchronous_client_does_the_same(server: FakeServer) -> None:
    server.undurable_steps = LOST
    async with cellar.aio.connect(server.address, retry=QUICK, timeout_s=10) as client:
        session = await client.session("char")
        await session.step("abc")
        server.crash(2)
        prediction = await session.step("d")
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [run([0, 1, 2, 3])]
        async with await client.stream("char") as stream:
            channels = await stream.open(2)
            await stream.step(channels, "ab")
            await stream.send(channels, "cd")
            server.crash_after_frames[server.frames + 1] = 1
            await stream.send(channels, "ef")
            replies = [reply async for reply in stream.replies()]
            assert not any(reply.failures for reply in replies)
            raw = replies[-1].predictions.raw
            assert raw is not None
            assert raw[:, 0].tolist() == [run([0, 2, 4]), run([1, 3, 5])]


def test_wide_inputs_are_sent_in_small_pieces() -> None:
    rows: list[tuple[int, tail.Data]] = [(n, np.full((1, 5000), n)) for n in range(10)]
    found = tail.between(rows, 0, 10)
    assert [(position, len(part)) for position, part in found] == [(0, 3), (3, 3), (6, 3), (9, 1)]


@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    texts=st.lists(st.booleans(), min_size=12, max_size=12),
    data=st.data(),
)
def test_what_is_sent_once_more_is_what_was_read(
    sizes: list[int], texts: list[bool], data: st.DataObject
) -> None:
    pieces: list[tuple[int, tail.Data]] = []
    at = 7
    for size, text in zip(sizes, texts, strict=False):
        steps = np.arange(at, at + size)
        pieces.append((at, "".join(map(chr, steps + 100)) if text else steps))
        at += size
    start = data.draw(st.integers(7, at))
    stop = data.draw(st.integers(start, at))
    found = tail.between(pieces, start, stop)
    whole: list[int] = []
    for position, part in found:
        assert position == start + len(whole)
        assert len(part) <= 256
        whole += [ord(each) - 100 for each in part] if isinstance(part, str) else part.tolist()
    assert whole == list(range(start, stop))
    if start < stop:
        gone = data.draw(st.integers(0, len(pieces) - 1))
        first, size = pieces[gone][0], sizes[gone]
        del pieces[gone]
        if first < stop and first + size > start:
            with pytest.raises(LookupError):
                tail.between(pieces, start, stop)


def test_a_tail_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST_KEPT", 80)
    found = tail.Tail()
    for position in range(0, 40, 4):
        found.add(position, "abcd", 0)
    assert found.between(32, 40) == [(32, "abcdabcd")]
    with pytest.raises(LookupError):
        found.between(28, 40)
    found.moved(38)
    with pytest.raises(LookupError):
        found.between(36, 40)
