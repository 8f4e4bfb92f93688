"""A generated price series, for demonstrations without any data. It is nobody's price.

A geometric random walk whose volatility wanders (an autoregression of its logarithm, so calm and
stormy months alternate) and whose changes have a little momentum and heavier tails than a normal.
"""

from pathlib import Path

import numpy as np
import pandas as pd

MOMENTUM = 0.2
"""Correlation of one change with the one before."""
VOLATILITY = 0.012
"""Typical change per step."""
VOLATILITY_MEMORY = 0.97
VOLATILITY_NOISE = 0.15
DEGREES_OF_FREEDOM = 6
DRIFT = 2e-4


def synthetic_prices(rows: int, *, seed: int = 0) -> pd.DataFrame:
    """Business days and closing prices (columns ``Date`` and ``Close``); labelled synthetic."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_t(DEGREES_OF_FREEDOM, rows) * np.sqrt(1 - 2 / DEGREES_OF_FREEDOM)
    wander = rng.normal(0.0, VOLATILITY_NOISE, rows)
    changes = np.zeros(rows)
    log_volatility = previous = 0.0
    for row in range(1, rows):
        log_volatility = VOLATILITY_MEMORY * log_volatility + wander[row]
        previous = MOMENTUM * previous + VOLATILITY * np.exp(log_volatility) * shocks[row]
        changes[row] = DRIFT + previous
    prices = 100.0 * np.exp(np.cumsum(changes))
    dates = np.busday_offset("1900-01-01", np.arange(rows), roll="forward")
    return pd.DataFrame({"Date": dates.astype(str), "Close": np.round(prices, 4)})


def write_csv(path: Path, rows: int, *, seed: int = 0) -> None:
    """Write a synthetic series as a CSV file."""
    synthetic_prices(rows, seed=seed).to_csv(path, index=False)
