"""Forecasts that need no training: what a network has to beat.

Each maps a series' past ``(rows,)`` to quantiles ``(horizon, levels)`` of the values that follow,
and sees nothing else.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Baseline: TypeAlias = Callable[[Floats, int, tuple[float, ...]], Floats]

RISK_METRICS = 0.94
"""Decay of the RiskMetrics volatility."""
MONTH = 22
"""Trading days."""
LONGEST_MEMORY = 1500
"""Steps back from which nothing is left of a running mean."""


def last_value(past: Floats, horizon: int, levels: tuple[float, ...]) -> Floats:
    """Nothing changes."""
    return np.full((horizon, len(levels)), past[-1])


def seasonal_naive(season: int) -> Baseline:
    """Everything is as it was a season ago."""

    def forecast(past: Floats, horizon: int, levels: tuple[float, ...]) -> Floats:
        cycle = past[-season:]
        path = cycle[np.arange(horizon) % len(cycle)]
        return np.repeat(path[:, None], len(levels), axis=1)

    return forecast


def ewma_walk(*, logarithmic: bool, decay: float = RISK_METRICS) -> Baseline:
    """A Gaussian random walk without drift, with an exponentially weighted volatility."""

    def volatility(changes: Floats) -> float:
        recent = changes[-LONGEST_MEMORY:]
        weights = decay ** np.arange(len(recent) - 1, -1, -1)
        return float(np.sqrt(np.average(recent**2, weights=weights)))

    return _walk(volatility, logarithmic=logarithmic)


def window_walk(*, logarithmic: bool, steps: int = MONTH) -> Baseline:
    """A Gaussian random walk without drift, with the volatility of the last steps."""

    def volatility(changes: Floats) -> float:
        return float(np.sqrt(np.mean(changes[-steps:] ** 2)))

    return _walk(volatility, logarithmic=logarithmic)


def _walk(volatility: Callable[[Floats], float], *, logarithmic: bool) -> Baseline:
    def forecast(past: Floats, horizon: int, levels: tuple[float, ...]) -> Floats:
        recent = past[-LONGEST_MEMORY - 1 :]
        changes = np.diff(np.log(recent) if logarithmic else recent)
        deviation = volatility(changes) * np.sqrt(np.arange(1, horizon + 1))  # (horizon,)
        normal = np.array([NormalDist().inv_cdf(level) for level in levels])  # (levels,)
        moves = deviation[:, None] * normal
        return np.asarray(past[-1] * np.exp(moves) if logarithmic else past[-1] + moves)

    return forecast


def usual(*, logarithmic: bool, season: int | None) -> dict[str, Baseline]:
    """The baselines of a series, by the names their scores carry."""
    found: dict[str, Baseline] = {
        "last_value": last_value,
        "gaussian_walk": ewma_walk(logarithmic=logarithmic),
        "month_walk": window_walk(logarithmic=logarithmic),
    }
    if season is not None:
        found["seasonal_naive"] = seasonal_naive(season)
    return found


TITLES = {
    "last_value": "last value",
    "seasonal_naive": "seasonal naive",
    "gaussian_walk": f"random walk, Gaussian, EWMA {RISK_METRICS:.2f}".replace("0.", "."),
    "month_walk": f"random walk, Gaussian, last {MONTH} steps",
    "fitted_walk": "random walk, fitted Johnson SU",
}
"""What each is called in tables."""
