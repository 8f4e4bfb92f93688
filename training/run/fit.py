"""Train a model from its settings: data, loop, scores, export, parity, report, publication."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from models.repository import ModelRepository
from training.errors import RunError, TrainingError
from training.families.parsing import AnyConfig
from training.families.registry import prepare
from training.run import report
from training.run.devices import console_of, fabric_of, threads_of
from training.run.folder import RunFolder, TrainedRun
from training.run.loop import LOG_EVERY, Loop
from training.run.product import finished_product
from training.run.progress import watch


def train(
    config: AnyConfig, *, stop_after: int | None = None, console: Console | None = None
) -> TrainedRun:
    """Train, score, export, check and publish one model.

    ``stop_after`` ends the call after that step with a checkpoint, as Ctrl-C does. Nothing is
    written before the data is read and found good.

    Raises:
        DataError: the data cannot be used.
        ParityError: the exported graph is not the network; nothing is published.
    """
    fabric = fabric_of(config)
    console = console_of(fabric, console)
    with threads_of(config):
        task = prepare(config)
        report.announce(task, console)
        loop = Loop(task, fabric)
        folder = fabric.broadcast(RunFolder.create(config) if fabric.is_global_zero else None)
        assert folder is not None, "the first process makes it for all"
        return _go_on(config, folder, loop, stop_after, console)


def resume(
    folder: Path, *, stop_after: int | None = None, console: Console | None = None
) -> TrainedRun:
    """Continue a stopped run from its checkpoint, to the same end.

    On a CPU with the same number of threads the final weights are the very ones that an
    uninterrupted run has.

    Raises:
        RunError: no run folder, no checkpoint, or the data has changed since.
    """
    run = RunFolder(folder)
    config = run.config()
    if (model := run.published()) is not None:
        raise RunError(f"{folder}: this run is finished; it published {model}")
    checkpoint = run.load_checkpoint()
    fabric = fabric_of(config)
    console = console_of(fabric, console)
    with threads_of(config):
        task = prepare(config)
        if checkpoint["sha256"] != task.sha256:
            raise RunError(f"{folder}: {task.source} has changed since the run began; train anew")
        loop = Loop(task, fabric)
        loop.restore(checkpoint)
        return _go_on(config, run, loop, stop_after, console)


def _go_on(
    config: AnyConfig,
    folder: RunFolder,
    loop: Loop,
    stop_after: int | None,
    console: Console,
) -> TrainedRun:
    checkpoints = _Checkpoints(folder, loop, every_s=config.checkpoint_s)
    with _stop_signal() as stopped:

        def until(loop: Loop) -> bool:
            return stopped() or (stop_after is not None and loop.step >= stop_after)

        for _ in watch(loop, loop.run(until=until), console):
            if loop.step % LOG_EVERY == 0 and not math.isfinite(loop.loss):
                raise TrainingError(
                    f"the loss is {loop.loss} at step {loop.step}: use a smaller --learning-rate "
                    f"than {config.learning_rate:g} or a smaller --clip than {config.clip:g}"
                )
            checkpoints.save_if_due()
    checkpoints.save()
    if loop.fabric.is_global_zero:
        folder.write_history(loop.history)
    run = TrainedRun(
        folder=folder.path,
        task=loop.task,
        steps=loop.step,
        total_steps=loop.total,
        finished=loop.finished,
        scores={},
        model=None,
    )
    if not loop.finished:
        report.stopped(run, console)
    elif loop.fabric.is_global_zero:  # what is left is the work of one
        run = _finish(config, folder, loop, console)
    loop.fabric.barrier()
    return run


class _Checkpoints:
    """Writes a run's checkpoints.

    One before its first step, so that it can always be resumed, one as soon as its length is
    known, and then one every so many seconds.
    """

    def __init__(self, folder: RunFolder, loop: Loop, *, every_s: float) -> None:
        self._folder = folder
        self._loop = loop
        self._every_s = every_s
        self._total = loop.total
        self.save()

    def save(self) -> None:
        """Write one now; every process takes part."""
        checkpoint = self._loop.checkpoint()
        if self._loop.fabric.is_global_zero:
            self._folder.save_checkpoint(checkpoint)
        self._saved_s = time.monotonic()

    def save_if_due(self) -> None:
        """Write one if it is time to."""
        if self._total != self._loop.total or self._loop.agreed(self._is_time):
            self._total = self._loop.total
            self.save()

    def _is_time(self) -> bool:
        return time.monotonic() - self._saved_s >= self._every_s


def _finish(config: AnyConfig, folder: RunFolder, loop: Loop, console: Console) -> TrainedRun:
    task = loop.task
    with console.status("scoring, exporting and checking"):
        product = finished_product(config, loop)
        samples = task.write_samples(folder.path)
        report.write_page(loop, product.manifest, folder.report)
        path = ModelRepository(config.models).publish(product.proto, product.manifest)
        folder.write_json(
            "metrics.json",
            {
                "scores": product.scores,
                "onnx_relative_gap": product.parity.relative,
                "steps": loop.step,
                "best_step": loop.best.step,
                "seconds": round(loop.spent_s, 3),
                "model": f"{config.name}/{path.parent.name}",
            },
        )
    run = TrainedRun(
        folder=folder.path,
        task=task,
        steps=loop.step,
        total_steps=loop.total,
        finished=True,
        scores=product.scores,
        model=path,
    )
    report.summarise(run, samples, config, console)
    return run


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish to stop after the step; the second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    wished = False

    def wish(_number: int, _frame: object) -> None:
        nonlocal wished
        wished = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, wish)
    try:
        yield lambda: wished
    finally:
        signal.signal(signal.SIGINT, before)
