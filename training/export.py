"""From a network to a portable ONNX model with its manifest.

The graph is written node by node from the weights, with the real recurrent ops, so that it depends
on no tracer. Batch and time are dynamic; every state output is the state after a row's last valid
step. Each op is one whose results do not depend on how many steps or rows run together (ONNX
Runtime, CPU, one thread): a chunk gives the bits of its single steps. (``Log`` and ``Softplus`` are
not such ops: their vector body and scalar tail differ. The plain ``RNN`` op is only close.)
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from models.graph import FLOAT, INT32, INT64, GraphBuilder
from models.manifest import (
    Manifest,
    Prediction,
    PredictionKind,
    Provenance,
    Quantiles,
    State,
    TokensInput,
    ValuesInput,
)
from training.config import Cell, Transform
from training.networks import Cells, CharNetwork, RecurrentNetwork, SeriesNetwork
from training.series_graph import add_distribution, add_quantiles, add_scaling

# Gate order, torch -> ONNX: LSTM i f g o -> i o f c, GRU r z n -> z r h.
_GATES = {Cell.LSTM: (0, 3, 1, 2), Cell.GRU: (1, 0, 2), Cell.RNN: (0,)}
_OPS: dict[Cell, tuple[str, dict[str, Any]]] = {
    Cell.LSTM: ("LSTM", {}),
    Cell.GRU: ("GRU", {"linear_before_reset": 1}),
    Cell.RNN: ("RNN", {"activations": ["Tanh"]}),
}


def export(
    network: RecurrentNetwork,
    *,
    name: str = "model",
    scores: Mapping[str, float] | None = None,
    provenance: Provenance | None = None,
) -> tuple[onnx.ModelProto, Manifest]:
    """Write a trained (or untrained) network as ONNX.

    Inputs are ``tokens (batch, time)`` int64 or ``values (batch, time, 1)`` float32,
    ``lengths (batch,)`` int32 >= 1, and each state ``(batch, size)``; outputs are the prediction
    ``(batch, time, width)`` and each ``<state>_next``. Series have ``levels (batch, K)`` in (0, 1)
    and ``quantiles (batch, time, K)`` too.

    The manifest is returned beside the model, not embedded: `ModelRepository.publish` does that.
    """
    with torch.no_grad():
        if isinstance(network, CharNetwork):
            return _export_char(network, name, dict(scores or {}), provenance)
        if isinstance(network, SeriesNetwork):
            return _export_series(network, name, dict(scores or {}), provenance)
    raise TypeError(f"no exporter for {type(network).__name__}")


def _export_char(
    network: CharNetwork, name: str, scores: dict[str, float], provenance: Provenance | None
) -> tuple[onnx.ModelProto, Manifest]:
    graph = GraphBuilder()
    tokens = graph.input("tokens", INT64, ["batch", "time"])
    lengths = graph.input("lengths", INT32, ["batch"])
    states = _state_inputs(graph, network)
    by_time = graph.node("Transpose", tokens, perm=[1, 0])  # (time, batch)
    table = graph.constant(_array(network.embed.weight), "embedding")
    x = graph.node("Gather", table, by_time)  # (time, batch, embedding)
    y = _add_cells(graph, network.cells, x, lengths, states)  # (time, batch, hidden)
    logits = _add_linear(graph, network.head, y, "head")  # (time, batch, vocabulary)
    width = len(network.vocabulary)
    graph.node("Transpose", logits, output="logits", perm=[1, 0, 2])
    graph.output("logits", FLOAT, ["batch", "time", width])
    _state_outputs(graph, network)
    return graph.model(name), _manifest(
        network,
        name,
        "char",
        TokensInput(vocabulary=network.vocabulary),
        Prediction(output="logits", kind=PredictionKind.LOGITS, width=width),
        scores,
        provenance,
    )


def _export_series(
    network: SeriesNetwork, name: str, scores: dict[str, float], provenance: Provenance | None
) -> tuple[onnx.ModelProto, Manifest]:
    graph = GraphBuilder()
    values = graph.input("values", FLOAT, ["batch", "time", 1])
    lengths = graph.input("lengths", INT32, ["batch"])
    states = _state_inputs(graph, network)
    scaled = add_scaling(graph, network.scaling, values, lengths)
    y = _add_cells(graph, network.cells, scaled.features, lengths, states)
    raw = _add_linear(graph, network.head.linear, y, "head")  # (time, batch, 4)
    add_distribution(graph, raw, scaled, output="distribution")
    graph.output("distribution", FLOAT, ["batch", "time", 6])
    _state_outputs(graph, network)
    graph.input("levels", FLOAT, ["batch", "levels"])
    add_quantiles(graph, network.scaling.transform, "distribution", "levels", output="quantiles")
    graph.output("quantiles", FLOAT, ["batch", "time", "levels"])
    positive = network.scaling.transform is Transform.LOG_RETURN
    return graph.model(name), _manifest(
        network,
        name,
        "series",
        ValuesInput(features=(network.feature,), positive=positive),
        Prediction(output="distribution", kind=PredictionKind.DISTRIBUTION, width=6),
        scores,
        provenance,
    )


def _manifest(
    network: RecurrentNetwork,
    name: str,
    task: Literal["char", "series"],
    inputs: TokensInput | ValuesInput,
    prediction: Prediction,
    scores: dict[str, float],
    provenance: Provenance | None,
) -> Manifest:
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


def _state_inputs(graph: GraphBuilder, network: RecurrentNetwork) -> dict[str, str]:
    return {
        name: graph.input(name, FLOAT, ["batch", *shape])
        for name, shape in network.state_shapes.items()
    }


def _state_outputs(graph: GraphBuilder, network: RecurrentNetwork) -> None:
    for name, shape in network.state_shapes.items():
        graph.output(f"{name}_next", FLOAT, ["batch", *shape])


def _add_cells(
    graph: GraphBuilder, cells: Cells, x: str, lengths: str, states: Mapping[str, str]
) -> str:
    """Add the recurrent layers: x ``(time, batch, inputs)`` -> ``(time, batch, hidden)``."""
    op, attributes = _OPS[cells.cell]
    first, second = graph.constant([0]), graph.constant([1])
    for number, layer in enumerate(cells.layers):
        w = _gates(layer.get_parameter("weight_ih_l0"), cells.cell)  # (1, gates * hidden, inputs)
        r = _gates(layer.get_parameter("weight_hh_l0"), cells.cell)  # (1, gates * hidden, hidden)
        b = np.concatenate(
            [
                _gates(layer.get_parameter("bias_ih_l0"), cells.cell),
                _gates(layer.get_parameter("bias_hh_l0"), cells.cell),
            ],
            axis=-1,
        )  # (1, 2 * gates * hidden)
        weights = [
            graph.constant(array, f"{kind}_{number}")
            for kind, array in (("w", w), ("r", r), ("b", b))
        ]
        kinds = ("h", "c") if cells.cell is Cell.LSTM else ("h",)
        before = [
            graph.node("Unsqueeze", states[f"{kind}_{number}"], first) for kind in kinds
        ]  # (1, batch, hidden) each
        path = f"y_{number}"
        after = [f"{kind}_{number}_last" for kind in kinds]
        graph.nodes_with(
            op,
            x,
            *weights,
            lengths,
            *before,
            outputs=[path, *after],
            hidden_size=cells.hidden,
            **attributes,
        )
        for kind, last in zip(kinds, after, strict=True):
            graph.node("Squeeze", last, first, output=f"{kind}_{number}_next")
        x = graph.node("Squeeze", path, second)  # (time, 1, batch, hidden) -> without the 1
    return x


def _add_linear(graph: GraphBuilder, linear: nn.Linear, x: str, name: str) -> str:
    weight = graph.constant(_array(linear.weight.T), f"{name}_weight")  # (inputs, outputs)
    bias = graph.constant(_array(linear.bias), f"{name}_bias")
    return graph.node("Add", graph.node("MatMul", x, weight), bias)


def _gates(parameter: torch.Tensor, cell: Cell) -> NDArray[np.float32]:
    blocks = np.split(_array(parameter), len(_GATES[cell]))
    return np.concatenate([blocks[gate] for gate in _GATES[cell]])[np.newaxis]


def _array(parameter: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(parameter.detach().cpu().numpy(), dtype=np.float32)
