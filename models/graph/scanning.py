"""Many time steps of a layer: a scan over the cells that single steps run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from models.graph.builder import FLOAT, INT64, GraphBuilder
from models.graph.cells import Arithmetic, Layer

Advance: TypeAlias = Callable[[GraphBuilder, Sequence[str], Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The extent of a chunk: tensors that the layers of one graph share."""

    extent: str
    """time, batch and -1: (3,) int64"""
    last: str | None
    """each row's last valid step, as an index into (time, batch): (batch, 2) int64"""

    @classmethod
    def of(cls, graph: GraphBuilder, x: str, lengths: str | None) -> "Steps":
        """For x (time, batch, ...) and lengths (batch,) int32."""
        shape = graph.node("Shape", x, start=0, end=2)
        extent = graph.node("Concat", shape, graph.constant([-1]), axis=0)
        if lengths is None:
            return cls(extent=extent, last=None)
        one = graph.constant(np.array(1, np.int64))
        end = graph.node("Sub", graph.node("Cast", lengths, to=INT64), one)
        batch = graph.node("Gather", shape, one)
        rows = graph.node("Range", graph.constant(np.array(0, np.int64)), batch, one)
        aside = graph.constant([1])
        last = graph.node(
            "Concat",
            graph.node("Unsqueeze", end, aside),
            graph.node("Unsqueeze", rows, aside),
            axis=1,
        )
        return cls(extent=extent, last=last)

    def flat(self, graph: GraphBuilder, x: str) -> str:
        """(time, batch, width) -> (time * batch, width)."""
        return graph.node("Flatten", x, axis=2)

    def by_time(self, graph: GraphBuilder, tensors: Sequence[str]) -> list[str]:
        """(time * batch, width) -> (time, batch, width), each."""
        return [graph.node("Reshape", tensor, self.extent) for tensor in tensors]


def last_steps(graph: GraphBuilder, path: str, steps: Steps) -> str:
    """The state after each row's last valid step: (time, batch, ...) -> (batch, ...).

    Rows run on past their length, over whatever pads them, and what they come to is not used:
    cheaper than to hold them back at every step.
    """
    assert steps.last is not None, "a graph that keeps state knows its lengths"
    return graph.node("GatherND", path, steps.last)


def scan(
    graph: GraphBuilder,
    advance: Advance,
    scanned: Sequence[str],
    before: Sequence[str],
    *,
    name: str,
    width: int,
    dtype: int = FLOAT,
) -> list[str]:
    """Advance states (batch, width) over scanned tensors (time, batch, ...) of type ``dtype``.

    ``advance`` adds one time step to a graph: from what is scanned and the states to new states.

    Returns the states after every step, (time, batch, width) each.
    """
    inside = f"{name}."
    body = GraphBuilder(inside)
    states = [body.input(f"{inside}state_{n}", FLOAT, ["batch", width]) for n in range(len(before))]
    given = [
        body.input(f"{inside}x_{n}", dtype, ["batch", f"{inside}width_{n}"])
        for n in range(len(scanned))
    ]
    after = advance(body, given, states)
    for new in after:
        body.output(new, FLOAT, ["batch", width])
    for new in after:
        body.output(body.node("Identity", new), FLOAT, ["batch", width])
    paths = [f"{inside}path_{n}" for n in range(len(before))]
    graph.nodes_with(
        "Scan",
        *before,
        *scanned,
        outputs=[*(f"{inside}last_{n}" for n in range(len(before))), *paths],
        body=body.graph("step"),
        num_scan_inputs=len(scanned),
    )
    return paths


def scan_layer(
    graph: GraphBuilder,
    arithmetic: Arithmetic,
    layer: Layer,
    projected: Sequence[str],
    before: Sequence[str],
    *,
    name: str,
) -> list[str]:
    """Advance a layer over projections (time, batch, width) each, from states (batch, hidden).

    Returns the states after every step, (time, batch, hidden) each, h first.
    """
    return scan(
        graph,
        lambda body, given, states: arithmetic.advance(body, layer, given, states),
        projected,
        before,
        name=name,
        width=layer.hidden,
        dtype=FLOAT if layer.is_first else arithmetic.projected_type,
    )
