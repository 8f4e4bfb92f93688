"""Cut the part of a graph that some tensors hang on."""

from collections.abc import Collection

import onnx
from onnx import helper

from models.errors import ModelError


def prune(
    graph: onnx.GraphProto, *, outputs: Collection[str], inputs: Collection[str] | None = None
) -> onnx.GraphProto:
    """Return the part of ``graph`` that produces ``outputs``.

    With ``inputs``, the part is cut at those tensors: each becomes a graph input without a
    shape, and no other graph input may be left.

    Raises:
        ModelError: the outputs hang on a graph input that is not in ``inputs``.
    """
    cut = set(inputs or ())
    producers = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    kept: set[int] = set()
    frontier = list(outputs)
    while frontier:
        name = frontier.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in cut or name not in producers:
            continue
        node = producers[name]
        kept.add(id(node))
        frontier.extend(_reads(node))
    constants = [tensor for tensor in graph.initializer if tensor.name in needed - cut]
    # Before IR version 4 every initializer was a graph input too, those cut away included.
    constant_names = {tensor.name for tensor in graph.initializer}
    declared = {value.name: value for value in graph.input}
    if inputs is None:
        graph_inputs = [value for name, value in declared.items() if name not in constant_names]
    else:
        foreign = sorted((needed & declared.keys()) - cut - constant_names)
        if foreign:
            raise ModelError(
                f"{', '.join(outputs)} must hang on {', '.join(sorted(cut))} alone, but needs "
                f"graph input '{foreign[0]}'"
            )
        graph_inputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs
        ]
    return helper.make_graph(
        [node for node in graph.node if id(node) in kept],
        graph.name or "model",
        graph_inputs,
        [value for value in graph.output if value.name in set(outputs)],
        initializer=constants,
    )


def _reads(node: onnx.NodeProto) -> list[str]:
    """The tensors a node reads, those of its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            inner = {value.name for value in body.input}
            inner |= {tensor.name for tensor in body.initializer}
            inner |= {name for child in body.node for name in child.output}
            for child in body.node:
                names.extend(name for name in _reads(child) if name not in inner)
            names.extend(value.name for value in body.output if value.name not in inner)
    return names
