"""Rolling backtests: forecasts from several places in the held-out tail, scored against the truth.

A forecast sees the rows before its origin and nothing after. Scores are GluonTS's:
mean_wQuantileLoss is the mean over levels q of ``sum 2 |(f - y) ((y <= f) - q)| / sum |y|`` over
all series, windows and steps; MASE is the mean absolute error of the median over the past's mean
absolute change from one season (or step) before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.families.series.backtesting.baselines import Baseline

Floats: TypeAlias = NDArray[np.float64]

LEVELS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""Quantile levels of the scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Where forecasts begin, how far they go, and what they tell."""

    horizon: int
    windows: int
    stride: int
    levels: tuple[float, ...] = LEVELS
    season: int = 1
    """Steps of the naive forecast that MASE compares with."""

    @classmethod
    def within(cls, rows: int, *, horizon: int, windows: int, season: int = 1) -> "Protocol":
        """As many windows as fit one after the other into so many rows, ``windows`` at most.

        A tail shorter than the horizon shortens it.
        """
        horizon = max(1, min(horizon, rows))
        count = max(1, min(windows, rows // horizon))
        return cls(horizon=horizon, windows=count, stride=horizon, season=season)

    def origins(self, rows: int) -> tuple[int, ...]:
        """The first row that each window predicts; the last window ends with the series."""
        last = rows - self.horizon
        return tuple(last - self.stride * back for back in range(self.windows - 1, -1, -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One place to forecast from."""

    series: int
    origin: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good forecasts were."""

    loss: float
    """mean_wQuantileLoss."""
    mase: float
    """Over the windows whose past changes; not a number where none does."""
    coverage: float | None
    """Share of truths between the lowest and the highest level; a point forecast has none."""
    by_horizon: tuple[float, ...]
    """The loss of each step ahead, over the same sum |y| per step."""
    coverage_by_horizon: tuple[float, ...]
    below: tuple[float, ...]
    """Share of truths at or below each level's forecast."""
    by_window: tuple[float, ...]
    """The sum of losses of each window in time, all series together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backtest:
    """Truth and forecasts of every window of every series."""

    protocol: Protocol
    windows: tuple[Window, ...]
    """Series by series, each in order of time."""
    truth: Floats
    """(windows, horizon)"""
    scale: Floats
    """(windows,): mean absolute change of each window's past."""
    forecasts: dict[str, Floats]
    """(windows, horizon, levels) by the forecaster's name."""

    def score(self, name: str) -> Score:
        """Score one forecaster."""
        forecast, levels = self.forecasts[name], np.array(self.protocol.levels)
        y = self.truth[..., None]
        below = y <= forecast  # (windows, horizon, levels)
        losses = 2 * np.abs((forecast - y) * (below - levels))
        size = max(float(np.abs(self.truth).sum()), 1e-300)
        step_sizes = np.maximum(np.abs(self.truth).sum(axis=0), 1e-300)  # (horizon,)
        inside = (self.truth >= forecast[..., 0]) & (self.truth <= forecast[..., -1])
        is_point = bool((forecast[..., 0] == forecast[..., -1]).all())
        median = np.abs(levels - 0.5).argmin()
        errors = np.abs(forecast[..., median] - self.truth).mean(axis=1)  # (windows,)
        scaled = self.scale > 0
        by_window = losses.sum(axis=(1, 2)).reshape(-1, self.protocol.windows).sum(axis=0)
        return Score(
            loss=float(losses.sum(axis=(0, 1)).mean() / size),
            mase=float(np.mean(errors[scaled] / self.scale[scaled])) if scaled.any() else math.nan,
            coverage=None if is_point else float(inside.mean()),
            by_horizon=_numbers(losses.sum(axis=0).mean(axis=-1) / step_sizes),
            coverage_by_horizon=_numbers(inside.mean(axis=0)),
            below=_numbers(below.mean(axis=(0, 1))),
            by_window=_numbers(by_window),
        )


Forecaster: TypeAlias = Callable[[Sequence[Window], Protocol], Floats]
"""Forecasts ``(windows, horizon, levels)``; the caller trusts it to look at the past alone."""


def backtest(
    values: Sequence[Floats],
    protocol: Protocol,
    *,
    forecasters: dict[str, Forecaster],
    baselines: dict[str, Baseline],
) -> Backtest:
    """Forecast every window of every series ``(rows,)`` and keep the truth beside it.

    Raises:
        ValueError: a series is too short for the protocol.
    """
    windows = []
    for place, rows in enumerate(values):
        origins = protocol.origins(len(rows))
        if origins[0] <= protocol.season:
            raise ValueError(f"series {place} has no past before row {origins[0]}")
        windows += [Window(series=place, origin=origin) for origin in origins]
    forecasts = {name: forecaster(windows, protocol) for name, forecaster in forecasters.items()}
    pasts = [values[window.series][: window.origin] for window in windows]
    for name, baseline in baselines.items():
        found = [baseline(past, protocol.horizon, protocol.levels) for past in pasts]
        forecasts[name] = np.stack(found)
    truth = [
        values[window.series][window.origin : window.origin + protocol.horizon]
        for window in windows
    ]
    scale = [np.abs(past[protocol.season :] - past[: -protocol.season]).mean() for past in pasts]
    return Backtest(
        protocol=protocol,
        windows=tuple(windows),
        truth=np.stack(truth),
        scale=np.array(scale),
        forecasts=forecasts,
    )


def _numbers(array: Floats) -> tuple[float, ...]:
    return tuple(float(number) for number in array)
