"""Streams: frames, refused rows, and breaks that lose and double nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellar
from tests.client.conftest import QUICK, repeatedly
from tests.client.fake import FakeServer, run


def test_frames(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char", top_k=2) as stream:
        channels = stream.open(300)
        ids = [number % 10 for number in range(300)]
        stream.step(channels, ids)
        reply = stream.step(channels, "abcdefghij" * 30)
        assert reply.channels.tolist() == channels.tolist()
        assert reply.positions.tolist() == [2] * 300
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([each, each]) for each in ids]
        assert reply.predictions.top_tokens is not None
        assert reply.predictions.top_tokens.shape == (300, 2)
        assert reply.predictions[7].position == 2
        assert len(server.sessions) == 300
    assert server.sessions == {}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), split=st.integers(0, 5), every_step=st.booleans())
def test_any_frames_equal_each_session_alone(
    client: cellar.Client, server: FakeServer, data: st.DataObject, split: int, every_step: bool
) -> None:
    server.split = split
    read: dict[int, list[int]] = {}
    with client.stream("char", every_step=every_step) as stream:
        channels = stream.open(6)
        for _ in range(data.draw(st.integers(1, 4))):
            subset = data.draw(
                st.lists(st.sampled_from(channels.tolist()), min_size=1, unique=True)
            )
            step = st.lists(st.integers(0, 9), min_size=1, max_size=4)
            rows = [data.draw(step) for _ in subset]
            if data.draw(st.booleans()):
                server.kill_after_frames.add(server.frames + 1)
            reply = stream.step(subset, rows)
            states = []
            for channel, row in zip(subset, rows, strict=True):
                states += [run(read.get(channel, []) + row[: at + 1]) for at in range(len(row))]
                if not every_step:
                    states = states[: len(states) - len(row)] + states[-1:]
                read[channel] = read.get(channel, []) + row
            assert reply.channels.tolist() == subset
            assert reply.positions.tolist() == [len(read[channel]) for channel in subset]
            assert reply.predictions.raw is not None
            assert reply.predictions.raw[:, 0].tolist() == states
            assert reply.counts.tolist() == [len(row) if every_step else 1 for row in rows]


def test_forms_of_values(client: cellar.Client) -> None:
    with client.stream("series", raw=True) as stream:
        channels = stream.open(3)
        stream.step(channels, [1.0, 2.0, 3.0])
        reply = stream.step(channels, np.array([[4, 5], [6, 7], [8, 9]]))
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [
            run([1, 4, 5]),
            run([2, 6, 7]),
            run([3, 8, 9]),
        ]
        stream.step(channels, [[1.0], [2.0, 3.0], [4.0]])
        assert stream.positions(channels).tolist() == [4, 5, 4]
    with client.stream("wide") as stream:
        channels = stream.open(2)
        stream.step(channels, [[1.0, 2.0], [3.0, 4.0]])
        reply = stream.step(channels, np.ones((2, 3, 2)))
        assert reply.positions.tolist() == [4, 4]


def test_attach_and_detach(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    session.step("b")
    with client.stream("char") as stream:
        (channel,) = stream.attach([session.id])
        assert stream.session_id(channel) == session.id
        reply = stream.step([channel], "c")
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[0, 0] == run([1, 2])
        stream.detach([channel])
        with pytest.raises(cellar.BadInputError):
            stream.step([channel], "c")
        assert stream.attach([session.id]).tolist() == [channel]  # the number is free again
        with pytest.raises(cellar.RowsRefusedError) as caught:
            stream.attach(["nobody"])
        assert isinstance(caught.value.failures[0].error, cellar.SessionUnknownError)
    assert session.id in server.sessions


def test_refused_rows_do_not_disturb_the_others(client: cellar.Client) -> None:
    with client.stream("char") as stream:
        channels = stream.open(3)
        with pytest.raises(cellar.RowsRefusedError) as caught:
            stream.step(channels, [1, 13, 3])
        (failure,) = caught.value.failures
        assert failure.channel == channels[1]
        assert failure.session_id == stream.session_id(channels[1])
        assert isinstance(failure.error, cellar.BadInputError)
        reply = caught.value.reply
        assert reply is not None
        assert reply.channels.tolist() == [channels[0], channels[2]]
        assert stream.positions(channels).tolist() == [1, 0, 1]
        reply = stream.step(channels, [13, 13, 13], strict=False)
        assert len(reply.failures) == 3
        assert not len(reply.channels)
        reply = stream.step(channels, [4, 5, 6])
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([1, 4]), run([5]), run([3, 6])]


def test_a_refused_step_takes_those_built_on_it_along(client: cellar.Client) -> None:
    with client.stream("char") as stream:
        channels = stream.open(2)
        stream.send(channels, [1, 13])
        stream.send(channels, [2, 2])
        first, second = stream.receive(), stream.receive()
        assert isinstance(first.failures[0].error, cellar.BadInputError)
        assert isinstance(second.failures[0].error, cellar.PositionMismatchError)
        assert stream.positions(channels).tolist() == [2, 0]
        reply = stream.step(channels, [3, 3])
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([1, 2, 3]), run([3])]


def test_a_refusal_that_overtakes_an_earlier_step(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char") as stream:
        channels = stream.open(2)
        server.hold_frames.add(0)
        first = stream.send(channels, [1, 1])
        second = stream.send(channels, [13, 2])
        replies = {reply.frame: reply for reply in (stream.receive(), stream.receive())}
        assert list(replies) == [second, first]
        assert not replies[first].failures
        assert len(replies[first].channels) == 2
        (failure,) = replies[second].failures
        assert isinstance(failure.error, cellar.BadInputError)
        assert stream.positions(channels).tolist() == [1, 2]
        reply = stream.step(channels, [3, 3])
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([1, 3]), run([1, 2, 3])]


@pytest.mark.parametrize(
    ("channels", "inputs"),
    [([0, 0], "ab"), ([0], "ab"), ([7], "a"), ([0, 1], [[1], "a"]), ([], []), ([-1], "a")],
)
def test_malformed_frames_are_refused_unsent(
    channels: list[int], inputs: cellar.FrameInputs, client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char") as stream:
        stream.open(2)
        with pytest.raises(cellar.BadInputError):
            stream.step(channels, inputs)
        assert server.frames == 0
        assert stream.positions([0, 1]).tolist() == [0, 0]


@pytest.mark.parametrize("applied", [True, False])
def test_resume_after_a_break(applied: bool, client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(50)
        stream.step(channels, np.full(50, 1))
        (server.kill_after_frames if applied else server.kill_before_frames).add(1 + applied)
        reply = stream.step(channels, np.arange(50) % 10)
        assert server.calls["Stream"] == 2
        assert reply.predictions.replayed.tolist() == [applied] * 50
        reply = stream.step(channels, np.full(50, 2))
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([1, n % 10, 2]) for n in range(50)]


def test_resume_when_an_attach_is_answered_in_parts(
    client: cellar.Client, server: FakeServer
) -> None:
    server.split = 7
    with client.stream("char") as stream:
        channels = stream.open(50)
        del server.sessions[stream.session_id(17)]
        server.kill_before_frames.add(0)
        reply = stream.step(channels, np.arange(50) % 10, strict=False)
        assert [failure.channel for failure in reply.failures] == [17]
        assert reply.channels.tolist() == [n for n in range(50) if n != 17]


def test_resume_in_mid_open(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        server.fail("attach")
        channels = stream.open(5)
        assert stream.step(channels, "abcde").positions.tolist() == [1] * 5
        assert len(server.sessions) == 5
    assert server.sessions == {}


def test_resume_with_frames_in_flight(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(4)
        server.kill_after_frames.add(2)
        for n in range(5):
            stream.send(channels, [n, n, n, n])
        replies = sorted(stream.replies(), key=lambda reply: reply.frame)
        assert [reply.frame for reply in replies] == [0, 1, 2, 3, 4]
        assert all(not reply.failures for reply in replies)
        assert replies[1].predictions.replayed.all()
        raw = replies[-1].predictions.raw
        assert raw is not None
        assert raw[:, 0].tolist() == [run([0, 1, 2, 3, 4])] * 4


def test_an_applied_step_whose_reply_is_gone(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        (channel,) = stream.open(1)
        stream.step([channel], "a")
        server.silent = True
        stream.send([channel], "b")
        stream.send([channel], "c")
        other = client.attach(stream.session_id(channel))
        while other.refresh().position < 2:
            time.sleep(0.01)
        other.step("c")  # what the second frame would have done
        server.silent = False
        server.release.set()
        replies = {reply.frame: reply for reply in stream.replies()}
        (failure,) = replies[1].failures
        assert isinstance(failure.error, cellar.ReplyLostError)
        assert failure.error.position == 3
        assert replies[2].positions.tolist() == [3]
        assert stream.step([channel], "d").positions.tolist() == [4]


def test_a_session_that_went_away(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(2)
        client.attach(stream.session_id(channels[0])).close()
        server.kill_before_frames.add(0)
        reply = stream.step(channels, "ab", strict=False)
        assert isinstance(reply.failures[0].error, cellar.SessionClosedError)
        assert reply.channels.tolist() == [channels[1]]
        with pytest.raises(cellar.SessionClosedError):
            stream.step(channels, "ab")
        assert stream.step(channels[1:], "b").positions.tolist() == [2]


def test_a_killed_server_is_told_soon_and_may_come_back(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char") as stream:
        channels = stream.open(3)
        stream.step(channels, "abc")
        server.stop()
        before = time.monotonic()
        with pytest.raises(cellar.ConnectionLostError):
            stream.step(channels, "def")
        assert time.monotonic() - before < 3
        assert stream.positions(channels).tolist() == [1, 1, 1]
        server.start()
        reply = repeatedly(lambda: stream.step(channels, "def"))
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([n, n + 3]) for n in range(3)]


def test_a_silent_server_does_not_hang(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(2)
        server.silent = True
        with pytest.raises(cellar.DeadlineExceededError):
            stream.step(channels, "ab", timeout_s=0.2)
        assert stream.positions(channels).tolist() == [0, 0]
        server.silent = False
        server.release.set()
        reply = stream.step(channels, "ab")  # the same once more: applied once
        assert reply.predictions.replayed.all()
        assert reply.positions.tolist() == [1, 1]


def test_a_frame_that_failed_when_half_of_it_was_answered_is_repeated_safely(
    hasty: cellar.Client, server: FakeServer
) -> None:
    with hasty.stream("char") as stream:
        channels = stream.open(4)
        stream.step(channels, "abcd")
        server.split = 2
        server.break_within.add(1)
        with pytest.raises(cellar.ConnectionLostError):
            stream.step(channels, "efgh")
        assert stream.positions(channels).tolist() == [1] * 4
        reply = stream.step(channels, "efgh")
        assert reply.predictions.replayed.all()
        assert reply.positions.tolist() == [2] * 4
        assert reply.predictions.raw is not None
        assert reply.predictions.raw[:, 0].tolist() == [run([n, n + 4]) for n in range(4)]


def test_a_frame_that_timed_out_when_half_of_it_was_answered_is_repeated_safely(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char") as stream:
        channels = stream.open(4)
        server.split = 2
        server.stall_within.add(0)
        with pytest.raises(cellar.DeadlineExceededError):
            stream.step(channels, "abcd", timeout_s=0.3)
        assert stream.positions(channels).tolist() == [0] * 4
        server.release.set()
        for expected in (1, 2):  # what was forgotten does not come between them
            reply = stream.step(channels, "abcd")
            assert reply.positions.tolist() == [expected] * 4
            assert reply.predictions.replayed.tolist() == [expected == 1] * 4


def test_what_was_sent_ahead_goes_back_whether_it_was_answered_or_not(
    hasty: cellar.Client, server: FakeServer
) -> None:
    with hasty.stream("char") as stream:
        channels = stream.open(2)
        server.split = 1
        server.stall_within.add(0)
        stream.send(channels, "ab")
        with pytest.raises(cellar.DeadlineExceededError):
            stream.receive(timeout_s=0.3)
        stream.send(channels, "cd")
        server.stop()
        with pytest.raises(cellar.ConnectionLostError):
            stream.receive()
        assert stream.positions(channels).tolist() == [0, 0]
        server.start()
        reply = repeatedly(lambda: stream.step(channels, "ab"))
        assert reply.positions.tolist() == [1, 1]
        assert reply.predictions.replayed.all()


def test_retries_of_a_stream_come_to_an_end(client: cellar.Client, server: FakeServer) -> None:
    with client.stream("char") as stream:
        channels = stream.open(1)
        server.kill_before_frames.update([0])
        server.fail("Stream", count=99, unavailable=True)
        with pytest.raises(cellar.ConnectionLostError):
            stream.step(channels, "a")
        assert server.calls["Stream"] == QUICK.attempts
        server.fail("Stream", count=0)
        assert stream.step(channels, "a").positions.tolist() == [1]


def test_a_closed_stream_says_so(client: cellar.Client) -> None:
    stream = client.stream("char")
    channels = stream.open(1)
    stream.close()
    with pytest.raises(cellar.ClosedError):
        stream.step(channels, "a")
    with pytest.raises(cellar.ModelUnknownError):
        client.stream("nobody")


def test_a_stream_that_is_closed_tells_what_became_of_its_frames(
    client: cellar.Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellar.sync.exchange.CLEANUP_TIMEOUT_S", 20)
    stream = client.stream("char")
    channels = stream.open(2)
    numbers = [stream.send(channels, [n, n]) for n in range(3)]
    stream.close()
    assert [reply.frame for reply in stream.replies()] == numbers, "all were answered in time"
    with pytest.raises(cellar.ClosedError) as caught:
        stream.receive()
    assert not caught.value.ambiguous


def test_a_stream_that_is_closed_tells_which_frames_had_no_answer(
    client: cellar.Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellar.sync.exchange.CLEANUP_TIMEOUT_S", 0.3)
    stream = client.stream("char")
    channels = stream.open(1)
    session_id = stream.session_id(channels[0])
    answered = stream.send(channels, "a")
    assert stream.receive().frame == answered
    server.silent = True
    lost = [stream.send(channels, "b"), stream.send(channels, "c")]
    stream.close()
    for ask in (stream.receive, lambda: list(stream.replies())):
        with pytest.raises(cellar.UnansweredError, match=r"2 frames.*\(1, 2\).*attach") as caught:
            ask()
        assert caught.value.frames == tuple(lost)
        assert caught.value.ambiguous
    assert client.attach(session_id).position == 2, "which is how one learns of the first"


def test_a_refusal_for_a_channel_that_was_let_go_leaves_its_next_session_alone(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.stream("char") as stream:
        (channel,) = stream.open(1)
        server.hold_frames.add(0)
        stream.send([channel], [13])  # refused, and told with the answer to the next frame
        stream.detach([channel])
        session = client.session("char")
        session.step("abc")
        assert stream.attach([session.id]).tolist() == [channel]
        stream.send([channel], "d")
        replies = {reply.frame: reply for reply in stream.replies()}
        assert isinstance(replies[0].failures[0].error, cellar.BadInputError)
        assert replies[1].positions.tolist() == stream.positions([channel]).tolist() == [4]
