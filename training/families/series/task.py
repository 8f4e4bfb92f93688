"""The next value of one or more series."""

import copy
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from training.data.notes import Note
from training.families.meaning import Meaning
from training.families.series.backtesting import baselines, forecasts
from training.families.series.backtesting.backtest import (
    LEVELS,
    Backtest,
    Protocol,
    Score,
    Window,
    backtest,
)
from training.families.series.heads import JohnsonSU, fit_constant
from training.families.series.network import SeriesNetwork
from training.families.series.pictures import sections
from training.families.series.prepared import EXTRA_DECAYS, Floats, ScaledPanel
from training.families.series.report import score_table, shortfall
from training.families.series.settings import SeriesConfig
from training.families.task import HeldOut, Task
from training.networks.recurrent import Model, State
from training.reports.sections import Section

WARM_UP = 512
"""Steps read before a scored stretch, so that its state is warm."""
PARITY_STEPS = 512
MOST_ONE_STEP = 2000
"""Next values scored per series, the last ones of the test stretch."""
NETWORK, FITTED_WALK = "network", "fitted_walk"


class SeriesTask(Task):
    """Predict each value of a series, as a distribution, from those before it."""

    config: SeriesConfig
    network: SeriesNetwork
    unit = "values"
    loss_name = "nats per value, in units of the running spread"
    forward_methods = ("shape",)
    default_budget_s = 30.0
    most_epochs = 100.0
    validations = 30
    paths = 500
    """Paths that a forecast of several steps is made of."""

    def __init__(self, config: SeriesConfig) -> None:
        """Read the series and build the network.

        Raises:
            DataError: the series cannot be used.
        """
        self.config = config
        self.data = ScaledPanel(config)
        self.source, self.sha256 = self.data.panel.source, self.data.panel.sha256
        self._build()
        self.streams = self.data.streams(config)
        self._backtests: tuple[Backtest, Backtest | None] | None = None
        """Those of the last scores, for the report."""
        self._future: Floats | None = None
        """The forecast of the same network, for the sample and the report."""

    def _build(self) -> None:
        """The network, and the data as it reads them."""
        config = self.config
        self.network = SeriesNetwork(
            feature=self._value_name(),
            transform=self.data.transform,
            change_scale=self.data.change_scale,
            decays=(config.decay, *EXTRA_DECAYS),
            lag=self.data.lag,
            features=self.data.features,
            cell=config.cell,
            layers=config.layers,
            hidden=config.hidden,
            dropout=config.dropout,
            driftless=config.driftless,
            nonlinearity=config.nonlinearity,
            learns_initial=config.learn_initial_state,
        )
        self._read, self._targets, self._spreads = self.data.scaled(self.network)
        self.constant = fit_constant(
            self._targets[self._places("first", "validation")], driftless=config.driftless
        )
        self.network.head.start_from(self.constant)

    def meaning(self) -> Meaning:
        """Columns, and how changes are measured and scaled."""
        return self.data.meaning()

    def adopt(self, meaning: Meaning, *, of: str) -> None:
        """Scale the series as another network does.

        Raises:
            DataError: the columns beside the value are others, or changes are measured otherwise.
        """
        if meaning == self.meaning():
            return
        self.data.adopt(meaning, of=of)
        self._build()

    def shortfall(self, scores: dict[str, float]) -> str | None:
        """The last value, and the value of a season ago where there is a season."""
        return shortfall(scores)

    def _value_name(self) -> str:
        """What the client's column is called: the series where there is one."""
        series = self.data.panel.series
        if len(series) == 1:
            return series[0].name
        return self.config.value[0] if len(self.config.value) == 1 else "value"

    def to(self, device: torch.device) -> None:
        """Move what the cells read, and the targets, to a device."""
        self._read = self._read.to(device)
        self._targets = self._targets.to(device)

    def training_state(self, batch: int) -> State:
        """The cells' initial state: the series are scaled beforehand."""
        return self.network.initial_state(batch)[: len(self.network.cells.state_shapes)]

    def loss(self, model: nn.Module, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Negative log density of the next change, in units of the spread."""
        index = index.to(self._targets.device)
        shape, state = cast(Model, model.shape)(self._read[index], state)
        return -JohnsonSU.unpack(shape).log_density(self._targets[index]).mean(), state

    @torch.no_grad()
    def validation_loss(self, model: nn.Module) -> float:
        """The same loss on the validation stretches, read with warm states."""
        return -float(self._log_density(model, "validation", "test").mean())

    def scores(self) -> dict[str, float]:
        """Network and baselines on the test stretches; a baseline's scores carry its name.

        Those of forecasts further ahead begin with ``backtest.``; see
        `training.families.series.backtesting.backtest`.
        """
        one_step, ahead = self._backtests = self._run_backtests()
        self._future = None
        density = self._log_density(self.network, "test", "end").double().cpu()
        spread = torch.log(self._spreads[self._places("test", "end")])
        walk = self._log_density(self._walk(), "test", "end").double().cpu()
        found = {
            "nll": -float((density - spread).mean()),
            f"{FITTED_WALK}.nll": -float((walk - spread).mean()),
            **_named(one_step, ""),
        }
        if ahead is not None:
            found |= {
                **_named(ahead, "backtest."),
                "backtest.horizon": float(ahead.protocol.horizon),
                "backtest.windows": float(ahead.protocol.windows),
                "backtest.windows_won": _windows_won(ahead),
            }
        return found

    def protocol(self) -> Protocol:
        """Where the backtest's windows are: one after the other, to the end of the test rows."""
        rows = min(split.end - split.test for split in self.data.splits)
        return Protocol.within(
            rows,
            horizon=self.config.horizon,
            windows=self.config.windows,
            season=self.config.season or 1,
        )

    def one_step(self) -> Backtest:
        """Forecasts of each next value in the test stretches."""
        rows = min(split.end - split.test for split in self.data.splits)
        windows = min(rows, MOST_ONE_STEP)
        protocol = Protocol.within(rows, horizon=1, windows=windows, season=self.config.season or 1)
        walk = self._walk()
        return backtest(
            [series.values for series in self.data.panel.series],
            protocol,
            forecasters={
                NETWORK: lambda windows, _: self._next_values(self.network, windows),
                FITTED_WALK: lambda windows, _: self._next_values(walk, windows),
            },
            baselines=self._baselines(),
        )

    def ahead(self) -> Backtest:
        """Forecasts of several steps from every window of `protocol`.

        They are given what really stood beside the steps ahead.
        """

        def forecast(network: SeriesNetwork, windows: Sequence[Window], how: Protocol) -> Floats:
            pasts = [self.data.rows[window.series][: window.origin] for window in windows]
            ahead = [self.data.rows[window.series][window.origin :, 1:] for window in windows]
            return forecasts.quantiles(
                network,
                pasts,
                horizon=how.horizon,
                levels=how.levels,
                paths=self.paths,
                seed=self.config.seed,
                futures=ahead if self.network.features.columns else None,
            )

        walk = self._walk()
        return backtest(
            [series.values for series in self.data.panel.series],
            self.protocol(),
            forecasters={
                NETWORK: lambda windows, how: forecast(self.network, windows, how),
                FITTED_WALK: lambda windows, how: forecast(walk, windows, how),
            },
            baselines=self._baselines(),
        )

    def score_table(self, scores: dict[str, float]) -> Table:
        """The network beside the baselines, and whether it was worth training."""
        return score_table(scores, source=self.source, beside=self.network.features.columns)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was done to the series."""
        return self.data.notes

    def sections(self) -> list[Section]:
        """Forecasts over the truth, errors by horizon, calibration, and the one-step tail."""
        one_step, ahead = self.backtests()
        return sections(
            self.data.panel,
            ahead=ahead,
            one_step=one_step,
            future=self.future(),
            beside=self.network.features.columns,
        )

    def write_samples(self, folder: Path) -> Path:
        """Write a forecast of what follows each series' end.

        It goes one step ahead where the future of what is read beside the value is not known.
        """
        path = folder / "forecast.csv"
        found = self.future()[..., [0, 4, 8]]  # (series, horizon, levels)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["series", "step", "date", "q10", "q50", "q90"])
            for series, steps in zip(self.data.panel.series, found, strict=True):
                dates = series.ahead(len(steps))
                for step, (date, row) in enumerate(zip(dates, steps, strict=True), start=1):
                    writer.writerow([series.name, step, date, *(f"{number:.6g}" for number in row)])
        return path

    def future(self) -> Floats:
        """Quantiles ``(series, horizon, levels)`` of what follows each series' end.

        One step of it where the future of what is read beside the value is not known.
        """
        if self._future is None:
            futures = self.data.ahead
            is_known = futures is not None or not self.network.features.columns
            self._future = forecasts.quantiles(
                self.network,
                self.data.rows,
                horizon=self.config.horizon if is_known else 1,
                levels=LEVELS,
                paths=self.paths,
                seed=self.config.seed,
                futures=futures,
            )
        return self._future

    def held_out(self) -> HeldOut:
        """The tail of the first series."""
        steps = max(PARITY_STEPS, 2 * self.network.scaling.lag)
        tail = self.data.rows[0][None, -(steps + 1) :]  # (1, time + 1, columns)
        return HeldOut(steps=tail[:, :-1], targets=tail[:, 1:, :1])

    def nats(self, prediction: Tensor, held_out: HeldOut) -> float:
        """Mean negative log density of the next change, in units of the spread."""
        prediction = prediction.double()
        anchor, spread = prediction[..., 4], prediction[..., 5]
        change = self.network.scaling.change(anchor, held_out.targets[..., 0].double())
        return -float(JohnsonSU.unpack(prediction).log_density(change / spread).mean())

    def backtests(self) -> tuple[Backtest, Backtest | None]:
        """Those that the last scores are of: the next value, and several steps ahead.

        Steps ahead are None where the horizon is one step.
        """
        return self._backtests or self._run_backtests()

    def _run_backtests(self) -> tuple[Backtest, Backtest | None]:
        return self.one_step(), self.ahead() if self.protocol().horizon > 1 else None

    def _baselines(self) -> dict[str, baselines.Baseline]:
        return baselines.usual(logarithmic=self.data.logarithmic, season=self.config.season)

    def _walk(self) -> SeriesNetwork:
        """The random walk that training started from."""
        walk = copy.deepcopy(self.network)
        walk.head.start_from(self.constant)
        return walk.eval()

    def _places(self, start: str, end: str) -> Tensor:
        """The places of the pairs between two cuts, series by series."""
        return torch.cat(
            [
                torch.arange(base + getattr(split, start), base + getattr(split, end))
                for base, split in zip(self.data.bases, self.data.splits, strict=True)
            ]
        )

    def _shapes(self, model: nn.Module, start: str, end: str) -> list[Tensor]:
        """Johnson SU shapes ``(pairs, 4)`` of each series between two cuts, with warm states."""
        shapes = []
        for base, split in zip(self.data.bases, self.data.splits, strict=True):
            first, last = base + getattr(split, start), base + getattr(split, end)
            warm = max(base, first - WARM_UP)
            read = self._read[warm:last].unsqueeze(0)  # (1, warm-up + pairs, inputs)
            shape, _ = cast(Model, model.shape)(read, self.training_state(1))
            shapes.append(shape[0, first - warm :])
        return shapes

    @torch.no_grad()
    def _log_density(self, model: nn.Module, start: str, end: str) -> Tensor:
        """Of each target between two cuts, in units of the spread, ``(pairs,)``."""
        shape = torch.cat(self._shapes(model, start, end))
        places = self._places(start, end).to(shape.device)
        return JohnsonSU.unpack(shape).log_density(self._targets[places])

    @torch.no_grad()
    def _next_values(self, model: SeriesNetwork, windows: Sequence[Window]) -> Floats:
        """Quantiles ``(windows, 1, levels)`` of the value at each window's origin."""
        shapes = self._shapes(model, "test", "end")
        levels = torch.tensor(Protocol.within(1, horizon=1, windows=1).levels).double()
        rows = []
        for window in windows:
            split, base = self.data.splits[window.series], self.data.bases[window.series]
            pair = window.origin - 1
            shape = shapes[window.series][pair - split.test].cpu().double()
            anchor = float(
                self.data.panel.series[window.series].values[window.origin - self.data.lag]
            )
            parts = torch.tensor([anchor, float(self._spreads[base + pair])]).double()
            rows.append(model.value_at(torch.cat([shape, parts]), levels).numpy())
        return np.stack(rows)[:, None]


def _named(found: Backtest, prefix: str) -> dict[str, float]:
    """The scores of a backtest, each under its forecaster's name; the network's have none."""
    named: dict[str, float] = {}
    for name in found.forecasts:
        score: Score = found.score(name)
        own = prefix if name == NETWORK else f"{prefix}{name}."
        named[f"{own}mean_wQuantileLoss"] = score.loss
        named[f"{own}mase"] = score.mase
        if score.coverage is not None:
            named[f"{own}coverage80"] = score.coverage
    return {key: number for key, number in named.items() if math.isfinite(number)}


def _windows_won(found: Backtest) -> float:
    """Windows in which the network's loss is below that of the best of the others."""
    others = {name: found.score(name) for name in found.forecasts if name != NETWORK}
    best = min(others.values(), key=lambda score: score.loss)
    own = found.score(NETWORK).by_window
    return float(sum(mine < theirs for mine, theirs in zip(own, best.by_window, strict=True)))
