"""The parts of an exported graph that every family shares: states, recurrent layers, linear layers.

Each op is one whose results do not depend on how many steps or rows run together.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.graph.builder import FLOAT, GraphBuilder
from models.manifest import (
    Manifest,
    Prediction,
    Provenance,
    Quantiles,
    State,
    TokensInput,
    ValuesInput,
)
from training.networks.bidirectional import BidirectionalCells
from training.networks.recurrent import Cells, RecurrentNetwork
from training.settings import Cell, Merge, Nonlinearity

# Gate order, torch -> ONNX: LSTM i f g o -> i o f c, GRU r z n -> z r h.
_GATES = {Cell.LSTM: (0, 3, 1, 2), Cell.GRU: (1, 0, 2), Cell.RNN: (0,)}
_ACTIVATIONS = {Nonlinearity.TANH: "Tanh", Nonlinearity.RELU: "Relu"}


def manifest_of(
    network: RecurrentNetwork,
    name: str,
    task: Literal["char", "series", "classify"],
    inputs: TokensInput | ValuesInput,
    prediction: Prediction,
    scores: dict[str, float],
    provenance: Provenance | None,
) -> Manifest:
    """What the exported graph says of itself; every state ``x`` comes back as ``x_next``."""
    return Manifest(
        name=name,
        task=task,
        input=inputs,
        lengths="lengths",
        states=tuple(
            State(input=state, output=f"{state}_next", shape=shape)
            for state, shape in network.state_shapes.items()
        ),
        prediction=prediction,
        quantiles=Quantiles() if task == "series" else None,
        provenance=provenance,
        scores=scores,
    )


def state_inputs(graph: GraphBuilder, network: RecurrentNetwork) -> dict[str, str]:
    """Declare an input for every state; returns their names."""
    return {
        name: graph.input(name, FLOAT, ["batch", *shape])
        for name, shape in network.state_shapes.items()
    }


def state_outputs(graph: GraphBuilder, network: RecurrentNetwork) -> None:
    """Declare an output ``<state>_next`` for every state."""
    for name, shape in network.state_shapes.items():
        graph.output(f"{name}_next", FLOAT, ["batch", *shape])


def add_cells(
    graph: GraphBuilder, cells: Cells, x: str, lengths: str, states: Mapping[str, str]
) -> str:
    """Add the recurrent layers: x ``(time, batch, inputs)`` -> ``(time, batch, hidden)``."""
    first, second = graph.constant([0]), graph.constant([1])
    for number, layer in enumerate(cells.layers):
        weights = _weights(graph, layer, cells.cell, number, directions=("",))
        kinds = ("h", "c") if cells.cell is Cell.LSTM else ("h",)
        before = [
            graph.node("Unsqueeze", states[f"{kind}_{number}"], first) for kind in kinds
        ]  # (1, batch, hidden) each
        path = f"y_{number}"
        after = [f"{kind}_{number}_last" for kind in kinds]
        graph.nodes_with(
            cells.cell.name,
            x,
            *weights,
            lengths,
            *before,
            outputs=[path, *after],
            hidden_size=cells.hidden,
            **_attributes(cells.cell, cells.nonlinearity, directions=1),
        )
        for kind, last in zip(kinds, after, strict=True):
            graph.node("Squeeze", last, first, output=f"{kind}_{number}_next")
        x = graph.node("Squeeze", path, second)  # (time, 1, batch, hidden) -> without the 1
    return x


def add_bidirectional_cells(
    graph: GraphBuilder, cells: BidirectionalCells, x: str, lengths: str
) -> str:
    """Add layers that read from both ends: x ``(time, batch, inputs)`` -> ``(batch, cells.width)``.

    The way back starts at each row's last valid step. The result is where both ways of the last
    layer end.
    """
    for number, layer in enumerate(cells.layers):
        weights = _weights(graph, layer, cells.cell, number, directions=("", "_reverse"))
        path, last = f"y_{number}", f"h_{number}_last"
        graph.nodes_with(
            cells.cell.name,
            x,
            *weights,
            lengths,
            outputs=[path, last],
            hidden_size=cells.hidden,
            direction="bidirectional",
            **_attributes(cells.cell, cells.nonlinearity, directions=2),
        )
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


def _weights(
    graph: GraphBuilder, layer: nn.Module, cell: Cell, number: int, *, directions: tuple[str, ...]
) -> list[str]:
    """Add W (directions, gates * hidden, inputs), R likewise, and B: both biases, side by side."""

    def stacked(name: str) -> NDArray[np.float32]:
        own = [
            in_onnx_order(layer.get_parameter(f"{name}_l0{way}"), cell)[np.newaxis]
            for way in directions
        ]
        return np.concatenate(own)

    arrays = {
        "w": stacked("weight_ih"),
        "r": stacked("weight_hh"),
        "b": np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=-1),
    }
    return [graph.constant(array, f"{kind}_{number}") for kind, array in arrays.items()]


def _attributes(cell: Cell, nonlinearity: Nonlinearity, *, directions: int) -> dict[str, Any]:
    if cell is Cell.GRU:
        return {"linear_before_reset": 1}
    if cell is Cell.RNN:
        return {"activations": [_ACTIVATIONS[nonlinearity]] * directions}
    return {}


def in_onnx_order(parameter: torch.Tensor, cell: Cell) -> NDArray[np.float32]:
    """A weight or bias of torch's, its gates in the order that ONNX has them."""
    blocks = np.split(as_array(parameter), len(_GATES[cell]))
    return np.concatenate([blocks[gate] for gate in _GATES[cell]])


def as_array(parameter: torch.Tensor) -> NDArray[np.float32]:
    """The numbers of a parameter, float32."""
    return np.ascontiguousarray(parameter.detach().cpu().numpy(), dtype=np.float32)
