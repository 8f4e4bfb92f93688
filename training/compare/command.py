"""`cellar-train compare`: several cells on the same data, and which one does best."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from models.repository import Model, ModelRepository, load_model
from training.compare import report
from training.compare.verdict import Comparison, Trial, rivals_of
from training.errors import ConfigError, StoppedError, StorageError, TrainingError
from training.families.parsing import AnyConfig, parse_config
from training.families.registry import FAMILIES
from training.run.files.folder import RunFolder, numbered_folder
from training.run.files.storage import check_folder, storing
from training.run.fit import train
from training.run.report import say
from training.settings import Cell, TrainingConfig


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
        StorageError: a disk did not take what was to be written.
        StoppedError: a run was stopped before its end.
    """
    console = console or Console(quiet=True)
    if len(set(cells)) < 2 or len(set(cells)) < len(cells):
        raise ConfigError("cells: name two different ones or more, as in --cells rnn,lstm,gru")
    if seeds < 1:
        raise ConfigError(f"seeds: at least 1 (it is {seeds})")
    plans = [_config(settings, cell, seed) for seed in range(seeds) for cell in cells]
    _check_places(plans[0], publish=publish)
    folder = numbered_folder(plans[0].runs, "compare")
    trials = []
    for number, plan in enumerate(plans, start=1):
        console.rule(f"{number} of {len(plans)}: {plan.cell.value}, seed {plan.seed}")
        try:
            trials.append(_trial(plan, folder, console))
        except (StoppedError, StorageError) as error:
            finished = f"{folder} has the {len(trials)} of {len(plans)} runs that were finished"
            raise type(error)(f"{error}; {finished}") from error
        except TrainingError:
            with suppress(OSError):
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
    with storing("compare again", where=folder):
        report.write(comparison, fullest, folder, cells=cells, seeds=seeds)
    console.rule()
    console.print(report.table(comparison))
    for sentence in comparison.verdict():
        console.print(sentence, highlight=False)
    if publish:
        best = _best_trial(comparison)
        say(f"published: {_publish(best, plans[0])}", console)
        if best.shortfall is not None:
            say(f"it is worse than its simplest baseline: {best.shortfall}", console)
    say(f"report: {folder / 'compare.html'}", console)
    return comparison, folder


def _check_places(plan: AnyConfig, *, publish: bool) -> None:
    check_folder(plan.runs, what="runs", remedy="give another --runs")
    if publish:
        target = plan.models / plan.name
        check_folder(target, what="models", remedy="give another --models or --name")


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
            "publish": True,  # into the comparison's own folder, whatever it is worth
        }
    )
    run = train(config, console=console)
    if run.model is None:
        raise StoppedError("stopped")
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
        shortfall=run.task.shortfall(run.scores),
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


def _best_trial(comparison: Comparison) -> Trial:
    """The winning cell's best network, by validation: the test must not choose."""
    return min(comparison.ranked[0].trials, key=_best_validation)


def _publish(best: Trial, config: TrainingConfig) -> Path:
    """Put a model into the repository, under the name of the settings."""
    model = _load(best.model)
    manifest = model.manifest.model_copy(update={"name": config.name})
    remedy = f"publish it with: cellar-train export {best.run} --models {config.models}"
    with storing(remedy, where=config.models / config.name):
        return ModelRepository(config.models).publish(model.proto, manifest)
