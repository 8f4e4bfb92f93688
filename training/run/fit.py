"""Train a model from its settings: data, loop, scores, export, parity, report, publication."""

import math
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from training.errors import RunError, StoppedError, TrainingError
from training.families.parsing import AnyConfig
from training.run import report
from training.run.ends.finishing import finish
from training.run.ends.provenance import command_of
from training.run.files.checkpoints import Checkpoints
from training.run.files.folder import Outcome, RunFolder, TrainedRun
from training.run.files.storage import storing
from training.run.following import Following
from training.run.preparing import checked_places, prepared, prepared_again, run_at, start_of
from training.run.progress import watch
from training.run.signals import stop_wish
from training.run.steps.devices import console_of, fabric_of, threads_of
from training.run.steps.loop import LOG_EVERY, Clock, Loop
from training.run.steps.plan import plan_of
from training.settings import Further


def train(
    config: AnyConfig,
    *,
    stop_after: int | None = None,
    console: Console | None = None,
    clock: Clock = time.perf_counter,
) -> TrainedRun:
    """Train, score, export, check and publish one model.

    ``stop_after`` ends the call after that step with a checkpoint, as Ctrl-C does. Nothing is
    written before the data is read and found good. A model that is worse than its simplest
    baseline is kept in the run's folder, unless the settings say to publish it.

    Raises:
        ConfigError: a setting is wrong, or a folder cannot be written to.
        DataError: the data cannot be used.
        ParityError: the exported graph is not the network; nothing is published.
        StorageError: a disk did not take what was to be written; the message says how to go on.
        StoppedError: it was interrupted at once.
    """
    places = checked_places(config)
    config, start = start_of(config)
    fabric = fabric_of(config)
    console = console_of(fabric, console)
    with threads_of(config):
        task = prepared(config, console, start)
        places.check_room(task)
        report.announce(task, console)
        loop = Loop(task, fabric, clock=clock)
        folder = _begun(config, loop)
        return _go_on(config, folder, loop, stop_after, console)


def resume(
    folder: Path,
    *,
    further: Further | None = None,
    stop_after: int | None = None,
    console: Console | None = None,
    clock: Clock = time.perf_counter,
) -> TrainedRun:
    """Continue a stopped run from its checkpoint, to the same end; or any run ``further``.

    On a CPU with the same number of threads the final weights of a run of so many steps or epochs
    are the very ones that an uninterrupted run has. Further training plans anew: the learning rate
    rises to its peak once more, and the best weights of all are kept.

    Raises:
        RunError: no run folder, no checkpoint, nothing left to do, or the data has changed since.
        StorageError: a disk did not take what was to be written; the message says how to go on.
        StoppedError: it was interrupted at once.
    """
    run = run_at(folder)
    config = run.config()
    checkpoint = run.load_checkpoint()
    before = run.outcome()
    over = plan_of(checkpoint["plan"]).is_over(checkpoint["step"])
    if further is None and over and before is not None:
        raise RunError(_why_over(run, before))
    checked_places(config, run)
    fabric = fabric_of(config)
    console = console_of(fabric, console)
    with threads_of(config):
        task = prepared_again(run, config, checkpoint, console)
        loop = Loop(task, fabric, clock=clock)
        loop.restore(checkpoint)
        if further is not None:
            loop.go_further(
                str(further), budget_s=further.budget_s, steps=further.steps, epochs=further.epochs
            )
            Checkpoints(run, loop, every_s=config.checkpoint_s).save()
        return _go_on(config, run, loop, stop_after, console, before)


def _begun(config: AnyConfig, loop: Loop) -> RunFolder:
    """The folder of a new run with its first checkpoint, so that it can always be resumed."""
    checkpoint = loop.checkpoint()
    folder = None
    if loop.fabric.is_global_zero:
        with storing("start again"):
            folder = RunFolder.create(config, checkpoint)
    folder = loop.fabric.broadcast(folder)
    assert folder is not None, "the first process makes it for all"
    return folder


def _go_on(
    config: AnyConfig,
    folder: RunFolder,
    loop: Loop,
    stop_after: int | None,
    console: Console,
    before: Outcome | None = None,
) -> TrainedRun:
    remedy = f"go on with: cellar-train resume {folder.path}"
    following = Following(loop, partial(report.write_unfinished, loop, folder, command_of(config)))
    report.say(f"to be followed in a browser: {folder.report}", console)
    try:
        with following.until_its_end(remedy=remedy):
            _take_steps(config, folder, loop, following, stop_after, console)
            if loop.fabric.is_global_zero:
                with storing(remedy):
                    folder.write_history(loop.history)
            run = _stopped_run(folder, loop)
            if not loop.finished:
                following.stopped(remedy)
                report.stopped(run, console)
            elif loop.fabric.is_global_zero:  # what is left is the work of one
                following.scoring()
                run = finish(config, folder, loop, console, before=before)
            loop.fabric.barrier()
    except KeyboardInterrupt as error:
        raise StoppedError(f"interrupted; {remedy}") from error
    return run


def _stopped_run(folder: RunFolder, loop: Loop) -> TrainedRun:
    return TrainedRun(
        folder=folder.path,
        task=loop.task,
        steps=loop.step,
        total_steps=loop.total,
        finished=loop.finished,
        scores={},
        model=None,
    )


def _take_steps(
    config: AnyConfig,
    folder: RunFolder,
    loop: Loop,
    following: Following,
    stop_after: int | None,
    console: Console,
) -> None:
    checkpoints = Checkpoints(folder, loop, every_s=config.checkpoint_s)
    with stop_wish() as stopped:

        def until(loop: Loop) -> bool:
            return stopped() or (stop_after is not None and loop.step >= stop_after)

        for _ in watch(loop, loop.run(until=until), console):
            if loop.step % LOG_EVERY == 0 and not math.isfinite(loop.loss):
                raise TrainingError(
                    f"the loss is {loop.loss} at step {loop.step}: use a smaller --learning-rate "
                    f"than {config.learning_rate:g} or a smaller --clip than {config.clip:g}"
                )
            checkpoints.save_if_due()
            following.write_if_due()
        checkpoints.save()


def _why_over(run: RunFolder, outcome: Outcome) -> str:
    further = f"train it further with: cellar-train resume {run.path} --budget 10m"
    if outcome.model is not None:
        return f"{run.path}: this run is finished; it published {outcome.model}; {further}"
    return (
        f"{run.path}: this run is finished; its model was kept back; {further}; or publish it as "
        f"it is with: cellar-train export {run.path}"
    )
