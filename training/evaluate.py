"""Scores of trained networks on data they were not trained on.

Characters: mean cross-entropy in nats, from cold windows of 256 and in one carried pass.
Series: one-step-ahead distributions against the truth and against what needs no network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.heads import normal_quantile
from training.networks import State

COLD_WINDOW = 256
BATCH = 64
CARRIED_LIMIT = 150_000
"""The carried pass reads at most so many characters."""
LEVELS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""Quantile levels of the series scores."""

Model = Callable[[Tensor, State], tuple[Tensor, State]]
InitialState = Callable[[int], State]


@torch.no_grad()
def cold256(
    model: Model, initial_state: InitialState, tokens: Tensor, *, windows: int | None = None
) -> float:
    """Mean nats over whole windows of 256 characters, each from the initial state.

    ``tokens (characters,)``; ``windows`` spreads so many evenly over the text instead of taking
    all. A text of fewer than 257 characters is one window.
    """
    width = min(COLD_WINDOW, len(tokens) - 1)
    starts = torch.arange((len(tokens) - 1) // width) * width
    if windows is not None and windows < len(starts):
        starts = starts[torch.linspace(0, len(starts) - 1, windows).long()]
    total = 0.0
    for first in range(0, len(starts), BATCH):
        chunk = starts[first : first + BATCH]
        index = (chunk[:, None] + torch.arange(width + 1)).to(tokens.device)
        rows = tokens[index]  # (batch, width + 1)
        logits, _ = model(rows[:, :-1], initial_state(len(rows)))
        total += float(cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))
    return total / (len(starts) * width)


@torch.no_grad()
def carried(model: Model, initial_state: InitialState, tokens: Tensor) -> float:
    """Mean nats of one pass from the initial state, with the state carried all along."""
    tokens = tokens[: CARRIED_LIMIT + 1]
    state = initial_state(1)
    total = 0.0
    for start in range(0, len(tokens) - 1, 1024):
        chunk = tokens[start : start + 1025].unsqueeze(0)  # (1, <= 1025)
        logits, state = model(chunk[:, :-1], state)
        total += float(cross_entropy(logits[0], chunk[0, 1:], reduction="sum"))
    return total / (len(tokens) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScores:
    """How good one-step-ahead distributions were."""

    nll: float | None
    """Mean negative log density of the change, in nats; a point forecast has none."""
    loss: float
    """mean_wQuantileLoss over the levels .1 … .9."""
    coverage: float | None
    """Share of truths within the .1 … .9 interval."""


def quantile_loss(truth: NDArray[np.float64], forecast: NDArray[np.float64]) -> float:
    """GluonTS's mean_wQuantileLoss: truth ``(n,)``, forecast ``(n, 9)`` at `LEVELS`.

    Mean over levels q of sum 2 |(f - y) ((y <= f) - q)| / sum |y|.
    """
    y = truth[:, None]
    below = (y <= forecast).astype(np.float64)
    losses = 2 * np.abs((forecast - y) * (below - np.array(LEVELS)))
    return float(losses.sum(axis=0).mean() / max(float(np.abs(truth).sum()), 1e-300))


def score_quantiles(
    truth: NDArray[np.float64], forecast: NDArray[np.float64], *, nll: float
) -> SeriesScores:
    """Score quantile forecasts ``(n, 9)`` of the truth ``(n,)``."""
    inside = (truth >= forecast[:, 0]) & (truth <= forecast[:, -1])
    return SeriesScores(nll=nll, loss=quantile_loss(truth, forecast), coverage=float(inside.mean()))


def last_value(anchor: NDArray[np.float64], truth: NDArray[np.float64]) -> SeriesScores:
    """The forecast that nothing changes."""
    forecast = np.repeat(anchor[:, None], len(LEVELS), axis=1)
    return SeriesScores(nll=None, loss=quantile_loss(truth, forecast), coverage=None)


def running_volatility(
    changes: NDArray[np.float64], *, decay: float, start: float
) -> NDArray[np.float64]:
    """RiskMetrics' volatility after each change, from a starting variance: ``(n,)``."""
    variance = start
    path = np.empty(len(changes))
    for place, change in enumerate(changes):
        variance = decay * variance + (1 - decay) * change * change
        path[place] = math.sqrt(max(variance, 1e-24))
    return path


def gaussian_walk(
    anchor: NDArray[np.float64],
    truth: NDArray[np.float64],
    change: NDArray[np.float64],
    volatility: NDArray[np.float64],
    *,
    logarithmic: bool,
) -> SeriesScores:
    """The random walk with normal changes of the given volatility (before each change)."""
    levels = normal_quantile(torch.tensor(LEVELS)).double().numpy()
    steps = volatility[:, None] * levels
    forecast = anchor[:, None] * np.exp(steps) if logarithmic else anchor[:, None] + steps
    z = change / volatility
    nll = float(np.mean(0.5 * z * z + np.log(volatility) + 0.5 * math.log(2 * math.pi)))
    return score_quantiles(truth, forecast, nll=nll)
