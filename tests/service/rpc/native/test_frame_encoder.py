"""Replies that are written as bytes, read back with the messages that clients have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellar.v1 import session_pb2 as pb
from service.engine.streams.frame import Refusal, Reply, same_refusal
from service.engine.streams.stream import reply_for_each
from service.engine.work.columns import ANSWERS, Answers
from service.engine.work.replies import SingleReplies
from service.errors import OverloadedError, PositionMismatchError
from service.rpc.native import frame_encoder

MOST_REFUSALS = 10
TOKENS = ("argmax", "sampled_tokens", "top_tokens")
PAIRED = {"top_tokens": "top_probabilities"}  # columns of the same width, wanted together
WIDE = ("top_tokens", "top_probabilities", "probabilities", "quantiles", "raw")
KINDS = sorted(set(ANSWERS) - set(PAIRED.values()))

channels = st.one_of(st.sampled_from([0, 2**32 - 1]), st.integers(0, 2**32 - 1))
positions = st.one_of(st.sampled_from([0, 2**63 - 1]), st.integers(0, 2**63 - 1))
numbers = st.one_of(st.sampled_from([0, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
some_rows = st.one_of(st.integers(1, 12), st.integers(1, 300))


def make_answers(rows: int, wanted: set[str], width: int, seed: int) -> Answers:
    """Answers with any numbers in them, extremes among them."""
    noise = np.random.default_rng(seed)
    found = {}
    for name in (*wanted, *(PAIRED[name] for name in wanted if name in PAIRED)):
        shape = (rows, width) if name in WIDE else (rows,)
        bits = noise.integers(-(2**31), 2**31, shape, np.int32)
        bits.flat[0] = noise.choice([-(2**31), -1, 0, 2**31 - 1])
        numbers = bits.view(np.float32)
        found[name] = bits if name in TOKENS else np.where(np.isnan(numbers), np.inf, numbers)
    return Answers(found)


@st.composite
def answers(draw: st.DrawFn, rows: int) -> Answers:
    """Answers of some kinds, at least one."""
    wanted = draw(st.sets(st.sampled_from(KINDS), min_size=1))
    return make_answers(rows, wanted, draw(st.integers(1, 40)), draw(st.integers(0, 2**32)))


@st.composite
def single_replies(draw: st.DrawFn) -> SingleReplies:
    rows = draw(some_rows)
    return SingleReplies(
        channels=draw(st.lists(channels, min_size=rows, max_size=rows)),
        numbers=draw(st.lists(numbers, min_size=rows, max_size=rows)),
        positions=np.array(draw(st.lists(positions, min_size=rows, max_size=rows)), np.int64),
        answers=draw(answers(rows)),
    )


def read(message: bytes) -> pb.StreamReply:
    response = pb.StreamResponse.FromString(message)
    assert response.WhichOneof("message") == "reply"
    return response.reply


def check_predictions(reply: pb.StreamReply, expected: Answers) -> None:
    """Every column holds the numbers that were answered, bit for bit, and no other does."""
    for name in ANSWERS:
        column = getattr(expected, name)
        sent = getattr(reply.predictions, name)
        if column is None:
            assert not len(sent), name
        else:
            assert np.array(sent, column.dtype).tobytes() == column.tobytes(), name
    assert not reply.predictions.argmax_symbols


@given(single_replies())
@settings(max_examples=150, deadline=None)
def test_single_replies_say_what_was_answered(rows: SingleReplies) -> None:
    messages = frame_encoder.single_replies(rows)
    assert len(messages) == len(rows.channels)
    for row, message in enumerate(messages):
        reply = read(message)
        assert list(reply.channels) == [rows.channels[row]]
        assert list(reply.positions) == [rows.positions[row]]
        assert reply.frame == rows.numbers[row]
        check_predictions(reply, rows.answers.rows(row, row + 1))
        assert not reply.counts
        assert not reply.replayed
        assert not reply.errors


@given(single_replies())
@settings(max_examples=100, deadline=None)
def test_many_single_replies_are_the_messages_that_single_ones_are(rows: SingleReplies) -> None:
    together = frame_encoder.single_replies(rows)
    for message, reply in zip(together, reply_for_each(rows), strict=True):
        (alone,) = frame_encoder.replies(reply, at_once=MOST_REFUSALS)
        # Not the bytes: a number of 0 may be left out. What clients read is the same.
        assert read(message).SerializeToString(deterministic=True) == read(alone).SerializeToString(
            deterministic=True
        )


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 6, 300])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_output_is_laid_out_well(name: str, rows: int) -> None:
    found = SingleReplies(
        channels=(np.array([2**32 - rows + row for row in range(rows)])).tolist(),
        numbers=(np.array([2**64 - rows + row for row in range(rows)], np.uint64)).tolist(),
        positions=np.array([2**63 - rows + row for row in range(rows)]),
        answers=make_answers(rows, {name}, 5, rows),
    )
    for row, message in enumerate(frame_encoder.single_replies(found)):
        reply = read(message)
        assert (reply.channels[0], reply.positions[0], reply.frame) == (
            2**32 - rows + row,
            2**63 - rows + row,
            2**64 - rows + row,
        )
        check_predictions(reply, found.answers.rows(row, row + 1))


@pytest.mark.parametrize("width", [1, 27, 31, 32, 96, 4000, 5000])
def test_lengths_of_one_byte_and_of_several(width: int) -> None:
    raw = np.random.default_rng(0).normal(size=(8, width)).astype(np.float32)
    rows = SingleReplies(
        channels=(np.arange(8)).tolist(),
        numbers=(np.arange(8, dtype=np.uint64)).tolist(),
        positions=np.arange(8),
        answers=Answers.of(
            raw=raw, probabilities=raw[:, ::-1], argmax=raw.argmax(axis=1).astype("i4")
        ),
    )
    for row, message in enumerate(frame_encoder.single_replies(rows)):
        check_predictions(read(message), rows.answers.rows(row, row + 1))


def test_columns_that_are_not_contiguous_are_sent_in_order() -> None:
    wide = np.arange(60, dtype=np.float32).reshape(6, 10)
    every_other = Answers.of(quantiles=wide[:, ::2], raw=wide.T[:6, :6])
    rows = SingleReplies(
        channels=(np.arange(12)[::2]).tolist(),
        numbers=(np.arange(6, dtype=np.uint64)).tolist(),
        positions=np.arange(6)[::-1],
        answers=every_other,
    )
    for row, message in enumerate(frame_encoder.single_replies(rows)):
        reply = read(message)
        assert (reply.channels[0], reply.positions[0]) == (2 * row, 5 - row)
        check_predictions(reply, every_other.rows(row, row + 1))


@st.composite
def frame_replies(draw: st.DrawFn) -> Reply:
    """Rows of a frame: one prediction each, or several for each; perhaps replayed."""
    rows = draw(some_rows)
    counts = None
    total = rows
    if draw(st.booleans()):
        counts = np.array(draw(st.lists(st.integers(1, 5), min_size=rows, max_size=rows)))
        total = int(counts.sum())
    return Reply(
        frame=draw(numbers),
        channels=np.array(draw(st.lists(channels, min_size=rows, max_size=rows)), np.int64),
        positions=np.array(draw(st.lists(positions, min_size=rows, max_size=rows)), np.int64),
        counts=counts,
        answers=draw(answers(total)),
        replayed=draw(st.booleans()),
    )


@given(frame_replies())
@settings(max_examples=100, deadline=None)
def test_replies_to_frames_say_what_was_answered(result: Reply) -> None:
    (message,) = frame_encoder.replies(result, at_once=MOST_REFUSALS)
    reply = read(message)
    assert reply.frame == result.frame
    assert list(reply.channels) == result.channels.tolist()
    assert list(reply.positions) == result.positions.tolist()
    assert list(reply.counts) == ([] if result.counts is None else result.counts.tolist())
    assert list(reply.replayed) == (result.channels.tolist() if result.replayed else [])
    assert result.answers is not None
    check_predictions(reply, result.answers)
    assert not reply.errors


@pytest.mark.parametrize("count", [1, 4, 5, 300])
def test_rows_refused_for_the_same_are_as_if_each_was_said(count: int) -> None:
    error = OverloadedError("full: try again in 1.25 s", retry_after_s=1.25)
    refusals = same_refusal(np.arange(count) + 7, np.arange(count) * 3, error)
    none = np.empty(0, np.int64)
    result = Reply(frame=9, channels=none, positions=none, refusals=tuple(refusals))
    (message,) = frame_encoder.replies(result, at_once=1000)
    reply = read(message)
    assert list(reply.errors) == [frame_encoder.row_error(refusal) for refusal in refusals]
    assert reply.frame == 9
    for number, row in enumerate(reply.errors):
        assert (row.channel, row.position, row.code) == (number + 7, number * 3, 8)
        assert row.retry_delay.ToTimedelta().total_seconds() == 1.25


@pytest.mark.parametrize("count", [1, 9, 10, 11, 25])
def test_refusals_come_in_messages_that_are_quickly_made(count: int) -> None:
    refusals = tuple(
        Refusal(channel=n, error=PositionMismatchError(n, 3), position=3)
        if n % 2
        else Refusal(channel=2**32 - 1 - n, error=OverloadedError("no room"))
        for n in range(count)
    )
    none = np.empty(0, np.int64)
    result = Reply(
        frame=2**64 - 1,
        channels=none,
        positions=none,
        counts=None,
        answers=None,
        replayed=False,
        refusals=refusals,
    )
    replies = [read(m) for m in frame_encoder.replies(result, at_once=MOST_REFUSALS)]
    assert len(replies) == -(-count // MOST_REFUSALS)
    found = [error for reply in replies for error in reply.errors]
    assert [error.channel for error in found] == [refusal.channel for refusal in refusals]
    assert [error.reason for error in found] == [refusal.error.reason for refusal in refusals]
    assert [error.HasField("position") for error in found] == [n % 2 == 1 for n in range(count)]
    assert {reply.frame for reply in replies} == {2**64 - 1}
    assert not any(reply.channels for reply in replies)
    assert not any(reply.HasField("predictions") for reply in replies)
