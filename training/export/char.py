"""From a character network to a portable ONNX graph with its manifest."""

import onnx

from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.manifest import Manifest, Prediction, PredictionKind, TokensInput
from training.export.layers import (
    add_cells,
    add_linear,
    manifest_of,
    state_inputs,
    state_outputs,
)
from training.export.operator import as_array
from training.families.char.network import CharNetwork


def export_char(network: CharNetwork, name: str) -> tuple[onnx.ModelProto, Manifest]:
    """Write a character network; `export` tells its inputs and outputs."""
    graph = GraphBuilder()
    tokens = graph.input("tokens", INT64, ["batch", "time"])
    lengths = graph.input("lengths", INT32, ["batch"])
    state_inputs(graph, network)
    by_time = graph.node("Transpose", tokens, perm=[1, 0])  # (time, batch)
    table = graph.constant(as_array(network.embed.weight), "embedding")
    x = graph.node("Gather", table, by_time)  # (time, batch, embedding)
    y = add_cells(graph, network.cells, x, lengths)  # (time, batch, hidden)
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
    )
