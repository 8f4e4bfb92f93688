"""Rewrite operators whose arithmetic depends on the batch.

ONNX Runtime's ``RNN`` operator on the CPU multiplies unpacked matrices, so a row's bits change
with the size of its batch (its LSTM and GRU do not: constant weights are packed). A scan over
packed products has the same bits for one row or many, for one step or many, and is faster.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.graph import STANDARD_DOMAINS, GraphBuilder, constants_of

_ACTIVATIONS = {b"Tanh": "Tanh", b"Relu": "Relu"}


def lower_rnn(graph: onnx.GraphProto) -> None:
    """Replace, in place, every forward RNN with constant weights by products and a scan.

    For input x (time, batch, inputs), weights W, R and biases b::

        h_t = f(x_t W^T + h_{t-1} R^T + b_W + b_R)

    Past a row's length Y is 0 and Y_h stays at its last valid step, as the operator has it.

    An operator this does not cover (reverse, clipped, other activations, weights that are not
    constant) is left as it is.
    """
    constants = constants_of(graph)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if not _covered(node, constants):
            nodes.append(node)
            continue
        prefix = f"cellar.rnn_{index}."
        builder = GraphBuilder(prefix)
        _lower(builder, prefix, node, constants)
        nodes.extend(builder.nodes)
        graph.initializer.extend(builder.initializers)
    del graph.node[:]
    graph.node.extend(nodes)


def _covered(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "RNN" or node.domain not in STANDARD_DOMAINS:
        return False
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    activations = attributes.get("activations", [b"Tanh"])
    return (
        attributes.get("direction", b"forward") == b"forward"
        and attributes.get("layout", 0) == 0
        and "clip" not in attributes
        and len(activations) == 1
        and activations[0] in _ACTIVATIONS
        and all(
            name in constants and constants[name].data_type == TensorProto.FLOAT
            for name in node.input[1:4]
            if name
        )
        and len(node.input) > 5
        and bool(node.input[5])
    )


def _lower(
    builder: GraphBuilder,
    prefix: str,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
) -> None:
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    activation = _ACTIVATIONS[attributes.get("activations", [b"Tanh"])[0]]
    weights = numpy_helper.to_array(constants[node.input[1]])[0]  # (hidden, inputs)
    recurrent = numpy_helper.to_array(constants[node.input[2]])[0]  # (hidden, hidden)
    hidden = recurrent.shape[0]
    bias = np.zeros(hidden, np.float32)
    if node.input[3]:
        both = numpy_helper.to_array(constants[node.input[3]])[0]  # (2 hidden,)
        bias = both[:hidden] + both[hidden:]
    lengths = node.input[4]

    x = builder.node("MatMul", node.input[0], builder.constant(np.ascontiguousarray(weights.T)))
    x = builder.node("Add", x, builder.constant(bias))  # (time, batch, hidden)
    zero = builder.constant([0])
    h = builder.node("Squeeze", node.input[5], zero)  # (batch, hidden)

    inside = f"{prefix}body."
    body = GraphBuilder(inside)
    before = body.input(f"{inside}h", TensorProto.FLOAT, ["batch", hidden])
    x_t = body.input(f"{inside}x_t", TensorProto.FLOAT, ["batch", hidden])
    product = body.node("MatMul", before, body.constant(np.ascontiguousarray(recurrent.T)))
    new = body.node(activation, body.node("Add", product, x_t))
    scanned = [x]
    valid = _valid_steps(builder, x, lengths) if lengths else None
    if valid is not None:
        scanned.append(valid)
        valid_t = body.input(f"{inside}valid_t", TensorProto.BOOL, ["batch", 1])
        new = body.node("Where", valid_t, new, before)
    y_t = body.node("Identity", new)
    body.output(new, TensorProto.FLOAT, ["batch", hidden])
    body.output(y_t, TensorProto.FLOAT, ["batch", hidden])

    last, every = f"{prefix}last", f"{prefix}every"
    builder.nodes_with(
        "Scan",
        h,
        *scanned,
        outputs=[last, every],
        body=body.graph("rnn_step"),
        num_scan_inputs=len(scanned),
    )
    outputs = [*node.output, "", ""][:2]
    if outputs[0]:
        if valid is not None:  # once for all steps: cheaper than in the scan
            every = builder.node("Where", valid, every, builder.constant(0.0))
        builder.node("Unsqueeze", every, builder.constant([1]), output=outputs[0])
    if outputs[1]:
        builder.node("Unsqueeze", last, zero, output=outputs[1])


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
