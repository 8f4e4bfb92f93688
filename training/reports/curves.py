"""How a fit went, drawn from its records: loss, learning rate and gradient norm."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

Records = Sequence[Mapping[str, float]]


def points(records: Records, key: str) -> NDArray[np.float64]:
    """Where a quantity was recorded, and what it was: ``(2, n)``, steps above values."""
    found = [(record["step"], record[key]) for record in records if key in record]
    return np.array(found, np.float64).reshape(-1, 2).T


def seconds_at(records: Records, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The training time at given steps, between the records that tell it."""
    known, seconds = points(records, "seconds")
    if not len(known):
        return np.zeros_like(steps)
    times: NDArray[np.float64] = np.interp(steps, [0.0, *known], [0.0, *seconds])
    return times


def training_curves(records: Records, *, loss_name: str, clip: float, kept_step: int) -> Figure:
    """Loss, learning rate and gradient norm over the steps of one run."""
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1.4]))
    axes[0].plot(*points(records, "loss"), label="training", linewidth=1.2)
    axes[0].plot(*points(records, "validation"), label="validation", linewidth=1.2, marker="o")
    axes[0].axvline(kept_step, color="grey", linewidth=0.9, linestyle=":", label="weights kept")
    axes[0].set_ylabel(loss_name)
    _leave_out_the_start(axes[0], records)
    axes[0].legend()
    axes[1].plot(*points(records, "learning_rate"), color="C2", linewidth=1.2)
    axes[1].set_ylabel("learning rate")
    axes[2].plot(*points(records, "gradient_norm"), color="C3", linewidth=0.9)
    axes[2].axhline(clip, color="grey", linewidth=0.9, linestyle="--", label="clipped above")
    axes[2].axvline(kept_step, color="grey", linewidth=0.9, linestyle=":")
    plain_log_scale(axes[2])
    axes[2].set_ylabel("gradient norm")
    axes[2].set_xlabel("step")
    axes[2].legend(loc="upper right")
    return figure


def plain_log_scale(axes: Axes) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, written as numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def clipped_share(records: Records, *, clip: float) -> float:
    """In how much of the run the largest gradient norm was above the limit."""
    norms = points(records, "gradient_norm")[1]
    return float((norms > clip).mean()) if len(norms) else 0.0


def _leave_out_the_start(axes: Axes, records: Records) -> None:
    """Let the first losses, high above all others, not press the rest flat."""
    losses = np.concatenate([points(records, key)[1] for key in ("loss", "validation")])
    losses = losses[np.isfinite(losses)]
    if len(losses) < 8:
        return
    low, high = losses.min(), np.quantile(losses, 0.97)
    if high > low and losses.max() > high + (high - low):
        axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))
