"""The part of a series model's graph that reads the columns beside the value."""

import numpy as np

from models.graph.builder import FLOAT, INT64, GraphBuilder
from training.export.series_graph import before_each, change_of, clip, log
from training.families.series.features import (
    CASES,
    CHANGE_BOUND,
    LEVEL_BOUND,
    SMALLEST,
    Features,
    Number,
)
from training.families.series.settings import Transform


def add_features(graph: GraphBuilder, features: Features, columns: str, lengths: str) -> str:
    """Map ``columns (batch, time, columns)`` to ``(time, batch, width)``, as `Features` does.

    Reads the states ``seen`` and ``last_numbers`` and writes ``last_numbers_next``.
    """
    names = [graph.fresh("column") for _ in features.columns]
    if len(names) > 1:
        by_time = graph.node("Transpose", columns, perm=[1, 0, 2])
        graph.nodes_with("Split", by_time, outputs=names, axis=-1)  # (time, batch, 1) each
    else:
        graph.node("Transpose", columns, output=names[0], perm=[1, 0, 2])
    parts: list[str] = []
    if count := len(features.numbers):
        numbers = graph.node("Concat", *names[:count], axis=-1)  # (time, batch, numbers)
        before = before_each(graph, numbers, "last_numbers")
        earlier = [graph.fresh("before") for _ in range(count)]
        if count > 1:
            graph.nodes_with("Split", before, outputs=earlier, axis=-1)
        else:
            earlier = [before]
        for number, x, previous in zip(features.numbers, names, earlier, strict=False):
            parts += _add_number(graph, number, x, previous)
        _keep_last(graph, numbers, lengths)
    for time, x in zip(features.times, names[count:], strict=True):
        cases = graph.constant(np.array(CASES[time], np.float32))  # (cases,)
        parts.append(graph.node("Cast", graph.node("Equal", x, cases), to=FLOAT))
    return graph.node("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]


def _add_number(graph: GraphBuilder, number: Number, x: str, before: str) -> list[str]:
    """Change and level of one column, ``(time, batch, 1)`` each."""
    level = x
    if number.transform is Transform.LOG_RETURN:
        least = graph.constant(SMALLEST)
        x, before = (graph.node("Max", part, least) for part in (x, before))
        level = log(graph, x)
    change = change_of(graph, number.transform, before, x)
    unit = graph.node("Div", change, graph.constant(number.change_scale))
    if number.drifts:
        standard = graph.node("Mul", x, graph.constant(0.0))
    else:
        off = graph.node("Sub", level, graph.constant(number.mean))
        standard = graph.node("Div", off, graph.constant(number.deviation))
    return [clip(graph, unit, CHANGE_BOUND), clip(graph, standard, LEVEL_BOUND)]


def _keep_last(graph: GraphBuilder, numbers: str, lengths: str) -> None:
    """Write ``last_numbers_next (batch, numbers)``: each row's last ones."""
    by_row = graph.node("Transpose", numbers, perm=[1, 0, 2])  # (batch, time, numbers)
    last = graph.node("Sub", graph.node("Cast", lengths, to=INT64), graph.constant([1]))
    place = graph.node("Unsqueeze", last, graph.constant([1]))  # (batch, 1)
    graph.node("GatherND", by_row, place, output="last_numbers_next", batch_dims=1)
