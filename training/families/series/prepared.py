"""Series made ready to train on: split in time, scaled once from their first values on."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series.future import Future, calendar_future, read_future
from training.data.series.panel import Panel, Series, synthetic_panel
from training.data.series.reading import read_panel
from training.errors import DataError
from training.families.meaning import Meaning, require_same
from training.families.reading_order import Streams, Stretch
from training.families.series.features import Features, Number
from training.families.series.network import SeriesNetwork
from training.families.series.scaling import change_scale_of
from training.families.series.settings import SeriesConfig, Transform

HELD_OUT_SHARE = 0.1
"""Of the rows, for validation; as many again, at the end, for the test: nothing is chosen by it."""
FEWEST_ROWS = 50
EXTRA_DECAYS = (0.8, 0.985)
"""Running sizes of changes that the network reads beside the one that scales."""

_MUST_FIT = {
    "features": "columns beside the value",
    "times": "time features",
    "transform": "changes are measured by",
    "season": "steps that changes are measured over",
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A series' pairs (value, next value), cut in time.

    Pair ``t`` is in training from ``first`` on, in the validation stretch from ``validation`` on,
    and in the test stretch from ``test`` on.
    """

    first: int
    validation: int
    test: int
    end: int


class ScaledPanel:
    """All pairs of all series, one series after the other, as a network sees and answers them."""

    def __init__(self, config: SeriesConfig) -> None:
        """Read, check and split.

        Raises:
            DataError: a series cannot be used.
        """
        self.panel = _read(config)
        self.transform = _transform(config, self.panel)
        self.lag = config.season or 1
        self.splits = tuple(_split(config, self.panel, series) for series in self.panel.series)
        self.changes = tuple(self._changes_of(series) for series in self.panel.series)
        trained = [
            changes[split.first + 1 - self.lag : split.validation + 1 - self.lag]
            for changes, split in zip(self.changes, self.splits, strict=True)
        ]
        self.change_scale = change_scale_of([torch.from_numpy(changes) for changes in trained])
        self.features = Features(
            numbers=tuple(
                Number.seen_in(
                    name,
                    [
                        series.beside[split.first : split.validation + 1, place]
                        for series, split in zip(self.panel.series, self.splits, strict=True)
                    ],
                )
                for place, name in enumerate(self.panel.features)
            ),
            times=self.panel.times,
        )
        self.rows = tuple(
            torch.from_numpy(np.column_stack([series.values, series.beside])).float()
            for series in self.panel.series
        )  # (rows, columns) each
        self.future = _future(config, self.panel)

    def meaning(self) -> Meaning:
        """Columns, and how changes are measured and scaled."""
        return {
            "features": list(self.panel.features),
            "times": [str(time) for time in self.panel.times],
            "transform": str(self.transform),
            "season": self.lag,
            "change_scale": float(self.change_scale),
            "numbers": [number.plain() for number in self.features.numbers],
        }

    def adopt(self, meaning: Meaning, *, of: str) -> None:
        """Scale as a network of the run ``of`` does.

        Raises:
            DataError: the columns beside the value are others, or changes are measured otherwise.
        """
        own = self.meaning()
        for key, what in _MUST_FIT.items():
            require_same(own[key], meaning[key], what=what, source=self.panel.source, of=of)
        self.change_scale = meaning["change_scale"]
        numbers = tuple(Number.of(number) for number in meaning["numbers"])
        self.features = Features(numbers=numbers, times=self.panel.times)

    @property
    def logarithmic(self) -> bool:
        """True when changes are log-returns."""
        return self.transform is Transform.LOG_RETURN

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was done to the data, and what was decided by it."""
        notes = list(self.panel.notes)
        kind = "log-return" if self.logarithmic else "difference"
        since = f"from {self.lag} steps before" if self.lag > 1 else "from the step before"
        rows = sum(len(series.values) for series in self.panel.series)
        notes.append(Note(what=f"changes are {kind}s", rows=rows, detail=since))
        notes += [
            Note(what=f"read by its changes only: '{number.name}'", rows=rows, detail="it drifts")
            for number in self.features.numbers
            if number.drifts
        ]
        if self.future is not None:
            notes += self.future.notes
        elif self.features.columns:
            names = ", ".join(self.features.columns)
            how = "give it with --future FILE" if self.features.numbers else "its dates are uneven"
            what = "the forecast of the run is of 1 step"
            notes.append(
                Note(what=what, rows=1, detail=f"the future of {names} is not known: {how}")
            )
        return tuple(notes)

    def streams(self, config: SeriesConfig) -> Streams:
        """The order in which training reads the pairs."""
        return Streams(
            stretches=tuple(
                Stretch(start=base + split.first, length=split.validation - split.first)
                for base, split in zip(self.bases, self.splits, strict=True)
            ),
            batch=config.batch,
            window=config.window,
            seed=config.seed,
        )

    @property
    def ahead(self) -> tuple[torch.Tensor, ...] | None:
        """What is beside the steps after each series' end, (steps, columns - 1); None: unknown."""
        if self.future is None:
            return None
        return tuple(torch.from_numpy(beside).float() for beside in self.future.beside)

    @property
    def bases(self) -> tuple[int, ...]:
        """The place of each series' first pair."""
        ends = np.cumsum([split.end for split in self.splits])
        return (0, *(int(end) for end in ends[:-1]))

    def scaled(self, network: SeriesNetwork) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the cells read ``(pairs, inputs)``, targets and spreads ``(pairs,)``."""
        read, targets, spreads = [], [], []
        for rows in self.rows:
            count = len(network.cells.state_shapes)
            seen, anchor, spread, _ = network.read(rows[None], network.initial_state(1)[count:])
            change = network.scaling.change(anchor[0, :-1, 0].double(), rows[1:, 0].double())
            read.append(seen[0, :-1])
            spreads.append(spread[0, :-1, 0].double())
            targets.append((change / spreads[-1]).float())
        return torch.cat(read), torch.cat(targets), torch.cat(spreads)

    def _changes_of(self, series: Series) -> Floats:
        """Changes over the lag, ``(rows - lag,)``."""
        x = np.log(series.values) if self.logarithmic else series.values
        return x[self.lag :] - x[: -self.lag]


def _read(config: SeriesConfig) -> Panel:
    if config.csv is None:
        rows = config.synthetic or FEWEST_ROWS
        panel = synthetic_panel(rows, seed=config.seed, times=config.time_feature)
    else:
        panel = read_panel(config.csv, config.columns)
    if config.rows is None:
        return panel
    return panel.head(config.rows)


def _future(config: SeriesConfig, panel: Panel) -> Future | None:
    if config.future is not None:
        return read_future(config.future, panel, config.columns, horizon=config.horizon)
    if panel.times and not panel.features:
        return calendar_future(panel, horizon=config.horizon)
    return None


def _split(config: SeriesConfig, panel: Panel, series: Series) -> Split:
    rows = len(series.values)
    held_out = round(rows * HELD_OUT_SHARE)
    test = rows - 1 - (config.test_rows or held_out)
    validation = test - (config.validation_rows or held_out)
    first = (config.season or 1) - 1
    if config.train_rows is not None:
        first = max(first, validation - config.train_rows)
    if rows < FEWEST_ROWS or validation - first < config.window:
        needed = max(math.ceil((config.window + first + 2) / (1 - 2 * HELD_OUT_SHARE)), FEWEST_ROWS)
        name = f", series '{series.name}'" if len(panel.series) > 1 else ""
        raise DataError(
            f"{panel.source}{name}: {rows} rows with a value are too few: a window of "
            f"{config.window} steps with {rows - 1 - validation} rows held out needs {needed} or "
            "more; give more rows or a smaller --window"
        )
    return Split(first=first, validation=validation, test=test, end=rows - 1)


def _transform(config: SeriesConfig, panel: Panel) -> Transform:
    positive = all(bool((series.values > 0).all()) for series in panel.series)
    if config.transform == "auto":
        prices = positive and config.season is None
        return Transform.LOG_RETURN if prices else Transform.DIFFERENCE
    if config.transform is Transform.LOG_RETURN and not positive:
        series = next(series for series in panel.series if (series.values <= 0).any())
        place = int(np.flatnonzero(series.values <= 0)[0])
        raise DataError(
            f"{panel.source}, {series.labels[place]}, column '{series.name}': "
            f"{series.values[place]:g} is not above zero, but log-returns need it; "
            "use --transform difference"
        )
    return Transform(config.transform)
