"""Writes graphs with fewer operators, for devices that launch each by itself.

What `cellar-train` exports is written for every runtime and for any number of time steps. On a
GPU an operator on a few numbers costs its launch and nothing else, so what is computed once for
many is cheaper there. The numbers stay what they were but for their last bits, and a row's do not
depend on its neighbours. Graphs for the CPU are left alone: sessions that are stored hang on them.
"""

from collections.abc import Mapping
from types import MappingProxyType

import onnx

from models.graph.leaning import layouts, numbers
from models.graph.leaning.known import KnownGraph
from models.graph.pruning import prune

_REWRITES = (
    layouts.constants,
    layouts.cuts,
    layouts.parts,
    layouts.layouts,
    layouts.casts,
    numbers.logarithms,
    numbers.bounds,
    numbers.rationals,
)
_PREFIX = "cellar.lean_"


def lean(graph: onnx.GraphProto, *, after: Mapping[str, str] | None = None) -> onnx.GraphProto:
    """The same with fewer operators that take time; inputs and outputs keep their names.

    One with graphs inside its operators is left alone. ``after`` has an input for each of some
    outputs, of its shape: the output hangs on it afterwards too, so that what it is written over
    has been read.
    """
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return graph
    for rewrite in _REWRITES:
        work = KnownGraph(graph, f"{_PREFIX}{rewrite.__name__}.")
        work.replace(rewrite(work))
        graph = prune(graph, outputs=[value.name for value in graph.output])
    work = KnownGraph(graph, f"{_PREFIX}order.")
    work.replace(layouts.order(work, after or {}))
    return graph


def lean_models(models: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The same for whole models, by name."""
    return MappingProxyType({name: lean_model(model) for name, model in models.items()})


def lean_model(model: bytes) -> bytes:
    """The same for a whole model."""
    proto = onnx.load_from_string(model)
    proto.graph.CopyFrom(lean(proto.graph))
    return proto.SerializeToString()
