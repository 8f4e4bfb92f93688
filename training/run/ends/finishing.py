"""The end of a run: its best weights are scored, exported, checked, and published or kept back."""

from pathlib import Path

from rich.console import Console

from models.repository import ModelRepository
from training.families.parsing import AnyConfig
from training.run import report
from training.run.ends.product import Product, finished_product
from training.run.files.folder import Outcome, RunFolder, TrainedRun
from training.run.files.storage import storing
from training.run.steps.loop import Loop

SCORING_SHARE = 0.5
"""Scores take about so much of a budget at most, where they can be had of a part of the data."""


def finish(
    config: AnyConfig,
    folder: RunFolder,
    loop: Loop,
    console: Console,
    *,
    before: Outcome | None = None,
) -> TrainedRun:
    """Score, export, check, report and publish the best weights of a loop.

    A model that is worse than its simplest baseline stays in the folder, unless the settings say
    to publish it. ``before`` is what the run had ended with when it was trained further: the same
    weights are not published twice.

    Raises:
        ParityError: the exported graph is not the network; nothing is published.
        StorageError: a disk does not take it; the message says how to go on.
    """
    task, remedy = loop.task, f"go on with: cellar-train resume {folder.path}"
    if loop.plan.limit_s is not None:  # a short budget is not followed by a long scoring
        task.scoring_s = SCORING_SHARE * loop.plan.limit_s
    with console.status("scoring, exporting and checking"):
        product = finished_product(config, loop)
        with storing(remedy):
            samples = task.write_samples(folder.path)
            report.write_page(loop, product.manifest, folder)
        shortfall = task.shortfall(product.scores)
        same = before is not None and before.best_step == loop.best.step
        model = kept = None
        if before is not None and before.model is not None and same:
            model = config.models / before.model / "model.onnx"
        elif shortfall is not None and not config.publish:
            with storing(remedy):
                kept = folder.write_model(product.embedded())
        else:
            model = _published(config, product, remedy)
            with storing(remedy):
                folder.drop_model()
        metrics = {
            "scores": product.scores,
            "onnx_relative_gap": product.parity.relative,
            "steps": loop.step,
            "best_step": loop.best.step,
            "seconds": round(loop.spent_s, 3),
            "model": None if model is None else f"{config.name}/{model.parent.name}",
        }
        if kept is not None:
            metrics["kept"] = kept.name
        with storing(_remedy_after(model, remedy)):
            folder.write_json("metrics.json", metrics)
    run = TrainedRun(
        folder=folder.path,
        task=task,
        steps=loop.step,
        total_steps=loop.total,
        finished=True,
        scores=product.scores,
        model=model,
        kept=kept,
    )
    report.summarise(run, samples, config, console)
    if kept is not None:
        report.kept_back(run, shortfall or "", console)
    elif same and model is not None:
        report.no_better(run, loop.best.step, console)
    return run


def _published(config: AnyConfig, product: Product, remedy: str) -> Path:
    with storing(remedy, where=config.models / config.name):
        return ModelRepository(config.models).publish(product.proto, product.manifest)


def _remedy_after(model: Path | None, remedy: str) -> str:
    if model is None:
        return remedy
    return (
        f"nothing is left to do: {model} is published, and only the run's metrics.json is missing"
    )
