"""Forecasts of a series network: quantiles of the next value, and of sampled paths further on."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.families.series.network import WIDTH, SeriesNetwork

WARM_UP, SEASONS = 2048, 4
"""Rows of the past that a forecast reads, or so many seasons; what lies further back has left no
trace.
"""
MOST_ROWS = 50_000
"""Paths that are drawn together."""


@torch.no_grad()
def quantiles(
    network: SeriesNetwork,
    pasts: Sequence[Tensor],
    *,
    horizon: int,
    levels: Sequence[float],
    paths: int,
    seed: int,
    futures: Sequence[Tensor] | None = None,
) -> NDArray[np.float64]:
    """Quantiles ``(pasts, horizon, levels)`` of what follows each past ``(rows, columns)``.

    One step ahead they are exact, further on those of sampled paths. Where the network reads other
    columns beside the value, ``futures`` has those of the steps ahead, ``(horizon - 1, columns -
    1)`` or more for each past.
    """
    wanted = torch.tensor(levels, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    found = np.empty((len(pasts), horizon, len(levels)))
    rows = warm_up(network.scaling.lag)
    for places in _together(pasts, paths, rows):
        tails = torch.stack([pasts[place][-rows:] for place in places])
        prediction, state = _read(network, tails)  # (batch, 6)
        beside = None
        if futures is not None:
            beside = torch.stack([futures[place][: horizon - 1] for place in places])
        sampled = _paths(
            network, prediction, state, beside, horizon=horizon, paths=paths, draws=draws
        )
        found[places] = np.quantile(sampled, levels, axis=1).transpose(1, 2, 0)
        exact = network.value_at(prediction.double(), wanted.expand(len(places), -1))
        found[places, 0] = exact.numpy()
    return found


@torch.no_grad()
def sample_paths(
    network: SeriesNetwork, past: Tensor, *, horizon: int, paths: int, seed: int
) -> NDArray[np.float64]:
    """Paths ``(paths, horizon)`` drawn from the end of a past ``(rows, columns)`` on."""
    draws = torch.Generator().manual_seed(seed)
    prediction, state = _read(network, past[None, -warm_up(network.scaling.lag) :])
    found = _paths(network, prediction, state, None, horizon=horizon, paths=paths, draws=draws)
    return np.asarray(found[0])


def _read(network: SeriesNetwork, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    device = next(network.parameters()).device
    y, state = network(x.to(device), network.initial_state(len(x)))
    return y[:, -1].cpu(), state


def _paths(
    network: SeriesNetwork,
    prediction: Tensor,
    state: tuple[Tensor, ...],
    beside: Tensor | None,
    *,
    horizon: int,
    paths: int,
    draws: torch.Generator,
) -> NDArray[np.float64]:
    """Paths ``(batch, paths, horizon)`` after predictions ``(batch, 6)``, in antithetic pairs.

    What each draw is read beside is in ``beside (batch, horizon - 1, columns - 1)``.
    """
    if horizon > 1 and len(network.columns) > 1 and beside is None:
        raise ValueError("what follows depends on columns that are not known yet: one step only")
    batch, half = len(prediction), (paths + 1) // 2
    device = next(network.parameters()).device
    y = prediction.repeat_interleave(2 * half, dim=0).to(device)  # (batch * paths, 6)
    state = tuple(part.repeat_interleave(2 * half, dim=0) for part in state)
    given = None if beside is None else beside.to(device).repeat_interleave(2 * half, dim=0)
    drawn = []
    for step in range(horizon):
        level = torch.rand(batch, half, generator=draws)
        level = torch.cat([level, 1 - level], dim=1).reshape(-1, 1).clamp(1e-6, 1 - 1e-6)
        value = network.value_at(y, level.to(device))  # (batch * paths, 1)
        drawn.append(value)
        if step < horizon - 1:
            read = value.unsqueeze(1)  # (batch * paths, 1, 1)
            if given is not None:
                read = torch.cat([read, given[:, step : step + 1]], dim=-1)
            ahead, state = network(read, state)
            y = ahead.reshape(-1, WIDTH)
    found = torch.cat(drawn, dim=1).reshape(batch, 2 * half, horizon)
    return found[:, :paths].double().cpu().numpy()


def warm_up(lag: int) -> int:
    """Rows to read of a series whose changes reach so many rows back."""
    return max(WARM_UP, SEASONS * lag)


def _together(pasts: Sequence[Tensor], paths: int, rows: int) -> list[list[int]]:
    """Numbers of pasts that are read together: of one length, and not too many."""
    by_length: dict[int, list[int]] = {}
    for place, past in enumerate(pasts):
        by_length.setdefault(min(len(past), rows), []).append(place)
    most = max(1, MOST_ROWS // paths)
    return [
        places[start : start + most]
        for places in by_length.values()
        for start in range(0, len(places), most)
    ]
