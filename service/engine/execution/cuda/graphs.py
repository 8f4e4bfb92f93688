"""The small graphs that move rows on a device, and what a graph needs to run there.

Knows nothing of how a graph is run.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.compile.serving import ArenaAccess, ArenaTensor, Device, ServingGraph
from models.graph.builder import FLOAT, INT64, STANDARD_DOMAINS, GraphBuilder

FILLED = "filled"
SHAPE = "shape"
VALUES = "values"
FOUND = "found"


def fill(value: float) -> bytes:
    """``SHAPE`` (rank,) -> ``FILLED`` of that shape, full of a value."""
    graph = GraphBuilder()
    graph.input(SHAPE, INT64, ["rank"])
    tensor = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
    graph.node("ConstantOfShape", SHAPE, output=FILLED, value=tensor)
    graph.output(FILLED, FLOAT, ["size"])
    return graph.model("fill").SerializeToString()


def copy() -> bytes:
    """``VALUES`` (size,) -> ``FILLED``, the same."""
    graph = GraphBuilder()
    graph.input(VALUES, FLOAT, ["size"])
    graph.node("Identity", VALUES, output=FILLED)
    graph.output(FILLED, FLOAT, ["size"])
    return graph.model("copy").SerializeToString()


def move(arena: Sequence[ArenaTensor]) -> bytes:
    """Copy the rows that are read to those that are written, of every tensor, in place."""
    graph = GraphBuilder()
    access = ArenaAccess(graph, Device.CUDA)
    for tensor in arena:
        access.write(tensor, access.read(tensor))
    return graph.model("move").SerializeToString()


def scatter(arena: Sequence[ArenaTensor], sources: Sequence[str]) -> bytes:
    """Write new rows, one of ``sources`` (batch, *shape) for each tensor, to those written."""
    graph = GraphBuilder()
    access = ArenaAccess(graph, Device.CUDA)
    for tensor, source in zip(arena, sources, strict=True):
        access.write(tensor, graph.input(source, FLOAT, ["batch", *tensor.shape]))
    return graph.model("scatter").SerializeToString()


def fetched(tensors: int) -> list[str]:
    """What `gather` calls the rows of so many tensors."""
    return [f"{FOUND}_{number}" for number in range(tensors)]


def gather(arena: Sequence[ArenaTensor]) -> bytes:
    """The rows that are read, (batch, *shape) of each tensor, under the names of `fetched`."""
    graph = GraphBuilder()
    access = ArenaAccess(graph, Device.CUDA)
    for tensor, name in zip(arena, fetched(len(arena)), strict=True):
        access.read(tensor, output=name)
        graph.output(name, FLOAT, ["batch", *tensor.shape])
    return graph.model("gather").SerializeToString()


def given(tensors: int) -> list[str]:
    """What new rows of so many tensors are called."""
    return [f"new_{number}" for number in range(tensors)]


def fetch(tensor: ArenaTensor) -> bytes:
    """``FOUND`` (batch, *shape): the rows that are read, of one tensor."""
    graph = GraphBuilder()
    ArenaAccess(graph, Device.CUDA).read(tensor, output=FOUND)
    graph.output(FOUND, FLOAT, ["batch", *tensor.shape])
    return graph.model("fetch").SerializeToString()


def all_runnable(graph: ServingGraph) -> ServingGraph:
    """What is served, its steps and its heads made `runnable`."""
    return replace(
        graph,
        step=None if graph.step is None else runnable(graph.step),
        heads={name: runnable(head) for name, head in graph.heads.items()},
    )


def runnable(model: bytes) -> bytes:
    """The same graph without the operators that ONNX Runtime has no CUDA kernel for.

    That is ``Asinh``, of all that Cellar writes. ``asinh(x) = sign(x) log(|x| + sqrt(x² + 1))``,
    in double precision: near 0 the sum rounds to 1 in float32, and x² would overflow.
    """
    proto = onnx.load_from_string(model)
    nodes: list[onnx.NodeProto] = []
    builder = GraphBuilder("cellar.asinh.")
    for node in proto.graph.node:
        if node.op_type == "Asinh" and node.domain in STANDARD_DOMAINS:
            _add_asinh(builder, node.input[0], node.output[0])
            nodes.extend(builder.nodes)
            builder.nodes.clear()
        else:
            nodes.append(node)
    if not builder.initializers:
        return model
    proto.graph.initializer.extend(builder.initializers)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto.SerializeToString()


def _add_asinh(graph: GraphBuilder, x: str, output: str) -> None:
    size = graph.node("Abs", graph.node("Cast", x, to=TensorProto.DOUBLE))
    one = graph.constant(np.array(1, np.float64))
    root = graph.node("Sqrt", graph.node("Add", graph.node("Mul", size, size), one))
    found = graph.node("Log", graph.node("Add", size, root))
    found = graph.node("Cast", found, to=TensorProto.FLOAT)
    graph.node("Mul", found, graph.node("Sign", x), output=output)
