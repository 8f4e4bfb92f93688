"""The parts of a series model's graph that are not the network: scaling, distribution, quantiles.

The same formulas as `training.scaling` and `training.heads`, in ops whose bits do not depend on how
much runs together. ``Log`` is not one of them on ONNX Runtime's CPU, so the logarithm is
``asinh((x - 1/x) / 2)``, and running sums are ``RNN`` ops of one linear unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.graph import INT64, GraphBuilder
from training import heads
from training.config import Transform
from training.scaling import CHANGE_BOUND, FEATURE_BOUND, PRIOR, Scaling

EXPONENT_BOUND = 60.0
"""A quantile is at most exp(60) times the last value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledNames:
    """Tensors with the time first."""

    features: str
    """(time, batch, 2)"""
    anchor: str
    """(time, batch, 1)"""
    spread: str
    """(time, batch, 1)"""


def add_scaling(graph: GraphBuilder, scaling: Scaling, values: str, lengths: str) -> ScaledNames:
    """Scale ``values (batch, time, 1)``; reads and writes the four scaling states by name."""
    x = graph.node("Transpose", values, perm=[1, 0, 2])  # (time, batch, 1)
    before, seen = _previous(graph, x)
    started = graph.node("Greater", seen, graph.constant(0.0))
    before = graph.node("Where", started, before, x)
    change = _change(graph, scaling.transform, before, x)
    unit = _clip(
        graph, graph.node("Div", change, graph.constant(scaling.change_scale)), CHANGE_BOUND
    )
    square = graph.node("Mul", unit, unit)
    total_path = _running_mean(graph, "variance_sum", square, lengths, scaling.decay)
    weight_path = _running_mean(graph, "variance_weight", seen, lengths, scaling.decay)

    prior = graph.constant(PRIOR)
    ratio = graph.node(
        "Div", graph.node("Add", total_path, prior), graph.node("Add", weight_path, prior)
    )  # (1 + time, batch, 1)
    relative = graph.node("Sqrt", ratio)
    scaled_change = _clip(
        graph, graph.node("Div", unit, _slice(graph, relative, 0, -1)), FEATURE_BOUND
    )
    log_relative = graph.node(
        "Mul", _log(graph, _slice(graph, ratio, 1, None)), graph.constant(0.5)
    )
    features = graph.node("Concat", scaled_change, log_relative, axis=-1)  # (time, batch, 2)
    spread = graph.node(
        "Mul", _slice(graph, relative, 1, None), graph.constant(scaling.change_scale)
    )

    last_step = graph.node(
        "Sub", graph.node("Cast", lengths, to=INT64), graph.constant(np.array(1, np.int64))
    )
    place = graph.node("Unsqueeze", last_step, graph.constant([1]))  # (batch, 1)
    graph.node("GatherND", values, place, output="last_value_next", batch_dims=1)  # (batch, 1)
    graph.node("Max", "seen", graph.constant(1.0), output="seen_next")
    return ScaledNames(features=features, anchor=x, spread=spread)


def add_distribution(graph: GraphBuilder, raw: str, scaled: ScaledNames, *, output: str) -> None:
    """Bound ``raw (time, batch, 4)``, join anchor and spread: ``(batch, time, 6)``."""
    location, scale, skewness, tail = _split(graph, raw, 4)
    parts = [
        _clip(graph, location, heads.LOCATION_BOUND),
        graph.node(
            "Mul",
            graph.node("Exp", _clip(graph, scale, heads.LOG_SCALE_BOUND)),
            graph.constant(heads.SCALE_AT_REST),
        ),
        _clip(graph, skewness, heads.SKEWNESS_BOUND),
        graph.node(
            "Mul",
            graph.node("Exp", _clip(graph, tail, heads.LOG_TAIL_BOUND)),
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
    up = graph.node("Exp", _clip(graph, stretch, heads.STRETCH_BOUND))
    sinh = graph.node(
        "Mul", graph.node("Sub", up, graph.node("Reciprocal", up)), graph.constant(0.5)
    )
    unit = graph.node("Add", graph.node("Mul", scale, sinh), location)
    change = graph.node("Mul", unit, spread)
    if transform is Transform.LOG_RETURN:
        growth = graph.node("Exp", _clip(graph, change, EXPONENT_BOUND))
        graph.node("Mul", anchor, growth, output=output)
    else:
        graph.node("Add", anchor, change, output=output)


def _previous(graph: GraphBuilder, x: str) -> tuple[str, str]:
    """The value before each step, and whether there is one (1 or 0): ``(time, batch, 1)`` each."""
    first = graph.constant([0])
    earlier = _slice(graph, x, 0, -1)  # (time - 1, batch, 1)
    before = graph.node("Concat", graph.node("Unsqueeze", "last_value", first), earlier, axis=0)
    ones = graph.node(
        "Expand", graph.constant(1.0), graph.node("Shape", earlier)
    )  # (time - 1, batch, 1)
    seen = graph.node("Concat", graph.node("Unsqueeze", "seen", first), ones, axis=0)
    return before, seen


def _change(graph: GraphBuilder, transform: Transform, before: str, x: str) -> str:
    difference = graph.node("Sub", x, before)
    if transform is Transform.DIFFERENCE:
        return difference
    # log(x / p) = asinh(((x - p) / p) ((x + p) / x) / 2): exact, and precise near x = p.
    relative = graph.node("Div", difference, before)
    other = graph.node("Div", graph.node("Add", x, before), x)
    product = graph.node("Mul", relative, other)
    return graph.node("Asinh", graph.node("Mul", product, graph.constant(0.5)))


def _running_mean(graph: GraphBuilder, state: str, x: str, lengths: str, decay: float) -> str:
    """``s_t = decay s_{t-1} + (1 - decay) x_t`` from the state on: ``(1 + time, batch, 1)``."""
    first = graph.constant([0])
    w = graph.constant(np.full((1, 1, 1), 1.0 - decay, np.float32))
    r = graph.constant(np.full((1, 1, 1), decay, np.float32))
    b = graph.constant(np.zeros((1, 2), np.float32))
    before = graph.node("Unsqueeze", state, first)  # (1, batch, 1)
    graph.nodes_with(
        "RNN",
        x,
        w,
        r,
        b,
        lengths,
        before,
        outputs=[f"{state}_path", f"{state}_last"],
        hidden_size=1,
        activations=["Affine"],
        activation_alpha=[1.0],
        activation_beta=[0.0],
    )
    graph.node("Squeeze", f"{state}_last", first, output=f"{state}_next")
    path = graph.node("Squeeze", f"{state}_path", graph.constant([1]))  # (time, batch, 1)
    return graph.node("Concat", before, path, axis=0)


def _normal_quantile(graph: GraphBuilder, level: str) -> str:
    """AS 241 (PPND7), as `training.heads.normal_quantile`."""
    half = graph.constant(0.5)
    q = graph.node("Sub", level, half)
    r = graph.node("Sub", graph.constant(heads.CENTRAL_SHIFT), graph.node("Mul", q, q))
    central = graph.node("Mul", q, _ratio(graph, r, heads.CENTRAL_ABOVE, heads.CENTRAL_BELOW))
    outer = graph.node("Min", level, graph.node("Sub", graph.constant(1.0), level))
    root = graph.node("Sqrt", graph.node("Abs", _log(graph, outer)))
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


def _log(graph: GraphBuilder, x: str) -> str:
    twice = graph.node("Sub", x, graph.node("Reciprocal", x))
    return graph.node("Asinh", graph.node("Mul", twice, graph.constant(0.5)))


def _clip(graph: GraphBuilder, x: str, bound: float) -> str:
    return graph.node("Clip", x, graph.constant(-bound), graph.constant(bound))


def _split(graph: GraphBuilder, x: str, parts: int) -> list[str]:
    names = [f"{x}_part_{number}" for number in range(parts)]
    graph.nodes_with("Split", x, outputs=names, axis=-1)
    return names


def _slice(graph: GraphBuilder, x: str, start: int, end: int | None) -> str:
    stop = np.iinfo(np.int64).max if end is None else end
    return graph.node(
        "Slice", x, graph.constant([start]), graph.constant([int(stop)]), graph.constant([0])
    )
