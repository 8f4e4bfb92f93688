"""From a series network to a portable ONNX graph with its manifest."""

import onnx

from models.graph.builder import FLOAT, INT32, GraphBuilder
from models.manifest import Manifest, Prediction, PredictionKind, ValuesInput
from training.export.layers import (
    add_cells,
    add_linear,
    manifest_of,
    state_inputs,
    state_outputs,
)
from training.export.series_features import add_features
from training.export.series_graph import add_distribution, add_quantiles, add_scaling
from training.families.series.network import WIDTH, SeriesNetwork
from training.families.series.settings import Transform


def export_series(network: SeriesNetwork, name: str) -> tuple[onnx.ModelProto, Manifest]:
    """Write a series network; `export` tells its inputs and outputs."""
    graph = GraphBuilder()
    columns = len(network.columns)
    values = graph.input("values", FLOAT, ["batch", "time", columns])
    lengths = graph.input("lengths", INT32, ["batch"])
    state_inputs(graph, network)
    beside = None
    if columns > 1:
        axis = graph.constant([2])
        bounds = [graph.constant([place]) for place in (0, 1, columns)]
        beside = graph.node("Slice", values, bounds[1], bounds[2], axis)
        values = graph.node("Slice", values, bounds[0], bounds[1], axis)  # (batch, time, 1)
    scaled = add_scaling(graph, network.scaling, values, lengths)
    read = scaled.features  # (time, batch, inputs)
    if beside is not None:
        extra = add_features(graph, network.features, beside, lengths)
        read = graph.node("Concat", read, extra, axis=-1)
    y = add_cells(graph, network.cells, read, lengths)
    raw = add_linear(graph, network.head.linear, y, "head")  # (time, batch, 4)
    add_distribution(graph, raw, scaled, output="distribution")
    graph.output("distribution", FLOAT, ["batch", "time", WIDTH])
    state_outputs(graph, network)
    graph.input("levels", FLOAT, ["batch", "levels"])
    add_quantiles(graph, network.scaling.transform, "distribution", "levels", output="quantiles")
    graph.output("quantiles", FLOAT, ["batch", "time", "levels"])
    logarithmic = network.scaling.transform is Transform.LOG_RETURN
    return graph.model(name), manifest_of(
        network,
        name,
        "series",
        ValuesInput(
            features=network.columns, positive=network.columns[:1] if logarithmic else False
        ),
        Prediction(output="distribution", kind=PredictionKind.DISTRIBUTION, width=WIDTH),
    )
