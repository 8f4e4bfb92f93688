"""Sessions: what comes back, and that a step happens once."""

from __future__ import annotations

import time

import grpc
import numpy as np
import pytest

import cellar
from tests.client.conftest import QUICK, repeatedly
from tests.client.fake import CODES, FakeServer, Refusal, run

KINDS = {
    "SESSION_UNKNOWN": cellar.SessionUnknownError,
    "SESSION_EXPIRED": cellar.SessionExpiredError,
    "SESSION_CLOSED": cellar.SessionClosedError,
    "MODEL_UNKNOWN": cellar.ModelUnknownError,
    "SESSION_EXISTS": cellar.SessionExistsError,
    "BAD_INPUT": cellar.BadInputError,
    "STEP_CONFLICT": cellar.StepConflictError,
    "POSITION_MISMATCH": cellar.PositionMismatchError,
    "NOT_STARTED": cellar.NotStartedError,
    "MODEL_UNAVAILABLE": cellar.ModelUnavailableError,
    "NOT_STREAMABLE": cellar.NotStreamableError,
    "OVERLOADED": cellar.OverloadedError,
    "SESSION_LIMIT": cellar.SessionLimitError,
    "LOADING": cellar.LoadingError,
    "DRAINING": cellar.DrainingError,
    "REPLY_LOST": cellar.ReplyLostError,
    "STALE_BRANCH": cellar.StaleBranchError,
    "STORE_FULL": cellar.StoreFullError,
    "STORE_UNAVAILABLE": cellar.StoreUnavailableError,
    "MODEL_CHANGED": cellar.ModelChangedError,
    "UNAUTHENTICATED": cellar.UnauthenticatedError,
    "PERMISSION_DENIED": cellar.PermissionDeniedError,
    "QUOTA_EXCEEDED": cellar.QuotaExceededError,
    "HISTORY_MISSING": cellar.HistoryMissingError,
    "SNAPSHOT_INVALID": cellar.SnapshotInvalidError,
    "STATE_MISMATCH": cellar.StateMismatchError,
    "SESSION_MOVING": cellar.SessionMovingError,
    "STATE_LOST": cellar.StateLostError,
    "INTERNAL": cellar.InternalError,
}


def test_models(client: cellar.Client) -> None:
    assert [model.name for model in client.models()] == ["char", "series", "wide"]
    model = client.model("char")
    assert "".join(model.vocabulary) == "abcdefghij"
    assert model.input is cellar.InputKind.TOKENS
    assert model.provenance == {"seed": 7}


def test_step_returns_all_that_was_asked(client: cellar.Client) -> None:
    with client.session("char") as session:
        prediction = session.step(
            "abc", top_k=2, probabilities=True, sample=cellar.Sampling(seed=3), quantiles=[0.5]
        )
        state = run([0, 1, 2])
        assert (prediction.position, session.position) == (3, 3)
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [state]
        assert prediction.argmax == state % 10
        assert prediction.symbol == "abcdefghij"[state % 10]
        assert [each.token for each in prediction.top] == [state % 10, (state + 1) % 10]
        assert prediction.top[0].symbol == prediction.symbol
        assert prediction.probabilities is not None
        assert prediction.probabilities.shape == (10,)
        assert prediction.sample == (state + 3) % 10
        assert prediction.quantiles is not None
        assert prediction.quantiles.tolist() == [state + 50]
        assert not prediction.replayed


def test_the_model_decides_what_a_number_is(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        session.step(1)
        assert server.requests[-1].inputs.tokens.ids == [1]
    with client.session("series") as session:
        session.step(1)
        assert server.requests[-1].inputs.values.data == [1.0]
    with client.session("wide") as session:
        session.step([1, 2])
        session.step(np.ones((3, 2)))
        assert session.position == 4


def test_every_step(client: cellar.Client) -> None:
    with client.session("char") as session:
        session.step("a")
        predictions = session.steps("bcd")
        assert predictions.raw is not None
        assert predictions.raw[:, 0].tolist() == [run([0, 1]), run([0, 1, 2]), run([0, 1, 2, 3])]
        assert predictions.positions.tolist() == [2, 3, 4]
        assert predictions[-1].position == 4
        assert [each.argmax for each in predictions] == [
            run([0, 1, 2, 3][:n]) % 10 for n in (2, 3, 4)
        ]


def test_peek_changes_nothing(client: cellar.Client) -> None:
    with client.session("char") as session:
        session.step("b")
        peeked = session.peek("c")
        assert session.position == peeked.position == 1
        stepped = session.step("c")
        assert peeked.raw is not None
        assert stepped.raw is not None
        assert peeked.raw.tolist() == stepped.raw.tolist()


def test_feed_cuts_and_adds_nothing(client: cellar.Client, server: FakeServer) -> None:
    values = list(range(1, 10))
    with client.session("series") as session:
        prediction = session.feed(values, chunk_steps=4)
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [run(values)]
        assert server.calls["Step"] == 3


def test_reset_close_attach(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char", id="mine", idle_timeout_s=5)
    session.step("ab")
    assert client.attach("mine").position == 2
    assert client.session("char", id="mine", resume=True).position == 2
    with pytest.raises(cellar.SessionExistsError):
        client.session("char", id="mine")
    session.reset()
    assert session.position == 0
    assert session.refresh().position == 0
    assert server.metadata["x-session-id"] == "mine"
    session.close()
    session.close()  # once more does no harm
    with pytest.raises(cellar.SessionClosedError):
        session.step("a")


@pytest.mark.parametrize("reason", CODES)
def test_every_reason_has_its_exception(
    reason: str, client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("char")
    metadata = {"field": "inputs", "row": "4", "position": "7"}
    server.fail("Step", count=99, before=Refusal(reason, metadata))
    with pytest.raises(KINDS[reason]) as caught:
        session.step("a")
    error = caught.value
    assert type(error) is KINDS[reason]
    assert (error.reason, error.code) == (reason, CODES[reason].name)
    assert (error.field, error.row, error.position) == ("inputs", 4, 7)
    assert not error.ambiguous
    assert session.position == 0


@pytest.mark.parametrize("reason", ["BAD_INPUT", "POSITION_MISMATCH", "INTERNAL", "OVERLOADED"])
def test_what_will_not_get_better_is_asked_once(
    reason: str, client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("char")
    server.fail("Step", count=99, before=Refusal(reason))
    with pytest.raises(cellar.ServerError):
        session.step("a")
    assert server.calls["Step"] == 1


def test_overload_is_waited_out(server: FakeServer) -> None:
    pauses: list[float] = []
    with cellar.connect(server.address, retry=QUICK, sleep=pauses.append) as client:
        session = client.session("char")
        server.fail("Step", count=2, before=Refusal("OVERLOADED", retry_after_s=0.25))
        assert session.step("b").position == 1
    assert server.calls["Step"] == 3
    assert len(pauses) == 2
    assert all(0.25 <= pause < 0.5 for pause in pauses)


def test_unavailable_and_draining_are_retried(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    server.fail("Step", count=2, unavailable=True)
    assert session.step("b").position == 1
    server.fail("Step", count=2, before=Refusal("DRAINING"))
    assert session.step("b").position == 2


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
def test_a_failure_that_no_cellar_server_spoke_is_the_connections(
    code: grpc.StatusCode, client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("char")
    server.fail("Step", bare=code)
    assert session.step("b").position == 1
    assert server.calls["Step"] == 2


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED])
def test_codes_without_a_meaning_for_us(
    code: grpc.StatusCode, client: cellar.Client, server: FakeServer
) -> None:
    session = client.session("char")
    server.fail("Step", bare=code)
    with pytest.raises(cellar.ServerError) as caught:
        session.step("b")
    assert caught.value.code == code.name
    assert server.calls["Step"] == 1


def test_retries_come_to_an_end(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    server.fail("Step", count=99, unavailable=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")
    assert server.calls["Step"] == QUICK.attempts


def test_a_lost_reply_does_not_step_twice(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    session.step("b")
    server.fail("Step", after=True)
    prediction = session.step("c", sample=cellar.Sampling())  # the random seed is kept, too
    assert prediction.replayed
    assert prediction.position == 2
    last = session.step("d")
    assert last.raw is not None
    assert last.raw.tolist() == [run([1, 2, 3])]


LOST = ({"after": True}, {"unavailable": True})
"""How a step is left without an answer: applied, and not."""


@pytest.mark.parametrize("fault", LOST)
def test_after_giving_up_the_same_step_is_applied_once(
    fault: dict[str, bool], hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char")
    server.fail("Step", **fault)
    with pytest.raises(cellar.ConnectionLostError) as caught:
        session.step("b")
    assert caught.value.ambiguous
    assert session.step("b").replayed is ("after" in fault)
    assert (session.position, server.calls["GetSession"]) == (1, 0)
    assert session.step("b").position == 2, "it is another one now"


@pytest.mark.parametrize("fault", LOST)
def test_after_giving_up_another_step_goes_on_from_where_the_session_is(
    fault: dict[str, bool], hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char")
    session.step("d")
    server.fail("Step", **fault)
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")
    read = [3, 1, 2] if "after" in fault else [3, 2]
    prediction = session.step("c")
    assert prediction.raw is not None
    assert (prediction.raw.tolist(), session.position) == ([run(read)], len(read))
    session.step("c")
    assert server.calls["GetSession"] == 1, "nothing is in doubt any more"


@pytest.mark.parametrize("fault", LOST)
def test_a_look_ahead_between_a_step_and_its_repetition(
    fault: dict[str, bool], hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char")
    server.fail("Step", **fault)
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")
    assert session.peek("c").position == len(fault.keys() & {"after"})
    assert session.step("b").position == 1
    assert session.step("b").position == 2


def test_once_the_caller_has_asked_the_same_step_is_another(
    hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char")
    server.fail("Step", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")
    assert session.refresh().position == 1
    assert session.step("b").position == 2


def test_somebody_else_stepped_while_a_step_was_in_doubt(
    hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("char")
    server.fail("Step", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")
    hasty.attach(session.id).step("d")
    for _ in range(2):  # not healed behind the caller's back
        with pytest.raises(cellar.PositionMismatchError) as caught:
            session.step("c")
        assert caught.value.position == 2
    assert session.refresh().position == 2
    assert session.step("c").position == 3


@pytest.mark.parametrize("later", ["generate", "forecast", "reset"])
def test_a_step_in_doubt_before_other_requests(
    later: str, hasty: cellar.Client, server: FakeServer
) -> None:
    session = hasty.session("series")
    session.step(1.0)
    server.fail("Step", after=True)
    with pytest.raises(cellar.ConnectionLostError):
        session.step(2.0)
    if later == "generate":
        assert len(session.generate(max_steps=3).values()) == 3
        assert session.position == 5
    elif later == "forecast":
        assert session.forecast(2).mean[0] == run([1, 2]) + 1
        assert session.step(2.0).replayed
    else:
        session.reset()
        assert session.step(2.0).position == 1


def test_somebody_else_stepped(client: cellar.Client) -> None:
    session = client.session("char")
    other = client.attach(session.id)
    other.step("a")
    other.step("b")
    with pytest.raises(cellar.PositionMismatchError) as caught:
        session.step("c")
    assert caught.value.position == 2
    with pytest.raises(cellar.PositionMismatchError):
        session.step("c")  # not healed behind the caller's back
    assert session.refresh().position == 2
    assert session.step("c").position == 3


def test_an_open_whose_reply_was_lost(client: cellar.Client, server: FakeServer) -> None:
    server.fail("OpenSession", after=True)
    with client.session("char") as session:
        assert session.step("a").position == 1
    assert server.calls["OpenSession"] == 2
    assert server.sessions == {}


def test_a_close_whose_reply_was_lost(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    server.fail("CloseSession", after=True)
    session.close()
    assert server.calls["CloseSession"] == 2


def test_deadline(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    server.fail("Step", delay_s=3)
    before = time.monotonic()
    with pytest.raises(cellar.DeadlineExceededError):
        session.step("a", timeout_s=0.2)
    assert time.monotonic() - before < 1.5


def test_a_dead_server_is_told_soon(client: cellar.Client, server: FakeServer) -> None:
    session = client.session("char")
    session.step("a")
    server.stop()
    before = time.monotonic()
    with pytest.raises(cellar.ConnectionLostError):
        session.step("b")
    assert time.monotonic() - before < 3
    server.start()
    assert repeatedly(lambda: session.step("b")).position == 2


def test_a_server_that_comes_back(server: FakeServer) -> None:
    def restart(_: float) -> None:
        time.sleep(0.1)
        if not restarted:
            restarted.append(True)
            server.start()

    restarted: list[bool] = []
    patient = cellar.RetryPolicy(attempts=30)
    with cellar.connect(server.address, retry=patient, sleep=restart) as client:
        session = client.session("char")
        session.step("b")
        server.stop()
        prediction = session.step("c")
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [run([1, 2])]


def test_a_failing_block_is_not_hidden_by_its_close(
    client: cellar.Client, server: FakeServer
) -> None:
    with pytest.raises(KeyError), client.session("char"):  # noqa: PT012
        server.fail("CloseSession", count=99, before=Refusal("INTERNAL"))
        raise KeyError("mine")


def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = cellar.connect(server.address)
    session = client.session("char")
    client.close()
    with pytest.raises(cellar.ClosedError):
        session.step("a")


def test_generate_in_pieces(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        pieces, positions = [], []
        for piece in session.generate("ab", max_steps=5, temperature=0.5, seed=1):
            pieces.append(piece)
            positions.append(session.position)
        assert positions == [3, 4, 5, 6, 7] == [piece.position for piece in pieces]
        assert [piece.finish_reason for piece in pieces][-2:] == [None, cellar.FinishReason.LENGTH]
        read = [0, 1] + [int(token) for piece in pieces for token in piece.tokens]
        prediction = session.step("a")
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [run([*read, 0])]
        text = session.generate(max_steps=50, stop=["a"]).text()
        assert text.endswith("a")
    with client.session("series") as session:
        assert session.generate([1.0, 2.0], max_steps=3).values().shape == (3,)


def test_generate_is_retried_until_the_first_piece(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char") as session:
        server.fail("Generate", count=2, unavailable=True)
        assert len(session.generate("ab", max_steps=4).text()) == 4
        assert server.calls["Generate"] == 3
        server.fail("Generate", before=Refusal("BAD_INPUT"))
        with pytest.raises(cellar.BadInputError):
            session.generate("ab").text()
        assert server.calls["Generate"] == 4
    with client.session("char") as session, pytest.raises(cellar.NotStartedError):
        session.generate().text()


def test_generate_that_breaks_is_not_repeated(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        server.pieces = 3
        text = ""
        with pytest.raises(cellar.ConnectionLostError):  # noqa: PT012
            for piece in session.generate("ab", max_steps=9):
                text += piece.text
        assert (len(text), session.position, server.calls["Generate"]) == (3, 5, 1)
        session.step("a")  # asks where the session is, first
        assert (session.position, server.calls["GetSession"]) == (6, 1)


@pytest.mark.parametrize("way", ["close", "leave", "forget", "lose"])
def test_generate_left_early(way: str, client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        for _ in range(5):
            generation = session.generate("ab", max_steps=10_000)
            next(generation)
            if way == "close":
                generation.close()
                assert session.position == server.sessions[session.id].position
            elif way == "lose":
                with pytest.raises(cellar.DeadlineExceededError):
                    list(session.generate("ab", max_steps=10_000, timeout_s=0.05))
            elif way == "forget":
                del generation
            prediction = session.step("a")
            assert prediction.position == session.position == server.sessions[session.id].position


def test_a_generation_is_over_once_the_session_has_gone_on(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char") as session:
        left = session.generate("ab", max_steps=10_000)
        next(left)
        session.step("a")
        position = session.position
        with pytest.raises(cellar.CellarError):
            for _ in left:
                pass
        left.close()
        assert session.position == position
        kept = session.generate(max_steps=400)
        next(kept)
        left.close()
        assert len(kept.text()) == 399, "an old generation's close leaves the new one alone"
        assert session.step("a").position == position + 401


def test_forecast(client: cellar.Client) -> None:
    with client.session("series") as session:
        with pytest.raises(cellar.NotStartedError):
            session.forecast(2)
        session.step([1.0, 2.0])
        state = run([1, 2])
        forecast = session.forecast(3, paths=4, quantiles=(0.1, 0.9), include_paths=True)
        assert forecast.levels == (0.1, 0.9)
        assert forecast.mean.tolist() == [state + 1, state + 2, state + 3]
        assert forecast.quantiles.shape == (3, 2)
        assert forecast.quantile(0.9).tolist() == [state + 91, state + 92, state + 93]
        assert forecast.paths is not None
        assert forecast.paths.shape == (4, 3)
        assert session.position == 2
        assert session.forecast(3).paths is None


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("char", ""),
        ("char", []),
        ("char", 1.5),
        ("char", [[1, 2]]),
        ("char", 2**40),
        ("series", "12"),
        ("series", []),
        ("series", [[1, 2]]),
        ("wide", [1.0, 2.0, 3.0]),
        ("wide", 1.0),
        ("series", [[1.0], [2.0, 3.0]]),
        ("series", True),
    ],
)
def test_misshapen_input_is_refused_unsent(
    model: str, inputs: cellar.StepInputs, client: cellar.Client, server: FakeServer
) -> None:
    with client.session(model) as session:
        with pytest.raises(cellar.BadInputError):
            session.step(inputs)
        with pytest.raises(ValueError, match=r"top_k: a whole number from 0 on, not -1|per step"):
            session.step(1, top_k=-1)
        assert server.calls["Step"] == 0
