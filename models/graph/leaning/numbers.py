"""Rewrites of what is computed: the same numbers but for their last bits."""

from typing import TypeAlias

import numpy as np
from onnx import TensorProto

from models.graph.leaning.known import KnownGraph, both_ways

Polynomial: TypeAlias = tuple[str, list[float]]
"""Its variable, and its coefficients, lowest power first."""


def logarithms(graph: KnownGraph) -> dict[str, str]:
    """Logarithms that were written with asinh, for the CPU's have other bits in other company.

    ``log x = asinh((x - 1/x) / 2)`` and ``log x/p = asinh((x - p)/p (x + p)/x / 2)``, for what is
    positive. In double precision, in which those of x near p keep their digits.
    """
    build = graph.builder
    changed: dict[str, str] = {}
    for node in graph.proto.node:
        half = graph.by_constant(node.input[0], "Mul") if node.op_type == "Asinh" else None
        if half is None or half[1] != 0.5:
            continue
        wide = None
        if (pair := graph.operands(half[0], "Sub")) is not None:
            inverse = graph.made(pair[1], "Reciprocal")
            if inverse is not None and inverse.input[0] == pair[0]:
                wide = build.node("Cast", pair[0], to=TensorProto.DOUBLE)
        elif (ratio := _ratio(graph, half[0])) is not None:
            x, p = (build.node("Cast", name, to=TensorProto.DOUBLE) for name in ratio)
            wide = build.node("Div", x, p)
        if wide is not None:
            log = build.node("Log", wide)
            changed[node.output[0]] = build.node("Cast", log, to=TensorProto.FLOAT)
    return changed


def _ratio(graph: KnownGraph, name: str) -> tuple[str, str] | None:
    """X and p, of ``(x - p)/p (x + p)/x``."""
    for one, other in both_ways(graph.operands(name, "Mul")):
        low, high = graph.operands(one, "Div"), graph.operands(other, "Div")
        if low is None or high is None:
            continue
        x, p = high[1], low[1]
        if graph.operands(low[0], "Sub") == (x, p) and (x, p) in both_ways(
            graph.operands(high[0], "Add")
        ):
            return x, p
    return None


def bounds(graph: KnownGraph) -> dict[str, str]:
    """Parts that are each kept within bounds are kept within them before they are taken apart."""
    build = graph.builder
    changed: dict[str, str] = {}
    for node in graph.proto.node:
        if node.op_type != "Split" or not node.attribute:
            continue
        readers = [graph.readers[name] for name in node.output]
        clips = [own[0] for own in readers if len(own) == 1 and own[0].op_type == "Clip"]
        found = [[graph.scalar(name) for name in clip.input[1:]] for clip in clips]
        width = graph.size(node.output[0], -1)
        is_last = graph.axis(node.input[0], node.attribute[0].i) == graph.axis(node.input[0], -1)
        bounds = [bound for own in found for bound in own if bound is not None]
        if not is_last or width is None or len(bounds) != 2 * len(node.output):
            continue
        low, high = np.repeat(np.array(bounds, np.float32).reshape(-1, 2).T, width, axis=1)
        within = build.node("Max", node.input[0], build.constant(low))
        within = build.node("Min", within, build.constant(high))
        parts = build.split(within, len(node.output))
        changed.update(zip((clip.output[0] for clip in clips), parts, strict=True))
    return changed


def rationals(graph: KnownGraph) -> dict[str, str]:
    """Quotients of polynomials, all by the same few operators.

    They are computed side by side, as Horner has it, numerators over denominators; a missing
    coefficient is a 0, which changes no bit.
    """
    build = graph.builder
    found: dict[str, tuple[str, list[float], list[float]]] = {}
    for node in graph.proto.node:
        pair = graph.operands(node.output[0], "Div")
        above, below = map(_Horner(graph).read, pair) if pair is not None else (None, None)
        if above is not None and below is not None and above[0] == below[0]:
            found[node.output[0]] = above[0], above[1], below[1]
    ranks = {len(graph.shapes.get(r, ())) for r, _, _ in found.values()}
    hang = graph.ancestors([r for r, _, _ in found.values()])
    if len(found) < 2 or len(ranks) != 1 or hang & found.keys():
        return {}
    (rank,) = ranks
    last = build.constant([rank])
    beside = [build.node("Unsqueeze", r, last) for r, _, _ in found.values()]
    x = build.node("Concat", *beside, axis=rank)  # (*shape, quotients)
    terms = max(len(part) for _, *parts in found.values() for part in parts)
    table = np.zeros((terms, 2, len(found)), np.float32)
    for number, (_, *parts) in enumerate(found.values()):
        for place, part in enumerate(parts):
            table[: len(part), place, number] = part
    powers = [
        build.constant(row.reshape(2, *[1] * rank, len(found))) for row in table
    ]  # lowest first
    value = powers.pop()
    while powers:
        value = build.node("Add", build.node("Mul", value, x), powers.pop())
    above_all, below_all = (build.fresh("polynomials") for _ in range(2))
    build.nodes_with("Split", value, outputs=[above_all, below_all], axis=0)
    quotients = build.split(build.node("Div", above_all, below_all), len(found))
    aside = build.constant([0, rank + 1])
    return {
        name: build.node("Squeeze", own, aside) for name, own in zip(found, quotients, strict=True)
    }


class _Horner:
    """Reads polynomials that are written as ``((c x + b) x + a)``."""

    def __init__(self, graph: KnownGraph) -> None:
        self._graph = graph

    def read(self, name: str) -> Polynomial | None:
        """A polynomial of the first degree or a higher one."""
        added = self._graph.by_constant(name, "Add")
        if added is None:
            return None
        product, lowest = added
        first = self._graph.by_constant(product, "Mul")
        if first is not None:
            return first[0], [lowest, first[1]]
        for inner, x in both_ways(self._graph.operands(product, "Mul")):
            found = self.read(inner)
            if found is not None and found[0] == x:
                return x, [lowest, *found[1]]
        return None
