"""The distribution of a series' next value."""

import csv
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from training import evaluate
from training.config import SeriesConfig
from training.evaluate import LEVELS, Model, SeriesScores
from training.heads import JohnsonSU, bounded, fit_constant
from training.networks import SeriesNetwork, State
from training.sections import Note
from training.series_data import Floats, ScaledSeries
from training.streams import Streams
from training.tasks import Task

WARM_UP = 512
"""Steps read before a scored stretch, so that its state is warm."""
PATHS = 500
PARITY_STEPS = 512
BASELINES = {
    "fitted_walk": "random walk, fitted Johnson SU",
    "gaussian_walk": "random walk, Gaussian, EWMA .94",
    "last_value": "last value",
}


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

    def __init__(self, config: SeriesConfig) -> None:
        """Read the series and build the network.

        Raises:
            DataError: the series cannot be used.
        """
        self.config = config
        self.data = ScaledSeries(config)
        self.source, self.sha256 = self.data.series.source, self.data.series.sha256
        self.network = SeriesNetwork(
            feature=self.data.series.name,
            transform=self.data.transform,
            change_scale=self.data.change_scale,
            decay=config.decay,
            cell=config.cell,
            layers=config.layers,
            hidden=config.hidden,
            dropout=config.dropout,
        )
        self.constant = fit_constant(self.data.targets[: self.data.validation])
        self.network.head.start_from(self.constant)
        self.streams = Streams(
            length=self.data.validation,
            batch=config.batch,
            window=config.window,
            seed=config.seed,
        )
        self._features, self._targets = self.data.features, self.data.targets

    def to(self, device: torch.device) -> None:
        """Move the scaled series to a device."""
        self._features = self._features.to(device)
        self._targets = self._targets.to(device)

    def training_state(self, batch: int) -> State:
        """The cells' initial state: the series is scaled beforehand."""
        return self.network.initial_state(batch)[: len(self.network.cells.state_shapes)]

    def loss(self, model: nn.Module, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Negative log density of the next change, in units of the spread."""
        index = index.to(self._targets.device)
        shape, state = cast(Model, model.shape)(self._features[index], state)
        return -JohnsonSU.unpack(shape).log_density(self._targets[index]).mean(), state

    @torch.no_grad()
    def validation_loss(self, model: nn.Module) -> float:
        """The same loss on the validation stretch, read with a warm state."""
        start, end = self.data.validation, self.data.test
        distribution = self._distribution(model, start, end)
        return -float(distribution.log_density(self._targets[start:end]).mean())

    def scores(self) -> dict[str, float]:
        """Network and baselines on the test stretch; a baseline's scores carry its name."""
        found: dict[str, float] = {}
        for name, score in self.compare().items():
            prefix = "" if name == "network" else f"{name}."
            found[f"{prefix}mean_wQuantileLoss"] = score.loss
            if score.nll is not None and score.coverage is not None:
                found[f"{prefix}nll"] = score.nll
                found[f"{prefix}coverage80"] = score.coverage
        return found

    @torch.no_grad()
    def compare(self) -> dict[str, SeriesScores]:
        """One-step-ahead scores on the test stretch: the network and what needs none."""
        data = self.data
        volatility = evaluate.running_volatility(
            data.changes.numpy(), decay=0.94, start=data.change_scale**2
        )[data.test - 1 : -1]
        constant = JohnsonSU.unpack(bounded(torch.tensor(self.constant)).expand(len(data.truth), 4))
        return {
            "network": self._score(self._distribution(self.network, data.test, None)),
            "fitted_walk": self._score(constant),
            "gaussian_walk": evaluate.gaussian_walk(
                data.anchor,
                data.truth,
                data.changes[data.test :].numpy(),
                volatility,
                logarithmic=data.logarithmic,
            ),
            "last_value": evaluate.last_value(data.anchor, data.truth),
        }

    @torch.no_grad()
    def forecast_test(self) -> Floats:
        """Quantiles at `LEVELS` of each next value on the test stretch, ``(n, 9)``."""
        distribution = self._distribution(self.network, self.data.test, None)
        return self.data.quantiles(distribution, LEVELS)

    def score_table(self, scores: dict[str, float]) -> Table:
        """The network beside the baselines, and whether it was worth training."""
        series = self.data.series
        table = Table(title=f"next {series.name} on the held-out tail of {series.source}")
        for column in ("forecast", "mean_wQuantileLoss", "nll", "80 % interval"):
            table.add_column(column, justify="left" if column == "forecast" else "right")
        for name, title in {"": "this network", **BASELINES}.items():
            prefix = f"{name}." if name else ""
            cells = [
                f"{scores[prefix + key]:{style}}" if prefix + key in scores else "–"
                for key, style in (
                    ("mean_wQuantileLoss", ".6f"),
                    ("nll", ".4f"),
                    ("coverage80", ".1%"),
                )
            ]
            table.add_row(title, *cells)
        table.caption = verdict(scores)
        return table

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the reader did to the series."""
        return self.data.series.notes

    def write_samples(self, folder: Path) -> Path:
        """Write a forecast of the steps after the series' end: quantiles of sampled paths."""
        path = folder / "forecast.csv"
        quantiles = np.quantile(self.sample_paths(), [0.1, 0.5, 0.9], axis=0).T
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "q10", "q50", "q90"])
            for step, row in enumerate(quantiles, start=1):
                writer.writerow([step, *(f"{number:.6g}" for number in row)])
        return path

    @torch.no_grad()
    def sample_paths(self) -> Floats:
        """Paths drawn from the network from the series' end on, ``(paths, horizon)``."""
        network = self.network
        device = next(network.parameters()).device
        draws = torch.Generator().manual_seed(self.config.seed)
        tail = self.data.values[:, -4 * WARM_UP :].to(device)
        y, state = network(tail, network.initial_state(1))
        state = tuple(part.expand(PATHS, -1).contiguous() for part in state)
        y = y[:, -1:].expand(PATHS, 1, 6)
        path = []
        for _ in range(self.config.horizon):
            level = torch.rand(PATHS, 1, generator=draws).clamp(1e-6, 1 - 1e-6).to(device)
            anchor, spread = y[..., 4], y[..., 5]  # (paths, 1)
            change = JohnsonSU.unpack(y).quantile(level) * spread
            value = anchor * torch.exp(change) if self.data.logarithmic else anchor + change
            path.append(value)
            y, state = network(value.unsqueeze(-1), state)
        return torch.cat(path, dim=1).double().cpu().numpy()

    def held_out(self) -> Tensor:
        """The tail of the series."""
        return self.data.values[:, -(PARITY_STEPS + 1) :]

    def nats(self, prediction: Tensor, inputs: Tensor) -> float:
        """Mean negative log density of the next change, in units of the spread."""
        x = inputs[:, :, 0].double()
        change = self.network.scaling.change(x[:, :-1], x[:, 1:])
        prediction = prediction.double()
        unit = change / prediction[..., 5]
        return -float(JohnsonSU.unpack(prediction).log_density(unit).mean())

    def _distribution(self, model: nn.Module, start: int, end: int | None) -> JohnsonSU:
        """Distributions for a stretch of pairs, read with a warm state."""
        warm = max(0, start - WARM_UP)
        features = self._features[warm:end].unsqueeze(0)  # (1, warm-up + n, 2)
        shape, _ = cast(Model, model.shape)(features, self.training_state(1))
        return JohnsonSU.unpack(shape[0, start - warm :])

    def _score(self, distribution: JohnsonSU) -> SeriesScores:
        """Score distributions on the test stretch; the density is that of the change itself."""
        data = self.data
        unit = distribution.log_density(self._targets[data.test :]).double().cpu()
        nll = -float((unit - torch.log(data.spread[data.test :])).mean())
        forecast = data.quantiles(distribution, LEVELS)
        return evaluate.score_quantiles(data.truth, forecast, nll=nll)


def verdict(scores: dict[str, float]) -> str:
    """Say plainly whether the network was worth training."""
    key = "mean_wQuantileLoss"
    if scores[key] == scores[f"fitted_walk.{key}"]:
        return (
            "Training found nothing that validates better than the fitted random walk: "
            "this model IS that walk."
        )
    missed = [title for name, title in BASELINES.items() if scores[key] >= scores[f"{name}.{key}"]]
    if not missed:
        return "By quantile loss the network beats all three."
    return f"By quantile loss the network does NOT beat: {'; '.join(missed)}."
