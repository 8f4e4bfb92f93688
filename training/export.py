"""From a network to a portable ONNX model with its manifest.

The graph is written node by node from the weights, with the real recurrent ops, so that it depends
on no tracer. Batch and time are dynamic; every state output is the state after a row's last valid
step. Each op is one whose results do not depend on how many steps or rows run together (ONNX
Runtime, CPU, one thread): a chunk gives the bits of its single steps. (``Log`` and ``Softplus`` are
not such ops: their vector body and scalar tail differ. The plain ``RNN`` op is only close.)
"""

from collections.abc import Mapping

import onnx
import torch
from torch import nn

from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.manifest import Manifest, Prediction, PredictionKind, Provenance, TokensInput
from training.classify.export import export_bidirectional, export_streamed
from training.classify.network import BidirectionalClassifier, StreamedClassifier
from training.networks import CharNetwork
from training.recurrent_graph import (
    add_cells,
    add_linear,
    as_array,
    manifest_of,
    state_inputs,
    state_outputs,
)
from training.series.export import export_series
from training.series.network import SeriesNetwork


def export(
    network: nn.Module,
    *,
    name: str = "model",
    scores: Mapping[str, float] | None = None,
    provenance: Provenance | None = None,
) -> tuple[onnx.ModelProto, Manifest]:
    """Write a trained (or untrained) network as ONNX.

    Inputs are ``tokens (batch, time)`` int64 or ``values (batch, time, features)`` float32,
    ``lengths (batch,)`` int32 >= 1, and each state ``(batch, size)``; outputs are the prediction
    ``(batch, time, width)`` and each ``<state>_next``. A bidirectional network has no states, and
    one prediction ``(batch, width)`` for a sequence. Series have ``levels (batch, K)`` in (0, 1)
    and ``quantiles (batch, time, K)`` too.

    The manifest is returned beside the model, not embedded: `ModelRepository.publish` does that.
    """
    with torch.no_grad():
        if isinstance(network, CharNetwork):
            return _export_char(network, name, dict(scores or {}), provenance)
        if isinstance(network, SeriesNetwork):
            return export_series(network, name, dict(scores or {}), provenance)
        if isinstance(network, StreamedClassifier):
            return export_streamed(network, name, dict(scores or {}), provenance)
        if isinstance(network, BidirectionalClassifier):
            return export_bidirectional(network, name, dict(scores or {}), provenance)
    raise TypeError(f"no exporter for {type(network).__name__}")


def _export_char(
    network: CharNetwork, name: str, scores: dict[str, float], provenance: Provenance | None
) -> tuple[onnx.ModelProto, Manifest]:
    graph = GraphBuilder()
    tokens = graph.input("tokens", INT64, ["batch", "time"])
    lengths = graph.input("lengths", INT32, ["batch"])
    states = state_inputs(graph, network)
    by_time = graph.node("Transpose", tokens, perm=[1, 0])  # (time, batch)
    table = graph.constant(as_array(network.embed.weight), "embedding")
    x = graph.node("Gather", table, by_time)  # (time, batch, embedding)
    y = add_cells(graph, network.cells, x, lengths, states)  # (time, batch, hidden)
    logits = add_linear(graph, network.head, y, "head")  # (time, batch, vocabulary)
    width = len(network.vocabulary)
    graph.node("Transpose", logits, output="logits", perm=[1, 0, 2])
    graph.output("logits", FLOAT, ["batch", "time", width])
    state_outputs(graph, network)
    return graph.model(name), manifest_of(
        network,
        name,
        "char",
        TokensInput(vocabulary=network.vocabulary, unknown=network.unknown),
        Prediction(output="logits", kind=PredictionKind.LOGITS, width=width),
        scores,
        provenance,
    )
