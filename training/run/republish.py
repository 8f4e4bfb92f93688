"""`cellar-train export`: publishes the best weights of a run again, finished or stopped."""

import argparse
import os
from pathlib import Path

import onnx
from lightning_fabric import Fabric
from rich.console import Console

from models.repository import ModelRepository
from training.errors import ConfigError, RunError
from training.families.registry import prepare
from training.run.folder import RunFolder
from training.run.loop import Best, Loop
from training.run.product import finished_product


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which run, and where to."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the run's folder, or the checkpoint in it"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to", type=Path, metavar="FILE.onnx", help="write this file")
    target.add_argument(
        "--models", type=Path, help="the repository to publish to (default: the run's own)"
    )


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
    folder = RunFolder(run.parent if run.is_file() else run)
    config = folder.config()
    checkpoint = folder.load_checkpoint()
    if checkpoint["step"] == 0:
        raise RunError(f"{folder.path}: this run has not taken a step yet: resume it first")
    with console.status("reading the run's data"):
        task = prepare(config)
    if checkpoint["sha256"] != task.sha256:
        raise RunError(f"{folder.path}: {task.source} has changed since the run began; train anew")
    task.network.load_state_dict(checkpoint["network"])
    loop = Loop(task, Fabric(accelerator="cpu", devices=1))
    loop.step, loop.spent_s = checkpoint["step"], checkpoint["spent_s"]
    loop.best = Best(**checkpoint["best"])
    with console.status("scoring, exporting and checking"):
        product = finished_product(config, loop)
    if to is None:
        repository = ModelRepository(models or config.models)
        path = repository.publish(product.proto, product.manifest)
    else:
        product.manifest.embed(product.proto)
        path = _write(product.proto, to)
    weights = f"step {loop.best.step}, the best of" if loop.best.weights else "the last of"
    console.print(task.score_table(product.scores))
    console.print(f"weights: {weights} {loop.step} steps")
    console.print(f"torch and ONNX differ by {product.parity.nats:.1e} nats")
    console.print(f"wrote {path}")
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
