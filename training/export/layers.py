"""The parts of an exported graph that every family shares: states, recurrent layers, linear layers.

Each op is one whose results do not depend on how many steps or rows run together.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from models.graph.builder import FLOAT, GraphBuilder
from models.manifest import (
    Manifest,
    Prediction,
    Quantiles,
    State,
    TokensInput,
    ValuesInput,
)
from training.export.operator import Operator, Weights, as_array
from training.networks.bidirectional import BidirectionalCells
from training.networks.recurrent import Cells, RecurrentNetwork
from training.settings import Merge


def manifest_of(
    network: RecurrentNetwork,
    name: str,
    task: Literal["char", "series", "classify"],
    inputs: TokensInput | ValuesInput,
    prediction: Prediction,
) -> Manifest:
    """What the exported graph says of itself; every state ``x`` comes back as ``x_next``."""
    return Manifest(
        name=name,
        task=task,
        input=inputs,
        lengths="lengths",
        states=tuple(
            State(
                input=state,
                output=f"{state}_next",
                shape=shape,
                initial=_initial(network.cells, state),
            )
            for state, shape in network.state_shapes.items()
        ),
        prediction=prediction,
        quantiles=Quantiles() if task == "series" else None,
    )


def _initial(cells: Cells, state: str) -> float | tuple[float, ...]:
    """What a state starts from: what was learned, where it was."""
    if state not in cells.initial:
        return 0.0
    return tuple(as_array(cells.initial[state]).ravel().tolist())


def state_inputs(graph: GraphBuilder, network: RecurrentNetwork) -> None:
    """Declare an input for every state."""
    for name, shape in network.state_shapes.items():
        graph.input(name, FLOAT, ["batch", *shape])


def state_outputs(graph: GraphBuilder, network: RecurrentNetwork) -> None:
    """Declare an output ``<state>_next`` for every state."""
    for name, shape in network.state_shapes.items():
        graph.output(f"{name}_next", FLOAT, ["batch", *shape])


def add_cells(graph: GraphBuilder, cells: Cells, x: str, lengths: str) -> str:
    """Add the recurrent layers: x ``(time, batch, inputs)`` -> ``(time, batch, hidden)``."""
    axes = graph.constant([0]), graph.constant([1])
    for number, layer in enumerate(cells.layers):
        operator = _operator(layer, cells, directions=("",))
        weights = operator.add_weights(graph, number)
        x = operator.add_streamed(graph, number, x, weights, lengths, axes)
    return x


def add_bidirectional_cells(
    graph: GraphBuilder, cells: BidirectionalCells, x: str, lengths: str
) -> str:
    """Add layers that read from both ends: x ``(time, batch, inputs)`` -> ``(batch, cells.width)``.

    The way back starts at each row's last valid step. The result is where both ways of the last
    layer end.
    """
    for number, layer in enumerate(cells.layers):
        operator = _operator(layer, cells, directions=("", "_reverse"))
        weights = operator.add_weights(graph, number)
        path, last = f"y_{number}", f"h_{number}_last"
        operator.add(graph, x, *weights, lengths, outputs=[path, last])
        x = _merge(graph, cells.merge, path, axis=1)  # (time, batch, width)
    return _merge(graph, cells.merge, last, axis=0)


def _merge(graph: GraphBuilder, merge: Merge, both: str, *, axis: int) -> str:
    """One tensor of the two directions that lie along an axis."""
    ways = [f"{both}_forth", f"{both}_back"]
    graph.nodes_with("Split", both, outputs=ways, axis=axis)
    forth, back = (graph.node("Squeeze", way, graph.constant([axis])) for way in ways)
    if merge is Merge.CONCAT:
        return graph.node("Concat", forth, back, axis=-1)
    if merge is Merge.MULTIPLY:
        return graph.node("Mul", forth, back)
    total = graph.node("Add", forth, back)
    return graph.node("Mul", total, graph.constant(0.5)) if merge is Merge.AVERAGE else total


def add_linear(graph: GraphBuilder, linear: nn.Linear, x: str, name: str) -> str:
    """Add a linear layer with the name for its constants: the last axis is mapped."""
    weight = graph.constant(as_array(linear.weight.T), f"{name}_weight")  # (inputs, outputs)
    bias = graph.constant(as_array(linear.bias), f"{name}_bias")
    return graph.node("Add", graph.node("MatMul", x, weight), bias)


def _operator(
    layer: nn.Module, cells: Cells | BidirectionalCells, *, directions: Sequence[str]
) -> Operator:
    def weights(way: str) -> Weights:
        return lambda kind: layer.get_parameter(f"{kind}_l0{way}")

    return Operator.of(cells.cell, [weights(way) for way in directions], cells.nonlinearity)
