"""Labels and whole sequences on the wire."""

import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellar.v1 import model_pb2, session_pb2, values_pb2
from tests.recurrent import (
    LABELS,
    SYMBOLS,
    char_case,
    label_case,
    torch_predictions,
    whole_case,
    write_repository,
)
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import open_session, refused, text, values

WHOLE, LETTERS = whole_case("gru"), char_case()
SO_FAR = label_case(features=2, name="measured")
TOP = values_pb2.Outputs(top_k=2, raw=True)
WRONG = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("labels"), WHOLE, SO_FAR, LETTERS)


@pytest.fixture
async def wire(labelling: Path) -> AsyncIterator[Wire]:
    async with serving(labelling) as wire:
        yield wire


def ask(model: str, inputs: values_pb2.Inputs, **others: object) -> model_pb2.PredictRequest:
    return model_pb2.PredictRequest(model=model, inputs=inputs, **others)  # type: ignore[arg-type]


async def test_models_say_what_they_predict_and_whether_they_stream(wire: Wire) -> None:
    models = (await wire.models.ListModels(model_pb2.ListModelsRequest())).models
    assert [(m.name, m.streamable, m.predicts_per_step, bool(m.labels)) for m in models] == [
        ("letters", True, True, False),
        ("measured", True, True, True),
        ("whole", False, False, True),
    ]
    whole = models[2]
    assert tuple(whole.labels) == LABELS
    assert whole.prediction == model_pb2.PREDICTION_KIND_LABELS
    assert (whole.task, whole.session_bytes) == ("classify", 0)
    health = health_pb2_grpc.HealthStub(wire.channel)
    reply = await health.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_whole_sequences_are_labelled(wire: Wire) -> None:
    names = ["oneill", "novak", "papadopoulos"]
    lengths = [len(name) for name in names]
    reply = await wire.models.Predict(
        ask("whole", text("".join(names)), steps=lengths, outputs=TOP)
    )
    assert (reply.model, reply.model_version, list(reply.counts)) == ("whole", 1, [])
    found = np.array(reply.predictions.raw).reshape(3, 5)
    for name, scores in zip(names, found, strict=True):
        tokens = torch.tensor([[SYMBOLS.index(symbol) for symbol in name]])
        wanted = WHOLE.network(tokens, torch.tensor([len(name)]))[0].detach().numpy()
        np.testing.assert_allclose(scores, wanted, atol=1e-6)
    best = np.argsort(-found, axis=1)[:, :2].ravel()
    assert list(reply.predictions.top_symbols) == [LABELS[label] for label in best]
    alone = await wire.models.Predict(ask("whole", text("novak"), outputs=TOP))
    assert list(alone.predictions.raw) == found[1].tolist()
    default = await wire.models.Predict(
        ask("whole", values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[13, 14])))
    )
    (label,) = default.predictions.argmax
    assert list(default.predictions.argmax_symbols) == [LABELS[label]], "labels have names"


async def test_a_label_so_far_comes_with_every_step(wire: Wire) -> None:
    rows = np.array([[1.0, 2.0], [0.5, 0.25], [3.0, 1.0]], np.float32)
    wanted, _ = torch_predictions(SO_FAR, rows)
    await open_session(wire, "measured")
    outputs = values_pb2.Outputs(raw=True, argmax=True, every_step=True)
    inputs = values(*rows.ravel().tolist())
    stepped = await wire.sessions.Step(
        session_pb2.StepRequest(session_id="s", inputs=inputs, outputs=outputs)
    )
    found = np.array(stepped.predictions.raw).reshape(3, 5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert list(stepped.predictions.argmax_symbols) == [LABELS[n] for n in found.argmax(axis=1)]
    twice = values(*np.concatenate([rows, rows[:2]]).ravel().tolist())
    reply = await wire.models.Predict(ask("measured", twice, steps=[3, 2], outputs=outputs))
    assert list(reply.counts) == [3, 2]
    raw = list(stepped.predictions.raw)
    assert list(reply.predictions.raw) == raw + raw[:10]
    nothing = await wire.sessions.GetSession(session_pb2.GetSessionRequest(session_id="s"))
    assert nothing.session.position == 3, "a prediction disturbs no session"
    await refused(
        wire.sessions.Forecast(session_pb2.ForecastRequest(session_id="s", horizon=3)),
        WRONG,
        "BAD_INPUT",
    )
    sample = values_pb2.Outputs(sample=values_pb2.Sampling())
    info = await refused(
        wire.sessions.Step(session_pb2.StepRequest(session_id="s", inputs=inputs, outputs=sample)),
        WRONG,
        "BAD_INPUT",
    )
    assert info.metadata["field"] == "outputs.sample"
    call = wire.sessions.Generate(session_pb2.GenerateRequest(session_id="s", max_steps=3))
    with pytest.raises(grpc.aio.AioRpcError, match="no next step can be generated from a label"):
        await call.read()


async def test_a_character_model_predicts_for_whole_texts(wire: Wire) -> None:
    sampled = values_pb2.Outputs(argmax=True, sample=values_pb2.Sampling(seed=3))
    reply = await wire.models.Predict(
        ask("letters", text("hello hell"), steps=[5, 5], outputs=sampled)
    )
    await open_session(wire, "letters")
    stepped = await wire.sessions.Step(
        session_pb2.StepRequest(session_id="s", inputs=text("hello"), outputs=sampled)
    )
    assert reply.predictions.argmax[0] == stepped.predictions.argmax[0]
    assert reply.predictions.sampled_symbols[0] == stepped.predictions.sampled_symbols[0]
    assert len(reply.predictions.argmax_symbols) == 2


async def test_refusals(wire: Wire) -> None:
    info = await refused(
        wire.models.Predict(ask("whole", text("anX"), steps=[1, 2])), WRONG, "BAD_INPUT"
    )
    assert (info.metadata["field"], info.metadata["row"]) == ("inputs.text", "1")
    await refused(wire.models.Predict(ask("whole", values(1.0))), WRONG, "BAD_INPUT")
    await refused(wire.models.Predict(ask("whole", values_pb2.Inputs())), WRONG, "BAD_INPUT")
    nowhere = ask("nowhere", text("a"))
    await refused(wire.models.Predict(nowhere), grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
    not_now = grpc.StatusCode.FAILED_PRECONDITION
    opening = session_pb2.OpenSessionRequest(model="whole")
    await refused(wire.sessions.OpenSession(opening), not_now, "NOT_STREAMABLE")
    stream = wire.sessions.Stream()
    start = session_pb2.StreamStart(model="whole")
    await stream.write(session_pb2.StreamRequest(start=start))
    await refused(stream.read(), not_now, "NOT_STREAMABLE")
    await wire.models.Predict(ask("whole", text("abc")))
    url = f"http://127.0.0.1:{wire.server.metrics_port}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    page = opener.open(url, timeout=5).read().decode()
    assert 'cellar_steps_total{model="whole/1"} 3.0' in page
    assert 'cellar_pending_steps{model="whole/1"} 0.0' in page
    assert 'cellar_session_capacity{model="whole/1"} 0.0' in page
    assert 'cellar_batch_size_sum{model="whole/1"} 3.0' in page
    for phase in ("queue", "run", "reply"):
        assert f'cellar_step_seconds_count{{model="whole/1",phase="{phase}"}} 1.0' in page
