"""What is left of a comparison of cells: a table, a page with its figures, and JSON."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from training.compare.verdict import Comparison, Rival
from training.families.parsing import AnyConfig
from training.reports import page
from training.reports.curves import draw, points, seconds_at, thinned, whole_points
from training.reports.plots import (
    Picture,
    count_axis,
    figure_style,
    legend_above,
    log_axis,
    number_axis,
    panel,
)
from training.reports.sections import Section, grid
from training.run.ends.provenance import command_of
from training.settings import Cell

REMARK = (
    "Layers and units are the same for all, not the weights: an LSTM layer has four blocks of "
    "them, a GRU three, a plain one has one."
)


def table(comparison: Comparison) -> Table:
    """One row for each cell, the best first."""
    better = "more" if comparison.rises else "less"
    found = Table(
        title=f"{escape(comparison.source)}, {comparison.budget}; {better} is better, ± over seeds"
    )
    found.add_column("cell")
    for title in (
        comparison.score_name,
        "±",
        "weights",
        "steps",
        "steps/s",
        "seconds",
        "bytes per session",
    ):
        found.add_column(title, justify="right")
    for place, rival in enumerate(comparison.ranked):
        first = rival.trials[0]
        found.add_row(
            rival.cell,
            f"{rival.score:.4f}",
            f"{rival.spread:.4f}" if len(rival.trials) > 1 else "",
            f"{first.weights:,}",
            f"{sum(t.steps for t in rival.trials) / len(rival.trials):,.0f}",
            f"{rival.steps_per_s:.1f}",
            f"{sum(t.seconds for t in rival.trials) / len(rival.trials):.1f}",
            f"{first.session_bytes:,}",
            style=None if place else "bold",
        )
    return found


def write(
    comparison: Comparison, config: AnyConfig, folder: Path, *, cells: Sequence[Cell], seeds: int
) -> None:
    """Write ``compare.html`` and ``compare.json``; ``config`` is that of one of the first runs."""
    usual_cell = type(config).model_fields["cell"].default
    command = command_of(config.model_copy(update={"cell": usual_cell}))
    command = command.replace("cellar-train ", "cellar-train compare ", 1)
    trials = [trial for rival in comparison.ranked for trial in rival.trials]
    with figure_style():
        curves = _curves(comparison)
    content = page.render(
        "compare.html",
        title=f"{config.name}: {', '.join(cell.upper() for cell in cells)}",
        lead=f"{config.layers} x {config.hidden} on {comparison.source}, {comparison.budget}, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
        state=[],
        verdict=comparison.verdict(),
        scores=replace(page.grid_of(table(comparison)), explained=True),
        remark=REMARK,
        sections=[page.part_of(section) for section in curves],
        runs=grid(
            ("cell", "seed", comparison.score_name, "steps", "seconds", "run"),
            [
                (
                    trial.cell,
                    str(trial.seed),
                    f"{trial.score:.4f}",
                    f"{trial.steps:,}",
                    f"{trial.seconds:.1f}",
                    str(trial.run.relative_to(folder)),
                )
                for trial in trials
            ],
            numbers=(1, 2, 3, 4),
        ),
        command=f"{command} --cells {','.join(cells)} --seeds {seeds}",
        settings=page.settings_of(
            config, {k: v for k, v in config.public().items() if k not in ("cell", "seed")}
        ),
    )
    (folder / "compare.html").write_text(content, encoding="utf-8")
    (folder / "compare.json").write_text(
        json.dumps(_as_json(comparison, folder), indent=2) + "\n", encoding="utf-8"
    )


def _as_json(comparison: Comparison, folder: Path) -> dict[str, Any]:
    return {
        "data": comparison.source,
        "budget": comparison.budget,
        "score": comparison.score_name,
        "higher_is_better": comparison.rises,
        "winner": comparison.ranked[0].cell,
        "lead": comparison.lead,
        "noise": comparison.noise,
        "verdict": " ".join(comparison.verdict()),
        "cells": {rival.cell: _rival_json(rival, folder) for rival in comparison.ranked},
    }


def _rival_json(rival: Rival, folder: Path) -> dict[str, Any]:
    first = rival.trials[0]
    return {
        "score": rival.score,
        "spread": rival.spread if len(rival.trials) > 1 else None,
        "weights": first.weights,
        "steps_per_s": rival.steps_per_s,
        "session_bytes": first.session_bytes,
        "runs": [
            {
                "seed": trial.seed,
                "scores": trial.scores,
                "steps": trial.steps,
                "seconds": trial.seconds,
                "run": str(trial.run.relative_to(folder)),
            }
            for trial in rival.trials
        ],
    }


def _curves(comparison: Comparison) -> list[Section]:
    by_step, steps_axes = panel("training step", "loss")
    by_time, time_axes = panel("seconds of training", "loss")
    norms, gradients = panel("training step", "gradient norm")
    worst = []
    for number, rival in enumerate(comparison.rivals):
        for trial in rival.trials:
            look: dict[str, Any] = {"color": f"C{number}", "linewidth": 1.3, "alpha": 0.85}
            label = rival.cell if trial is rival.trials[0] else None
            steps, loss = points(trial.history, "validation")
            seconds = seconds_at(trial.history, steps)
            for axes, places in ((steps_axes, steps), (time_axes, seconds)):
                axes.plot(places, loss, marker="o", markersize=3, label=label, **look)
            draw(
                gradients,
                thinned(whole_points(trial.history, "gradient_norm"), np.max),
                label=label,
                **look,
            )
            worst += list(loss[1:])
    for axes in (steps_axes, time_axes):
        if worst:
            low, high = min(worst), max(worst)
            axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
        number_axis(axes.yaxis)
    log_axis(gradients)
    number_axis(time_axes.xaxis)
    for axes in (steps_axes, gradients):
        count_axis(axes.xaxis)
    for axes in (steps_axes, time_axes, gradients):
        legend_above(axes)
    return [
        Section(
            title="Loss on held-out data",
            text="Over steps, and over the time they took; the first validation, before any "
            "training, is left out of view.",
            pictures=(
                Picture(figure=by_step, caption=f"Validation by step: {comparison.loss_name}"),
                Picture(figure=by_time, caption=f"Validation by time: {comparison.loss_name}"),
            ),
        ),
        Section(
            title="Gradient norm",
            text="The largest of every ten steps, before clipping. A norm that dies away or jumps "
            "up tells of vanishing or exploding gradients.",
            pictures=(Picture(figure=norms, caption="Gradient norm by step"),),
        ),
    ]
