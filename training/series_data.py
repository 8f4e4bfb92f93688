"""A series made ready to train on: split in time, scaled once from its first value on."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import SeriesConfig, Transform
from training.data.series import Series, read_series, synthetic_series
from training.errors import DataError
from training.heads import JohnsonSU
from training.scaling import Scaling, change_scale_of

TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1
"""The rest, at the end, is the test: nothing is chosen by it."""
FEWEST_ROWS = 50

Floats = NDArray[np.float64]


class ScaledSeries:
    """Pairs (value, next value) of a series, as a network sees and answers them.

    Pair ``t`` is in training for ``t < validation``, in the validation stretch before ``test``,
    and in the test stretch from there on.
    """

    def __init__(self, config: SeriesConfig) -> None:
        """Read, check, split and scale.

        Raises:
            DataError: the series cannot be used.
        """
        self.series = _read(config)
        self.transform = _transform(config, self.series)
        values = self.series.values
        rows = len(values)
        self.validation = round(rows * TRAIN_SHARE) - 1
        self.test = round(rows * (TRAIN_SHARE + VALIDATION_SHARE)) - 1
        if rows < FEWEST_ROWS or self.validation < config.window:
            needed = max(math.ceil((config.window + 2) / TRAIN_SHARE), FEWEST_ROWS)
            raise DataError(
                f"{self.series.source}: {rows} rows with a value are too few: a window of "
                f"{config.window} steps with a fifth held out needs {needed}; "
                "give more rows or a smaller --window"
            )
        self.values = torch.tensor(values, dtype=torch.float32)[None, :, None]  # (1, rows, 1)
        self.changes = self._changes_of(values)  # (rows - 1,) float64
        self.change_scale = change_scale_of(self.changes[: self.validation])
        scaling = Scaling(
            transform=self.transform, change_scale=self.change_scale, decay=config.decay
        )
        scaled, _ = scaling(self.values, scaling.initial_state(1))
        self.spread = scaled.spread[0, :-1, 0].double()  # (rows - 1,): before each change
        self.features = scaled.features[0, :-1]  # (rows - 1, 2)
        self.targets = (self.changes / self.spread).float()  # (rows - 1,)

    @property
    def logarithmic(self) -> bool:
        """True when changes are log-returns."""
        return self.transform is Transform.LOG_RETURN

    @property
    def anchor(self) -> Floats:
        """The value of each pair of the test stretch, ``(n,)``."""
        return self.series.values[self.test : -1]

    @property
    def truth(self) -> Floats:
        """The next value of each pair of the test stretch, ``(n,)``."""
        return self.series.values[self.test + 1 :]

    def quantiles(self, distribution: JohnsonSU, levels: tuple[float, ...]) -> Floats:
        """Quantiles ``(n, levels)`` of next values on the test stretch, in the user's units."""
        column = JohnsonSU(
            location=distribution.location.cpu().double()[:, None],
            scale=distribution.scale.cpu().double()[:, None],
            skewness=distribution.skewness.cpu().double()[:, None],
            tail=distribution.tail.cpu().double()[:, None],
        )
        unit = column.quantile(torch.tensor(levels, dtype=torch.float64))
        change = (unit * self.spread[self.test :, None]).numpy()
        anchor = self.anchor[:, None]
        return np.asarray(anchor * np.exp(change) if self.logarithmic else anchor + change)

    def _changes_of(self, values: Floats) -> torch.Tensor:
        x = torch.tensor(values)
        return torch.log(x[1:] / x[:-1]) if self.logarithmic else x[1:] - x[:-1]


def _read(config: SeriesConfig) -> Series:
    if config.csv is not None and config.value is not None:
        return read_series(config.csv, value=config.value, date=config.date)
    return synthetic_series(config.synthetic or FEWEST_ROWS, seed=config.seed)


def _transform(config: SeriesConfig, series: Series) -> Transform:
    positive = bool((series.values > 0).all())
    if config.transform == "auto":
        return Transform.LOG_RETURN if positive else Transform.DIFFERENCE
    if config.transform is Transform.LOG_RETURN and not positive:
        place = int(np.flatnonzero(series.values <= 0)[0])
        raise DataError(
            f"{series.source}, {series.labels[place]}, column '{series.name}': "
            f"{series.values[place]:g} is not above zero, but log-returns need it; "
            "use --transform difference"
        )
    return Transform(config.transform)
