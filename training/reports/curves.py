"""How a fit went, drawn from its records: loss, learning rate and gradient norm."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.reports import numbers
from training.reports.plots import (
    Picture,
    count_axis,
    legend_above,
    log_axis,
    number_axis,
    panel,
)

Floats = NDArray[np.float64]
Records = Sequence[Mapping[str, float]]
MOST_POINTS = 400
"""A line of more is drawn by stretches: a long run costs no more than a short one."""
FEW_POINTS = 20
"""So few are marked, so that one alone is seen."""


def points(records: Records, key: str) -> Floats:
    """Where a quantity was recorded, and what it was: ``(2, n)``, steps above values."""
    found = [(record["step"], record[key]) for record in records if key in record]
    return np.array(found, np.float64).reshape(-1, 2).T


def whole_points(records: Records, key: str) -> Floats:
    """Those points that stand for as many steps as the others, ``(2, n)``.

    The last record of a run is of the steps that were left: the mean or the largest of one or two
    is not what that of ten is, and would look like a dip or a jump.
    """
    found = points(records, key)
    steps = np.diff(found[0], prepend=0.0)
    whole = steps >= np.median(steps) if len(steps) else np.ones(0, bool)
    return found[:, whole] if whole.sum() > 1 else found


def thinned(found: Floats, of: Callable[..., Floats], *, most: int = MOST_POINTS) -> Floats:
    """Points ``(2, n)`` by stretches: the last step of each, and its mean or largest value."""
    count = found.shape[1]
    if count <= most:
        return found
    edges = np.linspace(0, count, most + 1).astype(int)
    values = [of(found[1, a:b]) for a, b in itertools.pairwise(edges)]
    return np.array([found[0, edges[1:] - 1], values])


def seconds_at(records: Records, steps: Floats) -> Floats:
    """The training time at given steps, between the records that tell it."""
    known, seconds = points(records, "seconds")
    if not len(known):
        return np.zeros_like(steps)
    times: Floats = np.interp(steps, [0.0, *known], [0.0, *seconds])
    return times


def training_curves(
    records: Records, *, loss_name: str, clip: float, kept_step: int | None
) -> tuple[Picture, ...]:
    """Loss, learning rate and gradient norm over the steps of one run, as far as it is.

    Args:
        records: the run's history.
        loss_name: what the loss is measured in.
        clip: the gradient norm that is clipped above.
        kept_step: whose weights are kept; None: none are yet.
    """
    loss, validation = whole_points(records, "loss"), points(records, "validation")
    norms, rates = whole_points(records, "gradient_norm"), points(records, "learning_rate")
    pictures = []
    if loss.size or validation.size:
        figure, axes = panel("training step", "loss")
        draw(axes, thinned(loss, np.mean), label="training")
        draw(axes, validation, label="validation", marker="o", markersize=4)
        if kept_step is not None:
            axes.axvline(kept_step, color="grey", linestyle=":", label="weights kept")
        _leave_out_the_start(axes, (loss[1], validation[1]))
        number_axis(axes.yaxis)
        _step_axis(axes)
        legend_above(axes)
        pictures.append(Picture(figure=figure, caption=f"Loss: {loss_name}"))
    if rates.size:
        figure, axes = panel("training step", "learning rate")
        draw(axes, thinned(rates, np.mean), color="C2")
        axes.set_ylim(bottom=0)
        number_axis(axes.yaxis)
        _step_axis(axes)
        pictures.append(Picture(figure=figure, caption="Learning rate"))
    if norms.size:
        figure, axes = panel("training step", "gradient norm")
        draw(axes, thinned(norms, np.max), color="C3", linewidth=1.0)
        axes.axhline(clip, color="grey", linestyle="--", label="clipped above")
        log_axis(axes)
        _step_axis(axes)
        legend_above(axes)
        pictures.append(
            Picture(figure=figure, caption="Gradient norm: the largest of each stretch")
        )
    return tuple(pictures)


def draw(axes: Axes, found: Floats, **look: object) -> None:
    """Draw points ``(2, n)`` as a line; a few are marked."""
    if found.shape[1] < FEW_POINTS:
        look = {"marker": "o", "markersize": 4, **look}
    axes.plot(*found, **look)  # type: ignore[arg-type]


def clipping(records: Records, *, clip: float) -> str:
    """In how much of a run the gradient was clipped, in a clause."""
    norms = points(records, "gradient_norm")[1]
    share = float((norms > clip).mean()) if len(norms) else 0.0
    if not share:
        return f"It was never above {clip:g}, where it would have been clipped."
    return f"In {numbers.percent(share, digits=0)} of them it was above {clip:g}, and clipped."


def _step_axis(axes: Axes) -> None:
    axes.set_xlim(left=0)
    count_axis(axes.xaxis)


def _leave_out_the_start(axes: Axes, losses: Sequence[Floats]) -> None:
    """Let the first losses, high above all others, not press the rest flat."""
    found = np.concatenate(losses)
    found = found[np.isfinite(found)]
    if len(found) < 8:
        return
    low, high = found.min(), np.quantile(found, 0.97)
    if high > low and found.max() > high + (high - low):
        axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))
