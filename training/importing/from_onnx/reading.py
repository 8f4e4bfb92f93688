"""Reads a plain stack out of an external graph, to be compiled as our own models are."""

import numpy as np
import onnx

from models.compile.recognition import Reader, UnrecognisedError
from models.graph.cells import Layer
from training.export.operator import Floats, Operator
from training.importing.stack import Head, Stack


def read_stack(proto: onnx.ModelProto, *, steps: str, prediction: str) -> Stack | None:
    """An embedding, forward layers and a linear head, if that is what the graph looks like.

    Whether it is nothing else, only a comparison tells.
    """
    try:
        return _read(proto, steps=steps, prediction=prediction)
    except UnrecognisedError:
        return None


def _read(proto: onnx.ModelProto, *, steps: str, prediction: str) -> Stack | None:
    reader = Reader(proto.graph)
    found = _head(reader, prediction)
    if found is None:
        return None
    head, x = found
    layers: list[Operator] = []
    while (node := reader.producers.get(reader.origin(x))) is not None:
        layer = reader.layer(node)
        if layer is None or reader.origin(x) != node.output[0]:
            break
        layers.insert(0, _operator(layer))
        x = node.input[0]
    if not layers or node is None or node.op_type != "Gather":
        return None
    table = reader.constants.get(node.input[0])
    if table is None or len(table.dims) != 2 or reader.origin(node.input[1]) != steps:
        return None
    return Stack(embedding=reader.constant(node.input[0]), layers=tuple(layers), head=head)


def _head(reader: Reader, prediction: str) -> tuple[Head, str] | None:
    """The linear layer that ends in the prediction, and what it reads."""
    node = reader.producers.get(reader.origin(prediction))
    bias: Floats | None = None
    if node is not None and node.op_type == "Add":
        constants = [name for name in node.input if name in reader.constants]
        others = [name for name in node.input if name not in reader.constants]
        if len(constants) != 1:
            return None
        bias = reader.constant(constants[0])
        node = reader.producers.get(reader.origin(others[0]))
    if node is None or node.op_type != "MatMul" or node.input[1] not in reader.constants:
        return None
    weight = reader.constant(node.input[1])  # (inputs, outputs)
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[1:]):
        return None
    zeros = np.zeros(weight.shape[1], np.float32)
    return Head(weight=weight, bias=zeros if bias is None else bias), node.input[0]


def _operator(layer: Layer) -> Operator:
    return Operator(
        op=layer.cell,
        w=np.ascontiguousarray(layer.weights.T)[np.newaxis],
        r=np.ascontiguousarray(layer.recurrent.T)[np.newaxis],
        b=np.concatenate([layer.input_bias, layer.recurrent_bias])[np.newaxis],
    )
