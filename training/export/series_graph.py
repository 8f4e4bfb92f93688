"""The parts of a series model's graph that are not the network: scaling, distribution, quantiles.

The same formulas as `training.families.series.scaling` and `training.families.series.heads`, in ops
whose bits do not depend on how much runs together. ``Log`` is not one of them on ONNX Runtime's
CPU, so the logarithm is ``asinh((x - 1/x) / 2)``, and running sums are ``RNN`` ops of one linear
unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.graph.builder import FLOAT, INT64, GraphBuilder
from training.families.series import heads
from training.families.series.scaling import (
    CHANGE_BOUND,
    FEATURE_BOUND,
    FLOOR,
    NORMAL,
    PRIOR,
    Scaling,
)
from training.families.series.settings import Transform

EXPONENT_BOUND = 60.0
"""A quantile is at most exp(60) times the anchor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledNames:
    """Tensors with the time first."""

    features: str
    """(time, batch, features)"""
    anchor: str
    """(time, batch, 1)"""
    spread: str
    """(time, batch, 1)"""


def add_scaling(graph: GraphBuilder, scaling: Scaling, values: str, lengths: str) -> ScaledNames:
    """Scale ``values (batch, time, 1)``; reads and writes the scaling's states by name."""
    lag = scaling.lag
    path = _path(graph, values)  # (lag + time, batch, 1)
    x = graph.node("Transpose", values, perm=[1, 0, 2])  # (time, batch, 1)
    counted = _counted(graph, x, lag)
    before = cut(graph, path, 0, -lag)  # (time, batch, 1)
    change = graph.node("Mul", change_of(graph, scaling.transform, before, x), counted)
    unit = clip(
        graph, graph.node("Div", change, graph.constant(scaling.change_scale)), CHANGE_BOUND
    )
    size = graph.node("Mul", graph.node("Abs", unit), graph.constant(NORMAL))
    sums = _running_means(graph, "size_sums", size, lengths, scaling.decays)
    weights = _running_means(graph, "size_weights", counted, lengths, scaling.decays)
    sizes = [_size(graph, *pair) for pair in zip(sums, weights, strict=True)]

    main = sizes[0]  # (1 + time, batch, 1)
    scaled_change = clip(graph, graph.node("Div", unit, cut(graph, main, 0, -1)), FEATURE_BOUND)
    logs = [log(graph, cut(graph, size, 1, None)) for size in sizes]  # (time, batch, 1) each
    others = [graph.node("Sub", other, logs[0]) for other in logs[1:]]
    features = graph.node("Concat", scaled_change, logs[0], *others, axis=-1)
    spread = graph.node("Mul", cut(graph, main, 1, None), graph.constant(scaling.change_scale))
    anchor = cut(graph, path, 1, 1 - lag if lag > 1 else None)
    _keep_history(graph, lengths, lag)
    return ScaledNames(features=features, anchor=anchor, spread=spread)


def add_distribution(graph: GraphBuilder, raw: str, scaled: ScaledNames, *, output: str) -> None:
    """Bound ``raw (time, batch, 4)``, join anchor and spread: ``(batch, time, 6)``."""
    location, scale, skewness, tail = _split(graph, raw, 4)
    parts = [
        clip(graph, location, heads.LOCATION_BOUND),
        graph.node(
            "Mul",
            graph.node("Exp", clip(graph, scale, heads.LOG_SCALE_BOUND)),
            graph.constant(heads.SCALE_AT_REST),
        ),
        clip(graph, skewness, heads.SKEWNESS_BOUND),
        graph.node(
            "Mul",
            graph.node("Exp", clip(graph, tail, heads.LOG_TAIL_BOUND)),
            graph.constant(heads.TAIL_AT_REST),
        ),
        scaled.anchor,
        scaled.spread,
    ]
    joined = graph.node("Concat", *parts, axis=-1)  # (time, batch, 6)
    graph.node("Transpose", joined, output=output, perm=[1, 0, 2])


def add_quantiles(
    graph: GraphBuilder, transform: Transform, distribution: str, levels: str, *, output: str
) -> None:
    """Quantiles ``(batch, time, K)`` of the next value from nothing but the distribution."""
    location, scale, skewness, tail, anchor, spread = _split(graph, distribution, 6)
    z = graph.node("Unsqueeze", _normal_quantile(graph, levels), graph.constant([1]))
    stretch = graph.node("Div", graph.node("Sub", z, skewness), tail)  # (batch, time, K)
    up = graph.node("Exp", clip(graph, stretch, heads.STRETCH_BOUND))
    sinh = graph.node(
        "Mul", graph.node("Sub", up, graph.node("Reciprocal", up)), graph.constant(0.5)
    )
    unit = graph.node("Add", graph.node("Mul", scale, sinh), location)
    change = graph.node("Mul", unit, spread)
    if transform is Transform.LOG_RETURN:
        growth = graph.node("Exp", clip(graph, change, EXPONENT_BOUND))
        graph.node("Mul", anchor, growth, output=output)
    else:
        graph.node("Add", anchor, change, output=output)


def change_of(graph: GraphBuilder, transform: Transform, before: str, x: str) -> str:
    """The change from one value to another, as `Scaling.change`."""
    difference = graph.node("Sub", x, before)
    if transform is Transform.DIFFERENCE:
        return difference
    # log(x / p) = asinh(((x - p) / p) ((x + p) / x) / 2): exact, and precise near x = p.
    relative = graph.node("Div", difference, before)
    other = graph.node("Div", graph.node("Add", x, before), x)
    product = graph.node("Mul", relative, other)
    return graph.node("Asinh", graph.node("Mul", product, graph.constant(0.5)))


def log(graph: GraphBuilder, x: str) -> str:
    """The logarithm: ``log(x) = asinh((x - 1/x) / 2)``."""
    half = graph.node("Mul", graph.node("Sub", x, graph.node("Reciprocal", x)), graph.constant(0.5))
    return graph.node("Asinh", half)


def clip(graph: GraphBuilder, x: str, bound: float) -> str:
    """Keep within ``-bound`` and ``bound``."""
    return graph.node("Clip", x, graph.constant(-bound), graph.constant(bound))


def cut(graph: GraphBuilder, x: str, start: int, end: int | None) -> str:
    """A slice of the first axis."""
    last = np.iinfo(np.int64).max if end is None else end
    bounds = (graph.constant([bound]) for bound in (start, last))
    return graph.node("Slice", x, *bounds, graph.constant([0]))


def before_each(graph: GraphBuilder, x: str, last: str) -> str:
    """The rows ``(time, batch, n)`` before each of ``x``: ``last (batch, n)`` before the first.

    Where there was none before, as the state ``seen`` says, the first row itself.
    """
    started = graph.node("Greater", "seen", graph.constant(0.0))  # (batch, 1)
    first = graph.node("Squeeze", cut(graph, x, 0, 1), graph.constant([0]))  # (batch, n)
    last = graph.node("Where", started, last, first)
    path = graph.node("Concat", graph.node("Unsqueeze", last, graph.constant([0])), x, axis=0)
    return cut(graph, path, 0, -1)


def _path(graph: GraphBuilder, values: str) -> str:
    """The last values and the chunk: ``(lag + time, batch, 1)``."""
    started = graph.node("Greater", "seen", graph.constant(0.0))  # (batch, 1)
    x = graph.node("Squeeze", values, graph.constant([2]))  # (batch, time)
    first = graph.node(
        "Slice", x, graph.constant([0]), graph.constant([1]), graph.constant([1])
    )  # (batch, 1)
    history = graph.node("Where", started, "history", first)  # (batch, lag)
    graph.node("Concat", history, x, output="path", axis=1)  # (batch, lag + time)
    by_time = graph.node("Transpose", "path", perm=[1, 0])
    return graph.node("Unsqueeze", by_time, graph.constant([2]))


def _counted(graph: GraphBuilder, x: str, lag: int) -> str:
    """1 where there is a change, else 0: ``(time, batch, 1)``."""
    zero, one = (graph.constant(np.array(number, np.int64)) for number in (0, 1))
    time = graph.node("Gather", graph.node("Shape", x), zero)
    steps = graph.node("Cast", graph.node("Range", zero, time, one), to=FLOAT)
    place = graph.node("Add", "seen", graph.node("Unsqueeze", steps, graph.constant([1, 2])))
    enough = graph.node("GreaterOrEqual", place, graph.constant(float(lag)))
    return graph.node("Cast", enough, to=FLOAT)  # (time, batch, 1)


def _keep_history(graph: GraphBuilder, lengths: str, lag: int) -> None:
    """Write ``history_next``, the last ``lag`` values of each row, and ``seen_next``."""
    steps = graph.node("Unsqueeze", lengths, graph.constant([1]))  # (batch, 1)
    places = graph.constant(np.arange(lag, dtype=np.int64)[np.newaxis])  # (1, lag)
    index = graph.node("Add", graph.node("Cast", steps, to=INT64), places)  # (batch, lag)
    graph.node("GatherElements", "path", index, output="history_next", axis=1)
    count = graph.node("Add", "seen", graph.node("Cast", steps, to=FLOAT))
    graph.node("Min", count, graph.constant(float(lag)), output="seen_next")


def _size(graph: GraphBuilder, total: str, weight: str) -> str:
    """The running size, ``(1 + time, batch, 1)``."""
    rest = graph.node("Sub", graph.constant(1.0), weight)
    prior = graph.node("Mul", rest, graph.constant(PRIOR))
    above, below = (graph.node("Add", part, prior) for part in (total, weight))
    return graph.node("Add", graph.node("Div", above, below), graph.constant(FLOOR))


def _running_means(
    graph: GraphBuilder, state: str, x: str, lengths: str, decays: Sequence[float]
) -> list[str]:
    """``s_t = d s_{t-1} + (1 - d) x_t`` from the state on, per decay: ``(1 + time, batch, 1)``."""
    starts = _split(graph, state, len(decays)) if len(decays) > 1 else [state]
    first = graph.constant([0])
    paths, lasts = [], []
    for place, (start, decay) in enumerate(zip(starts, decays, strict=True)):
        name = f"{state}_{place}"
        w = graph.constant(np.full((1, 1, 1), 1.0 - decay, np.float32))
        r = graph.constant(np.full((1, 1, 1), decay, np.float32))
        b = graph.constant(np.zeros((1, 2), np.float32))
        before = graph.node("Unsqueeze", start, first)  # (1, batch, 1)
        graph.nodes_with(
            "RNN",
            x,
            w,
            r,
            b,
            lengths,
            before,
            outputs=[f"{name}_path", f"{name}_last"],
            hidden_size=1,
            activations=["Affine"],
            activation_alpha=[1.0],
            activation_beta=[0.0],
        )
        path = graph.node("Squeeze", f"{name}_path", graph.constant([1]))  # (time, batch, 1)
        paths.append(graph.node("Concat", before, path, axis=0))
        lasts.append(graph.node("Squeeze", f"{name}_last", first))  # (batch, 1)
    graph.node("Concat", *lasts, output=f"{state}_next", axis=-1)
    return paths


def _normal_quantile(graph: GraphBuilder, level: str) -> str:
    """AS 241 (PPND7), as `training.families.series.heads.normal_quantile`."""
    half = graph.constant(0.5)
    q = graph.node("Sub", level, half)
    r = graph.node("Sub", graph.constant(heads.CENTRAL_SHIFT), graph.node("Mul", q, q))
    central = graph.node("Mul", q, _ratio(graph, r, heads.CENTRAL_ABOVE, heads.CENTRAL_BELOW))
    outer = graph.node("Min", level, graph.node("Sub", graph.constant(1.0), level))
    root = graph.node("Sqrt", graph.node("Abs", log(graph, outer)))
    near = _ratio(
        graph,
        graph.node("Sub", root, graph.constant(heads.NEAR_SHIFT)),
        heads.NEAR_ABOVE,
        heads.NEAR_BELOW,
    )
    far = _ratio(
        graph,
        graph.node("Sub", root, graph.constant(heads.FAR_LIMIT)),
        heads.FAR_ABOVE,
        heads.FAR_BELOW,
    )
    is_near = graph.node("LessOrEqual", root, graph.constant(heads.FAR_LIMIT))
    tail = graph.node("Mul", graph.node("Where", is_near, near, far), graph.node("Sign", q))
    is_central = graph.node(
        "LessOrEqual", graph.node("Abs", q), graph.constant(heads.CENTRAL_LIMIT)
    )
    return graph.node("Where", is_central, central, tail)


def _ratio(graph: GraphBuilder, x: str, above: Sequence[float], below: Sequence[float]) -> str:
    return graph.node("Div", _polynomial(graph, x, above), _polynomial(graph, x, below))


def _polynomial(graph: GraphBuilder, x: str, coefficients: Sequence[float]) -> str:
    value = graph.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = graph.node("Add", graph.node("Mul", value, x), graph.constant(coefficient))
    return value


def _split(graph: GraphBuilder, x: str, parts: int) -> list[str]:
    names = [f"{x}_part_{number}" for number in range(parts)]
    graph.nodes_with("Split", x, outputs=names, axis=-1)
    return names
