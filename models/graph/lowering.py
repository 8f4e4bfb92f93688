"""Rewrite operators whose arithmetic depends on the batch.

ONNX Runtime's ``RNN`` operator on the CPU multiplies unpacked matrices, so a row's bits change
with the size of its batch (its LSTM and GRU do not: constant weights are packed). A scan over
packed products has the same bits for one row or many, for one step or many, and is faster.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.graph.builder import STANDARD_DOMAINS, GraphBuilder, constants_of

_ACTIVATIONS = {b"Tanh": "Tanh", b"Relu": "Relu"}
_DIRECTIONS = {b"forward": (False,), b"reverse": (True,), b"bidirectional": (False, True)}
"""Which ways a layer goes: back or forth."""


def lower_rnn(graph: onnx.GraphProto) -> None:
    """Replace, in place, every RNN with constant weights by products and a scan for each direction.

    For input x (time, batch, inputs), weights W, R and biases b::

        h_t = f(x_t W^T + h_{t-1} R^T + b_W + b_R)

    The way back starts at a row's last valid step. Past a row's length Y is 0, as the operator has
    it, and Y_h is h where the way ends.

    An operator this does not cover (clipped, other activations, weights that are not constant) is
    left as it is.
    """
    constants = constants_of(graph)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if not _covered(node, constants):
            nodes.append(node)
            continue
        builder = GraphBuilder(f"cellar.rnn_{index}.")
        _lower(builder, node, constants)
        nodes.extend(builder.nodes)
        graph.initializer.extend(builder.initializers)
    del graph.node[:]
    graph.node.extend(nodes)


def _covered(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "RNN" or node.domain not in STANDARD_DOMAINS:
        return False
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return (
        attributes.get("layout", 0) == 0
        and "clip" not in attributes
        and all(activation in _ACTIVATIONS for activation in attributes.get("activations", []))
        and all(
            name in constants and constants[name].data_type == TensorProto.FLOAT
            for name in node.input[1:4]
            if name
        )
    )


def _lower(
    builder: GraphBuilder, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> None:
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    backward = _DIRECTIONS[attributes.get("direction", b"forward")]
    activations = attributes.get("activations", [b"Tanh"] * len(backward))
    x, w, r, b, lengths, before, *_ = [*node.input, *[""] * 6]
    weights = numpy_helper.to_array(constants[w])  # (directions, hidden, inputs)
    recurrent = numpy_helper.to_array(constants[r])  # (directions, hidden, hidden)
    hidden = recurrent.shape[-1]
    bias = np.zeros((len(backward), hidden), np.float32)
    if b:
        both = numpy_helper.to_array(constants[b])  # (directions, 2 hidden)
        bias = both[:, :hidden] + both[:, hidden:]
    valid = _valid_steps(builder, x, lengths) if lengths else None
    starts = _starts(builder, x, before, len(backward), hidden)

    paths, ends = [], []
    for number, is_backward in enumerate(backward):
        last, every = _scan(
            builder,
            _Way(
                activation=_ACTIVATIONS[activations[number]],
                weights=weights[number],
                recurrent=recurrent[number],
                bias=bias[number],
                is_backward=is_backward,
            ),
            x,
            starts[number],
            valid,
        )
        if valid is not None:  # once for all steps: cheaper than in the scan
            every = builder.node("Where", valid, every, builder.constant(0.0))
        paths.append(builder.node("Unsqueeze", every, builder.constant([1])))
        ends.append(builder.node("Unsqueeze", last, builder.constant([0])))
    y, y_h = [*node.output, "", ""][:2]
    if y:  # (time, directions, batch, hidden)
        builder.node("Concat", *paths, output=y, axis=1)
    if y_h:  # (directions, batch, hidden)
        builder.node("Concat", *ends, output=y_h, axis=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Way:
    """One direction of a layer."""

    activation: str
    weights: NDArray[np.float32]  # (hidden, inputs)
    recurrent: NDArray[np.float32]  # (hidden, hidden)
    bias: NDArray[np.float32]  # (hidden,)
    is_backward: bool


def _scan(
    builder: GraphBuilder, way: _Way, x: str, start: str, valid: str | None
) -> tuple[str, str]:
    """The last h (batch, hidden) of one direction, and every one (time, batch, hidden)."""
    hidden = len(way.recurrent)
    x = builder.node("MatMul", x, builder.constant(np.ascontiguousarray(way.weights.T)))
    x = builder.node("Add", x, builder.constant(way.bias))  # (time, batch, hidden)
    inside = builder.fresh("body.")
    body = GraphBuilder(inside)
    before = body.input(f"{inside}h", TensorProto.FLOAT, ["batch", hidden])
    x_t = body.input(f"{inside}x_t", TensorProto.FLOAT, ["batch", hidden])
    product = body.node("MatMul", before, body.constant(np.ascontiguousarray(way.recurrent.T)))
    new = body.node(way.activation, body.node("Add", product, x_t))
    scanned = [x]
    if valid is not None:  # h stays before the way back begins, and after the way forth ends
        scanned.append(valid)
        valid_t = body.input(f"{inside}valid_t", TensorProto.BOOL, ["batch", 1])
        new = body.node("Where", valid_t, new, before)
    y_t = body.node("Identity", new)
    body.output(new, TensorProto.FLOAT, ["batch", hidden])
    body.output(y_t, TensorProto.FLOAT, ["batch", hidden])
    last, every = builder.fresh("last"), builder.fresh("every")
    builder.nodes_with(
        "Scan",
        start,
        *scanned,
        outputs=[last, every],
        body=body.graph("rnn_step"),
        num_scan_inputs=len(scanned),
        scan_input_directions=[int(way.is_backward)] * len(scanned),
        scan_output_directions=[int(way.is_backward)],
    )
    return last, every


def _starts(builder: GraphBuilder, x: str, before: str, directions: int, hidden: int) -> list[str]:
    """H before the first step of each direction, (batch, hidden): zeros unless given."""
    if before:
        names = [before]
        if directions > 1:  # Split's form differs between versions of the operators
            names = [
                builder.node("Gather", before, builder.constant([direction]), axis=0)
                for direction in range(directions)
            ]
        return [builder.node("Squeeze", name, builder.constant([0])) for name in names]
    rows = builder.node("Gather", builder.node("Shape", x), builder.constant([1]))
    shape = builder.node("Concat", rows, builder.constant([hidden]), axis=0)
    return [builder.node("ConstantOfShape", shape)] * directions


def _valid_steps(builder: GraphBuilder, x: str, lengths: str) -> str:
    """Whether each step of ``x`` lies within its row's length: (time, batch, 1)."""
    first = builder.constant(np.array(0, np.int64))
    one = builder.constant(np.array(1, np.int64))
    step_count = builder.node("Gather", builder.node("Shape", x), first)  # ()
    steps = builder.node("Range", first, step_count, one)
    steps = builder.node("Unsqueeze", steps, builder.constant([1, 2]))  # (time, 1, 1)
    limit = builder.node("Cast", lengths, to=TensorProto.INT64)
    limit = builder.node("Unsqueeze", limit, builder.constant([1]))  # (batch, 1)
    return builder.node("Less", steps, limit)
