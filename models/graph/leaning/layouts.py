"""Rewrites of what only moves numbers, for a step that was written as one of many."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.graph.leaning.known import KnownGraph


def constants(graph: KnownGraph) -> dict[str, str]:
    """What hangs on constants alone, as far as it says shapes or makes other types of them."""
    changed: dict[str, str] = {}
    for node in graph.proto.node:
        if node.op_type not in ("Cast", "Unsqueeze") or not all(
            name in graph.constants for name in node.input
        ):
            continue
        found = graph.constants[node.input[0]]
        if node.op_type == "Cast":
            found = found.astype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        else:
            found = np.expand_dims(found, tuple(graph.ints(node.input[1]) or ()))
        graph.constants[node.output[0]] = found
        changed[node.output[0]] = graph.builder.constant(found)
    return changed


def cuts(graph: KnownGraph) -> dict[str, str]:
    """Slices that give back what was put together before, or all of it."""
    changed: dict[str, str] = {}
    for node in graph.proto.node:
        cut = _cut(graph, node)
        if cut is None:
            continue
        x, axis, start, stop = cut
        found = x if (start, stop) == (0, graph.size(x, axis)) else _put_in(graph, *cut)
        if found is not None:
            changed[node.output[0]] = found
    return changed


def _cut(graph: KnownGraph, node: onnx.NodeProto) -> tuple[str, int, int, int] | None:
    """What a slice along one axis cuts: a tensor, the axis, the first and the last but one."""
    if node.op_type != "Slice":
        return None
    starts, ends, axes = (graph.ints(name) for name in [*node.input[1:], "", ""][:3])
    steps = graph.ints(node.input[4]) if len(node.input) > 4 else [1]
    if starts is None or ends is None or axes is None or len(axes) != 1 or steps != [1]:
        return None
    axis = graph.axis(node.input[0], axes[0])
    size = None if axis is None else graph.size(node.input[0], axis)
    if axis is None or size is None:
        return None
    start, stop, _ = slice(starts[0], ends[0]).indices(size)
    return (node.input[0], axis, start, stop) if start < stop else None


def _put_in(graph: KnownGraph, name: str, axis: int, start: int, stop: int) -> str | None:
    """The one tensor that was put in the place of a part, in the layout of the whole."""
    if (node := graph.made(name, "Concat")) is not None:
        place = 0
        for own in node.input if graph.axis(name, node.attribute[0].i) == axis else ():
            size = graph.size(own, axis)
            if size is None:
                return None
            if (place, place + size) == (start, stop):
                return own
            place += size
    elif (node := graph.made(name, "Transpose")) is not None and node.attribute:
        order = [*node.attribute[0].ints]
        found = _put_in(graph, node.input[0], order[axis], start, stop)
        if found is not None:
            return graph.builder.node("Transpose", found, perm=order)
    elif (node := graph.made(name, "Unsqueeze")) is not None:
        added = [graph.axis(name, one) for one in graph.ints(node.input[1]) or ()]
        before = sum(one < axis for one in added if one is not None)
        if axis not in added and None not in added:
            found = _put_in(graph, node.input[0], axis - before, start, stop)
            if found is not None:
                return graph.builder.node("Unsqueeze", found, node.input[1])
    return None


def parts(graph: KnownGraph) -> dict[str, str]:
    """Slices that share a tensor among them in equal parts are one split."""
    slices: dict[tuple[str, int], dict[tuple[int, int], list[str]]] = defaultdict(dict)
    for node in graph.proto.node:
        cut = _cut(graph, node)
        if cut is not None:
            x, axis, start, stop = cut
            slices[x, axis].setdefault((start, stop), []).append(node.output[0])
    changed: dict[str, str] = {}
    for (x, axis), parts in slices.items():
        size = graph.size(x, axis)
        assert size is not None, "it has a cut"
        width = size // len(parts)
        if (
            len(parts) < 2
            or size % len(parts)
            or sorted(parts) != [(start, start + width) for start in range(0, size, width)]
        ):
            continue
        made = [graph.builder.fresh("part") for _ in parts]
        graph.builder.nodes_with("Split", x, outputs=made, axis=axis)
        for new, place in zip(made, sorted(parts), strict=True):
            changed.update(dict.fromkeys(parts[place], new))
    return changed


def layouts(graph: KnownGraph) -> dict[str, str]:
    """What only says another shape copies nothing; nor does a sum with 0, or a single part."""
    changed: dict[str, str] = {}
    for node in graph.proto.node:
        x, result = node.input[0] if node.input else "", node.output[0]
        if node.op_type == "Concat" and len(node.input) == 1:
            changed[result] = x
            continue
        if node.op_type == "Add":
            given = graph.by_constant(result, "Add")
            if given is None or given[1] != 0:
                continue
            x = given[0]
        elif node.op_type != "Transpose":
            continue
        before, after = graph.shapes.get(x), graph.shapes.get(result)
        if before is None or after is None:
            continue
        order = [*node.attribute[0].ints] if node.attribute else [*range(len(before))]
        moves = [axis for axis in order if before[axis] != 1]
        if moves == sorted(moves) and _wide(before) == _wide(after):
            changed[result] = graph.laid_out(x, before, after)
    return changed


def _wide(shape: Sequence[int | str]) -> list[int | str]:
    return [size for size in shape if size != 1]


def casts(graph: KnownGraph) -> dict[str, str]:
    """Counts that are made int64 on their way to int32."""
    changed: dict[str, str] = {}
    for node in graph.proto.node:
        if node.op_type != "Cast" or node.attribute[0].i != TensorProto.INT32:
            continue
        between: list[onnx.NodeProto] = []
        made = graph.producers.get(node.input[0])
        while made is not None and made.op_type in ("Squeeze", "Unsqueeze"):
            between.append(made)
            made = graph.producers.get(made.input[0])
        if made is None or made.op_type != "Cast" or made.attribute[0].i != TensorProto.INT64:
            continue
        found = made.input[0]
        for layout in reversed(between):
            found = graph.builder.node(layout.op_type, found, *layout.input[1:])
        changed[node.output[0]] = graph.builder.node("Cast", found, to=TensorProto.INT32)
    return changed


def order(graph: KnownGraph, after: Mapping[str, str]) -> dict[str, str]:
    """Outputs that do not hang on what is to be read before them seem to choose between both."""
    for name, before in after.items():
        node = graph.producers.get(name)
        if node is None or before in graph.ancestors([name]):
            continue
        own = graph.builder.fresh("own")
        node.output[[*node.output].index(name)] = own
        always = graph.builder.constant(np.array([True]))
        graph.builder.node("Where", always, own, before, output=name)
    return {}
