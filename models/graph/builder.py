"""Write ONNX graphs node by node."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9
STANDARD_DOMAINS = ("", "ai.onnx")
CONTRIB = "com.microsoft"
"""Operators that ONNX Runtime adds."""


class GraphBuilder:
    """Collects nodes, constants, inputs and outputs; every call returns a tensor name."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._prefix = prefix
        self._numbers = itertools.count()

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph output that some node produces under this name."""
        self.outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, value: NDArray[Any] | Sequence[int] | float, name: str | None = None) -> str:
        """Add a constant: a Python float is float32, a sequence of ints int64."""
        if isinstance(value, float):
            array = np.array(value, np.float32)
        elif isinstance(value, np.ndarray):
            array = value
        else:
            array = np.array(value, np.int64)
        name = name or self.fresh("constant")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        output = output or self.fresh(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def nodes_with(self, op: str, *inputs: str, outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node with several outputs, named by the caller."""
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **attributes))

    def split(self, x: str, parts: int) -> list[str]:
        """Cut the last axis into equal parts."""
        names = [self.fresh("part") for _ in range(parts)]
        self.nodes_with("Split", x, outputs=names, axis=-1)
        return names

    def graph(self, name: str) -> onnx.GraphProto:
        """The graph so far, for use as a body."""
        return helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, initializer=self.initializers
        )

    def model(self, name: str) -> onnx.ModelProto:
        """The finished model."""
        graph = self.graph(name)
        opsets = [helper.make_opsetid("", OPSET)]
        if CONTRIB in domains(graph):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="cellar"
        )

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        return f"{self._prefix}{stem}_{next(self._numbers)}"


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors that never change: initializers, Constant nodes, and both by another name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:  # in topological order
        if node.domain not in STANDARD_DOMAINS:
            continue
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def domains(graph: onnx.GraphProto) -> set[str]:
    """The domains of a graph's operators, those in its subgraphs included."""
    found: set[str] = set()
    for node in graph.node:
        found.add(node.domain)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                found |= domains(body)
    return found


def tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names a graph gives to tensors, those in its subgraphs included."""
    for value in graph.input:
        yield value.name
    for tensor in graph.initializer:
        yield tensor.name
    for node in graph.node:
        yield from node.output
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from tensor_names(body)


FLOAT = TensorProto.FLOAT
INT32 = TensorProto.INT32
INT64 = TensorProto.INT64
BOOL = TensorProto.BOOL
UINT8 = TensorProto.UINT8
