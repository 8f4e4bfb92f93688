"""Rewrite operators whose arithmetic depends on the batch.

ONNX Runtime's ``RNN`` operator on the CPU multiplies unpacked matrices, so a row's bits change
with the size of its batch (its LSTM and GRU do not: constant weights are packed). A scan over
packed products has the same bits for one row or many, for one step or many, and is faster.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.graph import GraphBuilder

_ACTIVATIONS = {"Tanh": "Tanh", "Relu": "Relu"}


def lower_rnn(graph: onnx.GraphProto) -> None:
    """Replace, in place, every forward RNN with constant weights by products and a scan.

    For input x (time, batch, inputs), weights W, R and biases b::

        h_t = f(x_t W^T + h_{t-1} R^T + b_W + b_R)

    An operator this does not cover (reverse, clipped, other activations, weights that are not
    constant) is left as it is.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
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
    if node.op_type != "RNN" or node.domain:
        return False
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    activations = [name.decode() for name in attributes.get("activations", [b"Tanh"])]
    return (
        attributes.get("direction", b"forward") == b"forward"
        and attributes.get("layout", 0) == 0
        and "clip" not in attributes
        and len(activations) == 1
        and activations[0] in _ACTIVATIONS
        and all(name in constants for name in node.input[1:4] if name)
        and len(node.input) > 5
        and bool(node.input[5])
    )


def _lower(
    builder: GraphBuilder, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> None:
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    activation = _ACTIVATIONS[attributes.get("activations", [b"Tanh"])[0].decode()]
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
    time = builder.node("Shape", x, start=0, end=1)
    step_count = builder.node("Squeeze", time, zero)
    steps = builder.node(
        "Range",
        builder.constant(np.array(0, np.int64)),
        step_count,
        builder.constant(np.array(1, np.int64)),
    )
    if lengths:
        limit = builder.node("Cast", lengths, to=TensorProto.INT64)
        limit = builder.node("Unsqueeze", limit, builder.constant([1]))  # (batch, 1)
    else:
        limit = builder.node("Reshape", time, builder.constant([1, 1]))

    body = GraphBuilder(f"{node.output[0] or node.output[1]}.body.")
    before = body.input("cellar.h", TensorProto.FLOAT, ["batch", hidden])
    x_t = body.input("cellar.x_t", TensorProto.FLOAT, ["batch", hidden])
    t = body.input("cellar.t", TensorProto.INT64, [])
    product = body.node("MatMul", before, body.constant(np.ascontiguousarray(recurrent.T)))
    new = body.node(activation, body.node("Add", product, x_t))
    valid = body.node("Less", t, limit)
    body.node("Where", valid, new, before, output="cellar.h_next")
    body.node("Identity", "cellar.h_next", output="cellar.y_t")
    body.output("cellar.h_next", TensorProto.FLOAT, ["batch", hidden])
    body.output("cellar.y_t", TensorProto.FLOAT, ["batch", hidden])

    last = f"{node.output[0] or node.output[1]}.cellar_last"
    every = f"{last}_every"
    builder.nodes_with(
        "Scan",
        h,
        x,
        steps,
        outputs=[last, every],
        body=body.graph("rnn_step"),
        num_scan_inputs=2,
    )
    outputs = [*node.output, "", ""][:2]
    if outputs[0]:
        builder.node("Unsqueeze", every, builder.constant([1]), output=outputs[0])
    if outputs[1]:
        builder.node("Unsqueeze", last, zero, output=outputs[1])
