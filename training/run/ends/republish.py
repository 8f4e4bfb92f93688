"""`cellar-train export`: publishes the best weights of a run again, finished or stopped."""

import os
from pathlib import Path

import onnx
from lightning_fabric import Fabric
from rich.console import Console

from models.repository import ModelRepository
from training.errors import ConfigError, RunError
from training.run import report
from training.run.ends.product import finished_product
from training.run.files.storage import check_folder, storing
from training.run.preparing import prepared_again, run_at
from training.run.steps.loop import Best, Loop


def export_run(
    run: Path,
    *,
    to: Path | None = None,
    models: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Export the best weights that a run has found so far, scored and checked as at its end.

    Needs the data of the run, to score and check on. Returns the file that was written.

    Raises:
        RunError: no run folder, no checkpoint, nothing learnt yet, or the data has changed since.
        DataError: the data cannot be read.
        ParityError: the exported graph is not the network; nothing is written.
    """
    console = console or Console(quiet=True)
    if to is not None and (to.suffix != ".onnx" or not to.parent.is_dir()):
        raise ConfigError(f"--to {to}: give a file that ends in .onnx, in a folder that exists")
    folder = run_at(run)
    config = folder.config()
    checkpoint = folder.load_checkpoint()
    if checkpoint["step"] == 0:
        raise RunError(f"{folder.path}: this run has not taken a step yet: resume it first")
    if to is None:
        target = models or config.models
        check_folder(target / config.name, what="models", remedy="give another --models")
    task = prepared_again(folder, config, checkpoint, console)
    loop = Loop(task, Fabric(accelerator="cpu", devices=1))
    loop.step, loop.spent_s = checkpoint["step"], checkpoint["spent_s"]
    loop.best, loop.further = Best(**checkpoint["best"]), checkpoint["further"]
    with console.status("scoring, exporting and checking"):
        product = finished_product(config, loop)
    if to is None:
        with storing("export again", where=target / config.name):
            path = ModelRepository(target).publish(product.proto, product.manifest)
    else:
        with storing("export again", where=to):
            path = _write(product.embedded(), to)
    weights = f"step {loop.best.step}, the best of" if loop.best.weights else "the last of"
    console.print(task.score_table(product.scores))
    console.print(f"weights: {weights} {loop.step} steps")
    console.print(f"torch and ONNX differ by {product.parity.nats:.1e} nats")
    if (shortfall := task.shortfall(product.scores)) is not None:
        report.say(f"worse than its simplest baseline: {shortfall}", console)
    report.say(f"wrote {path}", console)
    return path


def _write(proto: onnx.ModelProto, target: Path) -> Path:
    """Write a file, whole or not at all."""
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        onnx.save_model(proto, str(staging))
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)
    return target
