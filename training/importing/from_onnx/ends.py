"""Makes "the last step" each row's own last step, in a batch of sequences of different length."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.graph.builder import INT64, GraphBuilder, constants_of


def last_at_lengths(graph: onnx.GraphProto, lengths: str) -> None:
    """Let every ``y[:, -1]`` or ``y[-1]`` over steps take what lies at ``lengths - 1`` instead.

    Which axes are steps is not known here: whoever asks for this has to compare the results.
    """
    constants = constants_of(graph)
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        axis = _axis_of_last(node, constants)
        if axis is None or not _follows_sequence(node, graph):
            nodes.append(node)
            continue
        builder = GraphBuilder(f"last_{number}.")
        steps = node.input[0]
        if axis == 0:  # (time, batch, width)
            steps = builder.node("Transpose", steps, perm=[1, 0, 2])
        one = builder.constant([1])
        last = builder.node("Sub", builder.node("Cast", lengths, to=INT64), one)
        last = builder.node("Unsqueeze", last, one)  # (batch, 1)
        builder.node("GatherND", steps, last, output=node.output[0], batch_dims=1)
        nodes.extend(builder.nodes)
        graph.initializer.extend(builder.initializers)
    del graph.node[:]
    graph.node.extend(nodes)


def _axis_of_last(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int | None:
    """The axis of which a node takes the last place, if it does that."""
    if node.op_type != "Gather" or node.input[1] not in constants:
        return None
    index = numpy_helper.to_array(constants[node.input[1]])
    if index.shape != () or int(np.asarray(index)) != -1:
        return None
    axes = [helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "axis"]
    axis = int(axes[0]) if axes else 0
    return axis if axis in (0, 1) else None


def _follows_sequence(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a node reads the outputs of a recurrent operator for every step."""
    producers = {name: other for other in graph.node for name in other.output if name}
    name = node.input[0]
    while (producer := producers.get(name)) is not None:
        if producer.op_type in ("LSTM", "GRU", "RNN"):
            return bool(name == producer.output[0])
        if producer.op_type not in ("Transpose", "Squeeze", "Reshape", "Identity"):
            return False
        name = producer.input[0]
    return False
