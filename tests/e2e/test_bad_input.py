"""Bad input: a typed error that says what is wrong and where, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import cellar

START: dict[str, cellar.StepInputs] = {"letters": "abc", "prices": [100.0, 101.0, 99.5]}
AFTER: dict[str, cellar.StepInputs] = {"letters": "d", "prices": [102.0]}


@pytest.fixture
def sessions(client: cellar.Client) -> Iterator[dict[str, cellar.Session]]:
    """Sessions that have read something."""
    opened = {name: client.session(name) for name in START}
    for name, session in opened.items():
        session.step(START[name])
    yield opened
    for session in opened.values():
        session.close()


def expect_untouched(client: cellar.Client, session: cellar.Session) -> None:
    """The session is where it was, on both sides, and goes on as one that met no error."""
    name = session.model.name
    assert session.position == 3
    assert session.refresh().position == 3
    with client.session(name) as other:
        other.step(START[name])
        expected = other.step(AFTER[name], raw=True).raw
    got = session.step(AFTER[name], raw=True).raw
    assert expected is not None
    assert got is not None
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "inputs", "field", "row", "words"),
    [
        ("letters", "abÉc", "inputs.text", 2, "'É' (U+00C9) is not among the model's 27"),
        ("letters", "ab\U0001f600", "inputs.text", 2, "U+1F600"),
        ("letters", [1, 2, 27], "inputs.tokens", 2, "27 is outside 0..26"),
        ("letters", [-1], "inputs.tokens", 0, "-1 is outside"),
        ("prices", [1.0, np.nan], "inputs.values", 1, "Close is nan"),
        ("prices", [1.0, 2.0, np.inf], "inputs.values", 2, "finite"),
        ("prices", [1e39], "inputs.values", 0, "finite"),
        ("prices", [1.0, -2.0], "inputs.values", 1, "above 0"),
        ("letters", "a" * 10_001, "inputs", None, "limit of 10000"),
        # Refused before they are sent:
        ("letters", "", None, None, "empty"),
        ("prices", [], None, None, "empty"),
        ("prices", [[1.0, 2.0]], "inputs", None, "1 value(s) per step"),
        ("prices", "abc", None, None, "reads numbers"),
    ],
)
def test_a_bad_step(
    name: str,
    inputs: cellar.StepInputs,
    field: str | None,
    row: int | None,
    words: str,
    client: cellar.Client,
    sessions: dict[str, cellar.Session],
) -> None:
    with pytest.raises(cellar.BadInputError) as caught:
        sessions[name].step(inputs)
    assert (caught.value.field, caught.value.row) == (field, row)
    assert words in str(caught.value)
    expect_untouched(client, sessions[name])


@pytest.mark.parametrize(
    ("name", "ask", "kind", "field"),
    [
        ("letters", lambda s: s.step("a", top_k=1000), cellar.BadInputError, "outputs.top_k"),
        (
            "letters",
            lambda s: s.step("a", quantiles=[0.5]),
            cellar.BadInputError,
            "outputs.quantiles",
        ),
        (
            "prices",
            lambda s: s.step(1.0, quantiles=[1.5]),
            cellar.BadInputError,
            "quantiles[0]",
        ),
        ("prices", lambda s: s.step(1.0, top_k=2), cellar.BadInputError, "outputs.top_k"),
        ("letters", lambda s: s.generate("aÉ").text(), cellar.BadInputError, "inputs.text"),
        (
            "letters",
            lambda s: s.generate("a", max_steps=0).text(),
            cellar.BadInputError,
            "max_steps",
        ),
        (
            "letters",
            lambda s: s.generate("a", temperature=-1).text(),
            cellar.BadInputError,
            "sampling.temperature",
        ),
        ("letters", lambda s: s.forecast(3), cellar.BadInputError, "session_id"),
        ("prices", lambda s: s.forecast(0), cellar.BadInputError, "horizon"),
        ("prices", lambda s: s.forecast(3, paths=201), cellar.BadInputError, "paths"),
        ("letters", lambda s: s.step("a" * 70_000), cellar.BadInputError, None),
    ],
)
def test_a_bad_request(
    name: str,
    ask: Callable[[cellar.Session], object],
    kind: type[cellar.CellarError],
    field: str | None,
    client: cellar.Client,
    sessions: dict[str, cellar.Session],
) -> None:
    with pytest.raises(kind) as caught:
        ask(sessions[name])
    assert caught.value.field == field, caught.value
    expect_untouched(client, sessions[name])


def test_what_is_not_there(client: cellar.Client) -> None:
    with pytest.raises(cellar.ModelUnknownError, match="there is: hello, letters, prices, slow"):
        client.session("nobody")
    with pytest.raises(cellar.ModelUnknownError, match="has 1, not 7"):
        client.session("letters", version=7)
    with pytest.raises(cellar.ModelUnknownError):
        client.stream("nobody")
    with pytest.raises(cellar.SessionUnknownError):
        client.attach("nobody")
    with client.session("letters") as session, pytest.raises(cellar.NotStartedError):
        session.generate().text()


def test_a_duplicate_open(client: cellar.Client, sessions: dict[str, cellar.Session]) -> None:
    first = sessions["letters"]
    with pytest.raises(cellar.SessionExistsError):
        client.session("letters", id=first.id)
    with pytest.raises(cellar.BadInputError, match="is open on letters/1"):
        client.session("prices", id=first.id, resume=True)
    assert client.session("letters", id=first.id, resume=True).position == 3
    expect_untouched(client, first)


def test_a_wrong_position(client: cellar.Client, sessions: dict[str, cellar.Session]) -> None:
    first = sessions["letters"]
    second, third = client.attach(first.id), client.attach(first.id)
    second.step("d")
    with pytest.raises(cellar.StepConflictError):
        first.step("e")
    second.step("e")
    for behind in (first, third):
        with pytest.raises(cellar.PositionMismatchError) as caught:
            behind.step("d")
        assert caught.value.position == 5
    assert first.refresh().position == 5
    assert first.step("f").position == 6


def test_a_step_after_close(client: cellar.Client) -> None:
    session = client.session("letters")
    session.close()
    for ask in (lambda: session.step("a"), session.refresh, lambda: session.generate("a").text()):
        with pytest.raises(cellar.SessionClosedError):
            ask()
    session.close()


def test_bad_rows_of_a_frame(client: cellar.Client, sessions: dict[str, cellar.Session]) -> None:
    for name, rows, words in (
        ("letters", ["ab", "aÉ", "c", "d"], "É"),
        ("letters", [[1], [1, 27], [2], [3]], "27 is outside"),
        ("prices", [[1.0], [2.0, np.nan], [3.0], [4.0]], "Close is nan"),
    ):
        with client.stream(name) as stream:
            channels = stream.open(4)
            client.attach(stream.session_id(channels[2])).close()
            with pytest.raises(cellar.RowsRefusedError) as caught:
                stream.step(channels, rows)
            bad, closed = caught.value.failures
            assert (bad.channel, closed.channel) == (channels[1], channels[2])
            assert isinstance(bad.error, cellar.BadInputError)
            assert words in str(bad.error)
            assert isinstance(closed.error, cellar.SessionClosedError)
            reply = caught.value.reply
            assert reply is not None
            assert reply.channels.tolist() == [channels[0], channels[3]]
            assert stream.positions(channels).tolist() == [len(rows[0]), 0, 0, 1]
            assert stream.step(channels[[0, 1, 3]], [rows[0]] * 3).positions.tolist() == [
                2 * len(rows[0]), len(rows[0]), 1 + len(rows[0])
            ]  # fmt: skip


def test_a_refusal_overtakes_earlier_frames(client: cellar.Client) -> None:
    with client.stream("slow", raw=True) as stream:
        channels = stream.open(2)
        frames = [stream.send(channels, ["abcd" * 20, "a"])]
        frames.append(stream.send(channels, ["É", "b"]))
        frames.append(stream.send(channels, ["efg", "c"]))
        replies = {reply.frame: reply for reply in stream.replies()}
        assert not replies[frames[0]].failures
        assert isinstance(replies[frames[1]].failures[0].error, cellar.BadInputError)
        assert isinstance(replies[frames[2]].failures[0].error, cellar.PositionMismatchError)
        assert stream.positions(channels).tolist() == [80, 3]
        assert stream.step(channels, ["hi", "hi"]).positions.tolist() == [82, 5]


@pytest.mark.parametrize("steps", [501, 20_000])
def test_an_oversized_frame(steps: int, client: cellar.Client) -> None:
    """Above the limit of steps per frame; above the limit of bytes per message."""
    with client.stream("letters") as stream:
        channels = stream.open(4)
        stream.step(channels, "abcd")
        with pytest.raises(cellar.BadInputError):
            stream.step(channels, ["a" * steps] * 4)
        assert stream.step(channels, "abcd").positions.tolist() == [2] * 4


def test_two_attaches_of_one_session(client: cellar.Client) -> None:
    with client.session("letters") as session, client.stream("letters") as stream:
        (first,) = stream.attach([session.id])
        (second,) = stream.attach([session.id])
        assert stream.step([first], "a").positions.tolist() == [1]
        with pytest.raises(cellar.RowsRefusedError) as caught:
            stream.step([second], "b")
        assert isinstance(caught.value.failures[0].error, cellar.StepConflictError)
