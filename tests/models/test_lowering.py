"""The lowered RNN against ONNX Runtime's own operator."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.graph.lowering import lower_rnn

TIME, BATCH, INPUTS, HIDDEN = 6, 5, 3, 4
LENGTHS = np.array([6, 1, 3, 5, 2], np.int32)
_numbers = np.random.default_rng(0)
X = _numbers.normal(size=(TIME, BATCH, INPUTS)).astype(np.float32)
H = _numbers.normal(size=(1, BATCH, HIDDEN)).astype(np.float32)
WEIGHTS: dict[str, NDArray[np.float32]] = {
    "w": _numbers.normal(size=(1, HIDDEN, INPUTS)).astype(np.float32),
    "r": _numbers.normal(size=(1, HIDDEN, HIDDEN), scale=0.5).astype(np.float32),
    "b": _numbers.normal(size=(1, 2 * HIDDEN)).astype(np.float32),
}


def rnn(
    *,
    bias: bool = True,
    lengths: bool = True,
    start: bool = True,
    outputs: tuple[str, str] = ("y", "y_h"),
    weights_as: str = "initializers",
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    given = {"b": bias, "lengths": lengths, "h": start}
    inputs = ["x", "w", "r", *(name if is_given else "" for name, is_given in given.items())]
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    node = helper.make_node("RNN", inputs, list(outputs), hidden_size=HIDDEN, **attributes)
    tensors = [
        numpy_helper.from_array(np.concatenate([array, 0.7 * array][:ways]), name)
        for name, array in WEIGHTS.items()
    ]
    nodes = [node]
    if weights_as != "initializers":
        stem = "" if weights_as == "constants" else "first_"
        constants = [
            helper.make_node("Constant", [], [stem + name], value=tensor)
            for name, tensor in zip(WEIGHTS, tensors, strict=True)
        ]
        renamed = [helper.make_node("Identity", ["first_" + name], [name]) for name in WEIGHTS]
        nodes = [*constants, *(renamed if stem else []), node]
        tensors = []
    declared = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", INPUTS]),
    ]
    if start:
        declared.append(
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [ways, "batch", HIDDEN])
        )
    if lengths:
        declared.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    axes: tuple[list[int | str], ...] = (
        ["time", ways, "batch", HIDDEN],
        [ways, "batch", HIDDEN],
    )
    found = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(outputs, axes, strict=True)
        if name
    ]
    graph = helper.make_graph(nodes, "rnn", declared, found, initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lower_rnn(copy.graph)
    onnx.checker.check_model(copy)
    return copy


def is_lowered(model: onnx.ModelProto) -> bool:
    return all(node.op_type != "RNN" for node in lowered(model).graph.node)


def run(model: onnx.ModelProto, lengths: NDArray[np.int32] | None) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {"x": X}
    for value in session.get_inputs():
        if value.name == "h":
            feed["h"] = np.concatenate([H, -H][: value.shape[0]])
    if lengths is not None:
        feed["lengths"] = lengths
    found: list[NDArray[np.float32]] = session.run(None, feed)
    return found


@pytest.mark.parametrize("activation", ["Tanh", "Relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("outputs", [("y", "y_h"), ("y", ""), ("", "y_h")])
@pytest.mark.parametrize("opset", [13, 17])
def test_it_is_what_the_operator_is(
    activation: str, bias: bool, ragged: bool, outputs: tuple[str, str], opset: int
) -> None:
    model = rnn(bias=bias, lengths=ragged, outputs=outputs, opset=opset, activations=[activation])
    assert is_lowered(model)
    lengths = LENGTHS if ragged else None
    for mine, theirs in zip(run(lowered(model), lengths), run(model, lengths), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_the_way_back_is_what_the_operator_is(direction: str, start: bool, ragged: bool) -> None:
    ways = 2 if direction == "bidirectional" else 1
    activations = ["Relu", "Tanh"][:ways]
    model = rnn(lengths=ragged, start=start, direction=direction, activations=activations)
    assert is_lowered(model)
    lengths = LENGTHS if ragged else None
    for mine, theirs in zip(run(lowered(model), lengths), run(model, lengths), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_past_its_length_a_row_is_zero_exactly() -> None:
    y, y_h = run(lowered(rnn()), LENGTHS)  # (time, 1, batch, hidden), (1, batch, hidden)
    for row, length in enumerate(LENGTHS.tolist()):
        assert not y[length:, 0, row].any()
        assert np.array_equal(y[length - 1, 0, row], y_h[0, row])


@pytest.mark.parametrize("weights_as", ["initializers", "constants", "renamed constants"])
def test_weights_may_be_written_in_any_constant_way(weights_as: str) -> None:
    model = rnn(weights_as=weights_as)
    assert is_lowered(model)
    for mine, theirs in zip(run(lowered(model), LENGTHS), run(model, LENGTHS), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_what_is_not_covered_is_left_alone() -> None:
    assert not is_lowered(rnn(activations=["Sigmoid"]))
    assert not is_lowered(rnn(clip=1.0))
    assert not is_lowered(rnn(layout=1))
