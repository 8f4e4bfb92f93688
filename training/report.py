"""What a person gets to see of a run: a few tables on the terminal and one picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from training.config import TrainingConfig
from training.loop import Loop
from training.runs import TrainedRun
from training.series_task import SeriesTask
from training.tasks import Task

TAIL_ROWS = 150
"""Steps shown of a series' held-out tail."""


def announce(task: Task, console: Console) -> None:
    """Say what will be trained, and what the data reader did."""
    weights = sum(parameter.numel() for parameter in task.network.parameters())
    config = task.config
    console.print(
        f"[bold]{config.name}[/bold]: {config.layers} x {config.hidden} {config.cell.value}, "
        f"{weights:,} weights, on {task.streams.length + 1:,} {task.unit} of {task.source}"
    )
    if task.notes:
        table = Table(title=f"what was done to {task.source}")
        table.add_column("what")
        table.add_column("rows", justify="right")
        table.add_column("detail")
        for note in task.notes:
            table.add_row(note.what, f"{note.rows:,}", note.detail)
        console.print(table)


def stopped(run: TrainedRun, console: Console) -> None:
    """Say how to go on with a run that was stopped."""
    console.print(f"stopped after step {run.steps}; go on with: cellar-train resume {run.folder}")


def summarise(run: TrainedRun, samples: Path, config: TrainingConfig, console: Console) -> None:
    """Scores, where everything is, and what to do next."""
    console.print(run.task.score_table(run.scores))
    table = Table(show_header=False)
    table.add_row("model", str(run.model))
    table.add_row("differs from ONNX by", f"{run.scores['onnx_gap']:.1e} nats")
    table.add_row("run", str(run.folder))
    table.add_row("picture", str(run.folder / "report.png"))
    table.add_row("sample", str(samples))
    table.add_row("next", f"cellar-serve --models {config.models}")
    console.print(table)


def draw(loop: Loop, path: Path) -> None:
    """Draw loss, learning rate and gradient norm, and a series' predictions beside the truth."""
    task = loop.task
    with_series = isinstance(task, SeriesTask)
    figure = Figure(figsize=(9, 11 if with_series else 8), layout="constrained")
    rows = 4 if with_series else 3
    axes: list[Axes] = list(
        figure.subplots(rows, 1, gridspec_kw={"height_ratios": [3, 1, 1, 3][:rows]})
    )
    title = f"{loop.config.name}: {loop.config.layers} x {loop.config.hidden} "
    figure.suptitle(f"{title}{loop.config.cell.value} on {task.source}")
    _line(axes[0], loop, "loss", "training")
    _line(axes[0], loop, "validation", "validation", marker="o")
    axes[0].axvline(loop.best.step, color="grey", linewidth=0.8, linestyle=":", label="kept")
    axes[0].set_ylabel(task.loss_name)
    axes[0].legend()
    _line(axes[1], loop, "learning_rate", "learning rate")
    axes[1].set_ylabel("learning rate")
    _line(axes[2], loop, "gradient_norm", "largest gradient norm")
    axes[2].axhline(loop.config.clip, color="grey", linewidth=0.8, linestyle="--")
    axes[2].set_yscale("log")
    axes[2].set_ylabel("gradient norm\n(dashed: clip)")
    axes[2].set_xlabel("step")
    if isinstance(task, SeriesTask):
        _draw_tail(axes[3], task)
    figure.savefig(path, dpi=110)


def _line(axes: Axes, loop: Loop, key: str, label: str, *, marker: str | None = None) -> None:
    points = [(record["step"], record[key]) for record in loop.history if key in record]
    axes.plot(*np.array(points).reshape(-1, 2).T, label=label, marker=marker, linewidth=1.2)


def _draw_tail(axes: Axes, task: SeriesTask) -> None:
    forecast = task.forecast_test()[-TAIL_ROWS:]  # (rows, 9)
    truth = task.data.series.values[-len(forecast) :]
    place = np.arange(len(truth))
    axes.fill_between(
        place, forecast[:, 0], forecast[:, -1], alpha=0.3, label="80 % interval, one step ahead"
    )
    axes.plot(place, forecast[:, 4], linewidth=0.9, label="median, one step ahead")
    axes.plot(place, truth, color="black", linewidth=0.9, label="truth")
    labels = task.data.series.labels[-len(truth) :]
    ticks = np.linspace(0, len(truth) - 1, 5).astype(int)
    axes.set_xticks(ticks, [labels[tick] for tick in ticks])
    axes.set_ylabel(
        f"{task.data.series.name}{' (synthetic)' if task.data.series.synthetic else ''}"
    )
    axes.legend()
