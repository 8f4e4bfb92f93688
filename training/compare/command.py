"""`cellar-train compare`: several cells on the same data, and which one does best."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from models.repository import Model, ModelRepository, load_model
from training.compare import report
from training.compare.verdict import Comparison, Trial, rivals_of
from training.errors import ConfigError, DataError, StoppedError
from training.families.parsing import AnyConfig, parse_config
from training.families.registry import FAMILIES
from training.run.fit import train
from training.run.folder import RunFolder, numbered_folder
from training.settings import Cell, TrainingConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which cells, how many networks of each, and what becomes of the best."""
    parser.add_argument(
        "--cells", default=",".join(Cell), help="cells to compare (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="networks of each cell; 3 tell how much is luck"
    )
    parser.add_argument(
        "--publish", action="store_true", help="publish the best network of the winning cell"
    )


def compare(
    settings: Mapping[str, Any],
    *,
    cells: Sequence[Cell],
    seeds: int = 1,
    publish: bool = False,
    console: Console | None = None,
) -> tuple[Comparison, Path]:
    """Train each cell with each seed, and write table, page and figures into a new folder.

    ``settings`` are those of one run, without cell. The runs and their models lie in the folder,
    too; ``publish`` puts the winner's best one into the repository of the settings.

    Raises:
        ConfigError: a setting is wrong; nothing was trained.
        DataError: the data cannot be used.
        StoppedError: a run was stopped before its end.
    """
    console = console or Console(quiet=True)
    if len(set(cells)) < 2 or len(set(cells)) < len(cells):
        raise ConfigError("cells: name two different ones or more, as in --cells rnn,lstm,gru")
    if seeds < 1:
        raise ConfigError(f"seeds: at least 1 (it is {seeds})")
    plans = [_config(settings, cell, seed) for seed in range(seeds) for cell in cells]
    folder = numbered_folder(plans[0].runs, "compare")
    trials = []
    for number, plan in enumerate(plans, start=1):
        console.rule(f"{number} of {len(plans)}: {plan.cell.value}, seed {plan.seed}")
        try:
            trials.append(_trial(plan, folder, console))
        except DataError:
            folder.rmdir()  # a run writes nothing before it has found its data good
            raise
    family = FAMILIES[plans[0].task]
    comparison = Comparison(
        budget=_budget(plans[0]),
        score_name=family.headline,
        rises=family.headline_rises,
        rivals=rivals_of(trials),
    )
    # A plain cell's settings are the fullest: the others have no nonlinearity.
    fullest = next((plan for plan in plans if plan.cell is Cell.RNN), plans[0])
    report.write(comparison, fullest, folder, cells=cells, seeds=seeds)
    console.rule()
    console.print(report.table(comparison))
    for sentence in comparison.verdict():
        console.print(sentence, highlight=False)
    if publish:
        console.print(f"published: {_publish(comparison, plans[0])}")
    console.print(f"report: {folder / 'compare.html'}")
    return comparison, folder


def _config(settings: Mapping[str, Any], cell: Cell, seed: int) -> AnyConfig:
    own = dict(settings)
    if cell is not Cell.RNN:
        own.pop("nonlinearity", None)  # the others have none to choose
    config = parse_config({**own, "cell": cell})
    return config.model_copy(update={"seed": config.seed + seed})


def _trial(plan: AnyConfig, folder: Path, console: Console) -> Trial:
    config = plan.model_copy(
        update={
            "name": f"{plan.name[:50]}-{plan.cell.value}",
            "runs": folder / "runs",
            "models": folder / "models",
        }
    )
    run = train(config, console=console)
    if run.model is None:
        raise StoppedError(f"stopped: {folder} has the runs that were finished")
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    family = FAMILIES[plan.task]
    manifest = _load(run.model).manifest
    return Trial(
        cell=plan.cell.value,
        source=run.task.source,
        loss_name=run.task.loss_name,
        seed=plan.seed,
        score=run.scores[family.headline],
        scores=run.scores,
        weights=sum(parameter.numel() for parameter in run.task.network.parameters()),
        steps=run.steps,
        seconds=metrics["seconds"],
        session_bytes=manifest.session_bytes,
        history=RunFolder(run.folder).history(),
        run=run.folder,
        model=run.model,
    )


def _load(path: Path) -> Model:
    return load_model(path, name=path.parents[1].name, version=int(path.parent.name))


def _budget(config: TrainingConfig) -> str:
    if config.steps is not None:
        return f"{config.steps:,} steps each"
    if config.epochs is not None:
        return f"{config.epochs:g} passes over the data each"
    seconds = config.budget_s
    return "the same time each" if seconds is None else f"{seconds:g} s each"


def _best_validation(trial: Trial) -> float:
    return min(record["validation"] for record in trial.history if "validation" in record)


def _publish(comparison: Comparison, config: TrainingConfig) -> Path:
    """Put the winner's best model into the repository, under the name of the settings."""
    trials = comparison.ranked[0].trials
    # By validation: the test must not choose.
    best = min(trials, key=_best_validation)
    model = _load(best.model)
    manifest = model.manifest.model_copy(update={"name": config.name})
    return ModelRepository(config.models).publish(model.proto, manifest)
