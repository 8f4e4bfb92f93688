"""Models without states: what they score, what they may look like, what is refused."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from models.compile.arena import compile_model
from models.compile.stateless import compile_stateless
from models.errors import ModelError
from models.fit import check_fit
from models.graph.builder import FLOAT, INT64, GraphBuilder
from models.manifest import Manifest, Prediction, PredictionKind, ValuesInput
from models.repository import Model
from service.engine.execution.stateless import StatelessRunner
from tests.recurrent import label_case, whole_case


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("features", "layers", "merge"), [(0, 2, "concat"), (3, 1, "average")])
def test_what_is_served_scores_what_torch_scores(
    cell: str, features: int, layers: int, merge: str
) -> None:
    case = whole_case(cell, features=features, layers=layers, merge=merge)
    runner = StatelessRunner(compile_stateless(case.model))
    generator = np.random.default_rng(0)
    sequences = [
        generator.normal(size=(steps, features)).astype(np.float32)
        if features
        else generator.integers(27, size=steps)
        for steps in (1, 7, 4, 20)
    ]
    for steps, found in zip(sequences, runner.predict(sequences), strict=True):
        with torch.no_grad():
            scores = case.network(torch.from_numpy(steps)[None], torch.tensor([len(steps)]))
        np.testing.assert_allclose(found, scores.numpy(), atol=1e-6)
    assert not runner.isolated
    assert runner.pads


def test_integers_of_either_width_are_read() -> None:
    case = whole_case()
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model.proto)
    for value in proto.graph.input:
        narrow = value.name == "tokens"
        value.type.tensor_type.elem_type = TensorProto.INT32 if narrow else TensorProto.INT64
    # The recurrent operator wants its lengths narrow, whatever the graph is given.
    cast = helper.make_node("Cast", ["lengths"], ["narrow"], to=TensorProto.INT32)
    for node in proto.graph.node:
        node.input[:] = ["narrow" if name == "lengths" else name for name in node.input]
    proto.graph.node.insert(0, cast)
    check_fit(proto, case.manifest, where="here")
    steps = [np.array([1, 2, 3]), np.array([4])]
    wide = StatelessRunner(compile_stateless(case.model), isolated=False)
    other = StatelessRunner(compile_stateless(replace(case.model, proto=proto)), isolated=False)
    for one, two in zip(wide.predict(steps), other.predict(steps), strict=True):
        assert one.tobytes() == two.tobytes()


def smoothing(*, lengths: bool = False, per_step: bool = True, meddles: bool = False) -> Model:
    """A graph without recurrence: the running sum of values; it meddles if rows see each other."""
    graph = GraphBuilder()
    x = graph.input("x", FLOAT, ["batch", "time", 2])
    if lengths:
        graph.input("n", INT64, ["batch"])
    axis = graph.constant(np.array(1, np.int64))
    y = graph.node("CumSum", x, axis)
    if meddles:
        y = graph.node("Add", y, graph.node("ReduceMax", y, axes=[0], keepdims=1))
    if per_step:
        graph.node("Identity", y, output="y")
        graph.output("y", FLOAT, ["batch", "time", 2])
    else:
        graph.node("ReduceSum", y, graph.constant([1]), output="y", keepdims=0)
        graph.output("y", FLOAT, ["batch", 2])
    manifest = Manifest(
        name="sums",
        input=ValuesInput(name="x", features=("a", "b")),
        lengths="n" if lengths else None,
        states=(),
        prediction=Prediction(output="y", kind=PredictionKind.RAW, width=2, per_step=per_step),
    )
    return replace(whole_case().model, name="sums", manifest=manifest, proto=graph.model("sums"))


def test_a_foreign_graph_of_whole_sequences_needs_no_lengths() -> None:
    model = smoothing()
    check_fit(model.proto, model.manifest, where="here")
    runner = StatelessRunner(compile_stateless(model))
    assert not runner.pads
    assert not runner.isolated
    steps = np.ones((4, 2), np.float32)
    assert runner.predict([steps, 2 * steps])[1][:, 0].tolist() == [2, 4, 6, 8]


def test_rows_that_see_each_other_are_found_out() -> None:
    assert StatelessRunner(compile_stateless(smoothing(meddles=True))).isolated
    assert StatelessRunner(
        compile_stateless(smoothing(lengths=True, per_step=False))
    ).isolated  # padding


@pytest.mark.parametrize("per_step", [True, False])
def test_the_prediction_has_the_shape_that_the_manifest_says(per_step: bool) -> None:
    model = smoothing(per_step=not per_step)
    prediction = model.manifest.prediction.model_copy(update={"per_step": per_step})
    manifest = model.manifest.model_copy(update={"prediction": prediction})
    wanted = r"\[batch, time, 2\]" if per_step else r"\[batch, 2\]"
    with pytest.raises(ModelError, match=f"prediction 'y' has shape .* the manifest says {wanted}"):
        check_fit(model.proto, manifest, where="here")


def test_each_kind_is_compiled_its_own_way() -> None:
    with pytest.raises(ModelError, match=r"whole.onnx: it has no states: it reads whole sequences"):
        compile_model(whole_case().model)
    with pytest.raises(ModelError, match=r"labels.onnx: it has states"):
        compile_stateless(label_case().model)


def test_int8_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match=r"int8 .* and this model reads whole sequences: .* fp32"):
        compile_stateless(whole_case().model, precision="int8")
    with pytest.raises(ModelError, match=r"int8 serves the characters .* is another one: .* fp32"):
        compile_model(label_case().model, precision="int8")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"per_step": False}, "predicts at every step"),
        ({"labels": []}, "labels go with the kind 'labels'"),
        ({"labels": ["a", "b", "c", "d", "a"]}, "5 columns need as many different labels"),
    ],
)
def test_a_manifest_of_labels_checks_itself(changes: dict[str, object], complaint: str) -> None:
    facts = json.loads(label_case().manifest.model_dump_json())
    facts["prediction"] |= changes
    with pytest.raises(ModelError, match=complaint):
        Manifest.parse(json.dumps(facts), where="here")


def test_a_model_without_states_takes_no_memory_per_session() -> None:
    assert whole_case().manifest.session_bytes == 0
    assert label_case(hidden=16).manifest.session_bytes == 4 * (16 + 16 + 5)
