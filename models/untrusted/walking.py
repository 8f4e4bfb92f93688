"""Goes through everything that an ONNX model holds, however deep, within bounds.

Knows nothing of what may be in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from models.errors import ModelError

MOST_NODES = 100_000
"""Operators of a model, those of inner graphs and local functions with them: ONNX Runtime's time
to optimise a graph grows faster than it."""
DEEPEST = 12
"""Graphs within graphs: readers in C++ follow them by recursion."""

_Part: TypeAlias = onnx.GraphProto | onnx.FunctionProto


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A graph, or the body of a local function; ``depth`` is 0 where it is in no other."""

    graph: _Part
    depth: int
    is_function: bool


def parts_of(proto: onnx.ModelProto, *, where: str) -> Iterator[Inside]:
    """Every graph and function of a model, each before what is in it.

    Raises:
        ModelError: there are more operators, or graphs in graphs, than a model may have.
    """
    nodes = 0
    left = [Inside(graph=one, depth=0, is_function=True) for one in proto.functions]
    left.append(Inside(graph=proto.graph, depth=0, is_function=False))
    while left:
        part = left.pop()
        nodes += len(part.graph.node)
        if nodes > MOST_NODES:
            raise ModelError(
                f"{where}: it has more than {MOST_NODES:,} operators, the most that a model may "
                "have: export it with loops as Loop or Scan, or as LSTM, GRU or RNN"
            )
        if part.depth > DEEPEST:
            raise ModelError(
                f"{where}: its graphs lie in one another more than {DEEPEST} deep: export it "
                "without so many nested loops"
            )
        yield part
        for node in part.graph.node:
            for attribute in node.attribute:
                bodies = [attribute.g] if attribute.HasField("g") else []
                left += [
                    Inside(graph=body, depth=part.depth + 1, is_function=part.is_function)
                    for body in (*bodies, *attribute.graphs)
                ]


def tensors_in(part: Inside) -> Iterator[onnx.TensorProto]:
    """Every constant tensor of a graph, without those of the graphs in it; sparse ones' parts."""
    if isinstance(part.graph, onnx.GraphProto):
        yield from part.graph.initializer
    for node in part.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
    for sparse in sparse_in(part):
        yield sparse.values
        yield sparse.indices


def sparse_in(part: Inside) -> Iterator[onnx.SparseTensorProto]:
    """Every sparse tensor of a graph, without those of the graphs in it."""
    if isinstance(part.graph, onnx.GraphProto):
        yield from part.graph.sparse_initializer
    for node in part.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors
