"""From a network that labels sequences to a portable ONNX graph with its manifest."""

from typing import Any

import onnx

from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.manifest import (
    Manifest,
    Prediction,
    PredictionKind,
    TokensInput,
    ValuesInput,
)
from training.export.layers import (
    add_bidirectional_cells,
    add_cells,
    add_linear,
    manifest_of,
    state_inputs,
    state_outputs,
)
from training.export.operator import as_array
from training.families.classify.network import (
    BidirectionalClassifier,
    Encoder,
    StreamedClassifier,
    Symbols,
)


def export_streamed(network: StreamedClassifier, name: str) -> tuple[onnx.ModelProto, Manifest]:
    """Write a classifier that says the label so far; `export` tells its tensors."""
    graph = GraphBuilder()
    x = _add_encoder(graph, network.encoder)  # (time, batch, width)
    lengths = graph.input("lengths", INT32, ["batch"])
    state_inputs(graph, network)
    y = add_cells(graph, network.cells, x, lengths)  # (time, batch, hidden)
    logits = add_linear(graph, network.head, y, "head")  # (time, batch, labels)
    graph.node("Transpose", logits, output="label_scores", perm=[1, 0, 2])
    graph.output("label_scores", FLOAT, ["batch", "time", len(network.labels)])
    state_outputs(graph, network)
    return graph.model(name), manifest_of(
        network,
        name,
        "classify",
        _input_of(network.encoder),
        _prediction(network.labels),
    )


def export_bidirectional(
    network: BidirectionalClassifier, name: str
) -> tuple[onnx.ModelProto, Manifest]:
    """Write a classifier of whole sequences: without states, ``label_scores (batch, labels)``."""
    graph = GraphBuilder()
    x = _add_encoder(graph, network.encoder)  # (time, batch, width)
    lengths = graph.input("lengths", INT32, ["batch"])
    y = add_bidirectional_cells(graph, network.cells, x, lengths)  # (batch, width)
    logits = add_linear(graph, network.head, y, "head")
    graph.node("Identity", logits, output="label_scores")
    graph.output("label_scores", FLOAT, ["batch", len(network.labels)])
    return graph.model(name), Manifest(
        name=name,
        task="classify",
        input=_input_of(network.encoder),
        lengths="lengths",
        states=(),
        prediction=_prediction(network.labels, per_step=False),
    )


def _add_encoder(graph: GraphBuilder, encoder: Encoder) -> str:
    """Add the input and what the cells see of it, the time first: (time, batch, width)."""
    if isinstance(encoder, Symbols):
        tokens = graph.input("tokens", INT64, ["batch", "time"])
        by_time = graph.node("Transpose", tokens, perm=[1, 0])
        return graph.node("Gather", graph.constant(as_array(encoder.table.weight)), by_time)
    values = graph.input("values", FLOAT, ["batch", "time", encoder.width])
    by_time = graph.node("Transpose", values, perm=[1, 0, 2])
    centred = graph.node("Sub", by_time, graph.constant(as_array(encoder.mean)))
    return graph.node("Div", centred, graph.constant(as_array(encoder.scale)))


def _input_of(encoder: Encoder) -> TokensInput | ValuesInput:
    if isinstance(encoder, Symbols):
        return TokensInput(vocabulary=encoder.vocabulary, unknown=encoder.unknown)
    return ValuesInput(features=encoder.features)


def _prediction(labels: tuple[str, ...], **settings: Any) -> Prediction:
    return Prediction(
        output="label_scores",
        kind=PredictionKind.LABELS,
        width=len(labels),
        labels=labels,
        **settings,
    )
