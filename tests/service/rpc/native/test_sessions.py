"""The unary calls over a real connection: replies, and every row of the error table."""

import math
from collections.abc import Awaitable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from cellar.v1 import model_pb2, values_pb2
from cellar.v1 import session_pb2 as pb
from tests.recurrent import SYMBOLS, char_case, torch_predictions
from tests.service.rpc.conftest import Wire


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str) -> ErrorInfo:
    """The ErrorInfo of a call that must fail so."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None, "no rich status"
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("cellar", reason)
    if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
        assert status.details[1].Is(RetryInfo.DESCRIPTOR)
    return info


def text(value: str) -> values_pb2.Inputs:
    return values_pb2.Inputs(text=value)


def values(*data: float) -> values_pb2.Inputs:
    return values_pb2.Inputs(values=values_pb2.Values(data=data))


async def open_session(wire: Wire, model: str = "letters", session: str = "s") -> str:
    request = pb.OpenSessionRequest(model=model, session_id=session)
    opened: pb.OpenSessionResponse = await wire.sessions.OpenSession(request)
    return opened.session.id


@pytest.mark.usefixtures("several_models")
async def test_models_are_listed_and_described(wire: Wire) -> None:
    models = (await wire.models.ListModels(model_pb2.ListModelsRequest())).models
    assert [(m.name, m.version, m.default_version) for m in models] == [
        ("letters", 1, False),
        ("letters", 2, True),
        ("prices", 1, True),
    ]
    request = model_pb2.GetModelRequest(name="letters")
    letters = (await wire.models.GetModel(request)).model
    assert "".join(letters.vocabulary) == SYMBOLS
    assert letters.session_bytes == 4 * (16 + 16)
    assert letters.input == model_pb2.INPUT_KIND_TOKENS
    prices = (await wire.models.GetModel(model_pb2.GetModelRequest(name="prices"))).model
    assert list(prices.features) == ["Close"]
    assert prices.prediction == model_pb2.PREDICTION_KIND_DISTRIBUTION


async def test_a_session_from_open_to_close(wire: Wire) -> None:
    opened = await wire.sessions.OpenSession(
        pb.OpenSessionRequest(model="letters", idle_timeout=Duration(seconds=9))
    )
    session = opened.session
    assert session.model_version == 2, "the highest version is the default"
    assert (session.position, session.idle_timeout.seconds) == (0, 9)
    outputs = values_pb2.Outputs(argmax=True, top_k=3, probabilities=True, raw=True)
    reply = await wire.sessions.Step(
        pb.StepRequest(session_id=session.id, inputs=text("hello"), position=0, outputs=outputs)
    )
    tokens = np.array([SYMBOLS.index(symbol) for symbol in "hello"])
    logits = torch_predictions(char_case(seed=1), tokens)[0][-1]
    found = reply.predictions
    np.testing.assert_allclose(list(found.raw), logits, rtol=1e-4, atol=1e-5)
    assert found.argmax_symbols == [SYMBOLS[int(logits.argmax())]]
    assert found.top_symbols[0] == found.argmax_symbols[0]
    assert len(found.top_probabilities) == 3
    assert math.isclose(sum(found.probabilities), 1, rel_tol=1e-5)
    assert reply.position == 5
    info = (await wire.sessions.GetSession(pb.GetSessionRequest(session_id=session.id))).session
    assert (info.position, info.status) == (5, pb.SESSION_STATUS_OPEN)
    reset = await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id=session.id))
    assert reset.session.position == 0
    closed = await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
    assert closed.position == 0


@pytest.mark.usefixtures("several_models")
async def test_defaults_fit_the_model(wire: Wire) -> None:
    await open_session(wire)
    reply = await wire.sessions.Step(pb.StepRequest(session_id="s", inputs=text("ab")))
    assert len(reply.predictions.argmax) == 1
    await open_session(wire, "prices", "p")
    reply = await wire.sessions.Step(pb.StepRequest(session_id="p", inputs=values(100, 101)))
    low, middle, high = reply.predictions.quantiles
    assert 50 < low < middle < high < 200, "raw values in, raw values out"


async def test_every_step_and_commit(wire: Wire) -> None:
    await open_session(wire)
    outputs = values_pb2.Outputs(raw=True, every_step=True)
    dry = pb.StepRequest(session_id="s", inputs=text("abc"), outputs=outputs, commit=False)
    first = await wire.sessions.Step(dry)
    assert first.position == 0
    wet = pb.StepRequest(session_id="s", inputs=text("abc"), outputs=outputs, position=0)
    second = await wire.sessions.Step(wet)
    assert second.position == 3
    assert second.predictions == first.predictions
    again = await wire.sessions.Step(wet)
    assert again.replayed
    again.replayed = False
    assert again.SerializeToString() == second.SerializeToString(), "byte for byte"


async def test_draws_are_reproducible(wire: Wire) -> None:
    texts = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        await open_session(wire, session=name)
        call = wire.sessions.Generate(
            pb.GenerateRequest(
                session_id=name,
                prompt=text("once upon"),
                max_steps=40,
                sampling=values_pb2.Sampling(seed=seed, temperature=0.9, top_p=0.95),
            )
        )
        pieces = [piece async for piece in call]
        ends = np.cumsum([len(piece.tokens) for piece in pieces]) + 9  # the prompt
        assert [piece.position for piece in pieces] == ends.tolist()
        assert ends[-1] == 49
        assert pieces[-1].finish_reason == pb.FINISH_REASON_LENGTH
        texts.append("".join(piece.text for piece in pieces))
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.usefixtures("several_models")
async def test_a_forecast_leaves_the_session_untouched(wire: Wire) -> None:
    await open_session(wire, "prices", "p")
    history = [100 + n % 7 for n in range(50)]
    outputs = values_pb2.Outputs(raw=True)
    step = pb.StepRequest(session_id="p", inputs=values(*history), outputs=outputs)
    await wire.sessions.Step(step)
    dry = pb.StepRequest(session_id="p", inputs=values(103), outputs=outputs, commit=False)
    before = await wire.sessions.Step(dry)
    request = pb.ForecastRequest(session_id="p", horizon=12, seed=5, include_paths=True)
    first = await wire.sessions.Forecast(request)
    again = await wire.sessions.Forecast(request)
    assert first == again
    assert first.position == 50
    quantiles = np.array(first.quantiles).reshape(12, 3)
    assert list(first.levels) == pytest.approx([0.1, 0.5, 0.9])
    assert (np.diff(quantiles, axis=1) > 0).all()
    paths = np.array(first.paths).reshape(64, 12)
    np.testing.assert_allclose(np.quantile(paths, 0.5, axis=0), quantiles[:, 1], rtol=1e-5)
    widths = quantiles[:, 2] - quantiles[:, 0]
    assert widths[-1] > widths[0], "uncertainty grows with the horizon"
    assert await wire.sessions.Step(dry) == before
    assert wire.server.engine.registry.find("prices", 1).usage.spares == 0


@pytest.mark.usefixtures("several_models")
async def test_a_forecast_that_no_message_holds_is_refused_before_it_is_made(wire: Wire) -> None:
    await open_session(wire, "prices", "p")
    await wire.sessions.Step(pb.StepRequest(session_id="p", inputs=values(100)))
    long: dict[str, Any] = {"horizon": 250, "paths": 64, "quantiles": [0.5]}
    assert (await wire.sessions.Forecast(pb.ForecastRequest(session_id="p", **long))).mean
    steps = wire.server.metrics.steps.labels("prices/1")._value.get()
    info = await refused(
        wire.sessions.Forecast(pb.ForecastRequest(session_id="p", include_paths=True, **long)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "BAD_INPUT",
    )
    assert info.metadata["field"] == "include_paths"
    assert wire.server.metrics.steps.labels("prices/1")._value.get() == steps


@pytest.mark.usefixtures("several_models")
async def test_every_error_has_its_code_and_reason(wire: Wire) -> None:
    sessions = wire.sessions
    await open_session(wire)
    await open_session(wire, "prices", "p")
    bad, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND

    def step(session: str = "s", **fields: Any) -> Awaitable[Any]:
        call: Awaitable[Any] = sessions.Step(pb.StepRequest(session_id=session, **fields))
        return call

    await refused(
        sessions.OpenSession(pb.OpenSessionRequest(model="nope")), missing, "MODEL_UNKNOWN"
    )
    await refused(
        sessions.OpenSession(pb.OpenSessionRequest(model="letters", model_version=7)),
        missing,
        "MODEL_UNKNOWN",
    )
    await refused(sessions.OpenSession(pb.OpenSessionRequest()), missing, "MODEL_UNKNOWN")
    await refused(
        sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="s")),
        grpc.StatusCode.ALREADY_EXISTS,
        "SESSION_EXISTS",
    )
    info = await refused(step(inputs=text("abCd")), bad, "BAD_INPUT")
    assert dict(info.metadata) == {"field": "inputs.text", "row": "2"}
    info = await refused(step("p", inputs=values(1, float("nan"))), bad, "BAD_INPUT")
    assert dict(info.metadata) == {"field": "inputs.values", "row": "1"}
    await refused(step("p", inputs=values(3, -1)), bad, "BAD_INPUT")
    await refused(step("p", inputs=text("a")), bad, "BAD_INPUT")
    await refused(step(inputs=values(1)), bad, "BAD_INPUT")
    await refused(step(inputs=text("")), bad, "BAD_INPUT")
    await refused(step(), bad, "BAD_INPUT")
    tokens = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[0, 27]))
    await refused(step(inputs=tokens), bad, "BAD_INPUT")
    await refused(step(inputs=text("a" * 1001)), bad, "BAD_INPUT")
    info = await refused(
        step(inputs=text("a"), position=4), grpc.StatusCode.ABORTED, "POSITION_MISMATCH"
    )
    assert info.metadata["position"] == "0"
    huge = 2**64 - 1
    await refused(
        step(inputs=text("a"), position=huge), grpc.StatusCode.ABORTED, "POSITION_MISMATCH"
    )
    await step(inputs=text("a"), position=0)
    await refused(step(inputs=text("b"), position=0), bad, "STEP_CONFLICT")
    await refused(step("never", inputs=text("a")), missing, "SESSION_UNKNOWN")
    for call in (
        sessions.Forecast(pb.ForecastRequest(session_id="p", horizon=3)),
        read_one(sessions.Generate(pb.GenerateRequest(session_id="p", max_steps=3))),
    ):
        await refused(call, grpc.StatusCode.FAILED_PRECONDITION, "NOT_STARTED")
    await refused(
        sessions.Forecast(pb.ForecastRequest(session_id="s", horizon=3)), bad, "BAD_INPUT"
    )
    await step("p", inputs=values(5))
    for fields in ({"horizon": 0}, {"horizon": 3, "paths": 257}, {"horizon": 3, "quantiles": [1]}):
        call = sessions.Forecast(pb.ForecastRequest(session_id="p", **fields))
        await refused(call, bad, "BAD_INPUT")
    await sessions.CloseSession(pb.CloseSessionRequest(session_id="s"))
    await refused(step(inputs=text("a")), missing, "SESSION_CLOSED")
    await refused(
        sessions.GetSession(pb.GetSessionRequest(session_id="s")), missing, "SESSION_CLOSED"
    )
    for number in range(63):
        await open_session(wire, "prices", f"p{number}")
    await refused(
        sessions.OpenSession(pb.OpenSessionRequest(model="prices")),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SESSION_LIMIT",
    )
    assert (
        await sessions.GetSession(pb.GetSessionRequest(session_id="p"))
    ).session.position == 1, "what was refused changed nothing"


async def test_a_reply_that_would_not_fit_is_refused_before_anything_is_applied(
    wire: Wire,
) -> None:
    await open_session(wire)
    outputs = values_pb2.Outputs(raw=True, probabilities=True, every_step=True)
    request = pb.StepRequest(session_id="s", inputs=text("a" * 400), outputs=outputs, position=0)
    await refused(wire.sessions.Step(request), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
    request.inputs.text = "a" * 100
    reply = await wire.sessions.Step(request)
    assert len(reply.predictions.raw) == 100 * len(SYMBOLS)


@pytest.mark.usefixtures("several_models")
async def test_a_message_beyond_the_limit_is_refused_by_the_transport(wire: Wire) -> None:
    await open_session(wire, "prices", "p")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.sessions.Step(pb.StepRequest(session_id="p", inputs=values(*([1.0] * 20_000))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_draining_server_says_so(wire: Wire) -> None:
    await open_session(wire)
    wire.server.engine.draining = True
    for call in (
        wire.sessions.Step(pb.StepRequest(session_id="s", inputs=text("a"))),
        wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters")),
        wire.models.ListModels(model_pb2.ListModelsRequest()),
    ):
        await refused(call, grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def read_one(call: Any) -> Any:
    return await call.read()


async def test_an_id_that_was_left_out_is_told_from_one_that_is_unknown(wire: Wire) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="session_id: it is empty or was left out"):
        await wire.sessions.GetSession(pb.GetSessionRequest())


async def test_long_names_do_not_hide_the_error(wire: Wire) -> None:
    for name in ("a" * 20_000, "\N{GRINNING FACE}" * 10_000):
        call = wire.sessions.Step(pb.StepRequest(session_id=name, inputs=text("a")))
        await refused(call, grpc.StatusCode.NOT_FOUND, "SESSION_UNKNOWN")
        call = wire.sessions.OpenSession(pb.OpenSessionRequest(model=name))
        await refused(call, grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
    call = wire.sessions.GetSession(pb.GetSessionRequest(session_id="a" * 20_000))
    with pytest.raises(grpc.aio.AioRpcError, match=r"a … a+' is not open here; open it first"):
        await call


async def test_a_loading_server_says_so(wire: Wire) -> None:
    wire.server.engine.loading = True
    for call in (
        wire.sessions.Step(pb.StepRequest(session_id="s", inputs=text("a"))),
        wire.sessions.Forecast(pb.ForecastRequest(session_id="s", horizon=3)),
        read_one(wire.sessions.Generate(pb.GenerateRequest(session_id="s", max_steps=3))),
    ):
        await refused(call, grpc.StatusCode.UNAVAILABLE, "LOADING")
