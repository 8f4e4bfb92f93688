"""What comes before the first step: folders, data, and the run whose weights are the start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from training.data.notes import hearing
from training.errors import ConfigError, RunError, TrainingError
from training.families.meaning import Meaning
from training.families.parsing import AnyConfig
from training.families.registry import prepare
from training.families.task import Task
from training.run import report
from training.run.files.folder import CHECKPOINT, Checkpoint, RunFolder
from training.run.files.storage import FreeBytes, check_folder, check_room, free_bytes
from training.settings import flag_of

COPIES = 8
"""A checkpoint has the weights, the best ones and the optimiser's two of each; the one before stays
until it is written."""
BESIDE = 2_000_000
"""Bytes of report, samples and metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The weights that a run starts from."""

    run: str
    """Where they come from, for people."""
    meaning: Meaning
    weights: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Folders that exist and take what a run writes: its own, or one above."""

    runs: Path
    models: Path

    def check_room(self, task: Task, *, free: FreeBytes = free_bytes) -> None:
        """See that the disks have room for a run of a network of that size.

        Raises:
            ConfigError: one has not.
        """
        size = sum(each.numel() * each.element_size() for each in task.network.parameters())
        needs = {self.runs: COPIES * size + BESIDE}
        needs[self.models] = needs.get(self.models, 0) + size
        check_room(needs, free=free)


def checked_places(config: AnyConfig, run: RunFolder | None = None) -> Places:
    """See that a run can write where it is to write, before it does anything else.

    Args:
        config: the settings.
        run: the folder of a run that is resumed; None: it is still to be made.

    Raises:
        ConfigError: it cannot.
    """
    models = check_folder(
        config.models / config.name, what="models", remedy="give another --models or --name"
    )
    if run is None:
        runs = check_folder(config.runs, what="runs", remedy="give another --runs")
    else:
        runs = check_folder(run.path, what=str(run.path), remedy="mend that, then resume again")
    return Places(runs=runs, models=models)


def start_of(config: AnyConfig) -> tuple[AnyConfig, Start | None]:
    """The run to start from, if there is one, and the settings with what its weights ask for.

    Raises:
        ConfigError: the settings ask for another network than that run's.
        RunError: it is no run folder, or has no weights.
    """
    if config.from_run is None:
        return config, None
    folder = run_at(config.from_run)
    theirs = folder.config()
    if theirs.task != config.task:
        raise ConfigError(f"from: {folder.path} is a run of {theirs.task}, not of {config.task}")
    taken: dict[str, Any] = {}
    for name in config.shape:
        own, other = getattr(config, name), getattr(theirs, name)
        if name in config.model_fields_set and own != other:
            raise ConfigError(
                f"{flag_of(name).removeprefix('--')}: it is {own}, but {folder.path} has {other}, "
                f"and its weights fit no other: leave {flag_of(name)} out"
            )
        taken[name] = other
    checkpoint = folder.load_checkpoint()
    if checkpoint["step"] == 0:
        raise RunError(f"{folder.path}: this run has not taken a step yet: resume it first")
    start = Start(
        run=str(config.from_run),
        meaning=checkpoint["meaning"],
        weights=checkpoint["best"]["weights"] or checkpoint["network"],
    )
    return config.model_copy(update=taken), start


def prepared(config: AnyConfig, console: Console, start: Start | None = None) -> Task:
    """Read a run's data and build its network, with the weights of ``start`` if there is one.

    Where that fails, what was noted of the data so far is told.

    Raises:
        DataError: the data cannot be used, or does not fit the network of ``start``.
    """
    with hearing() as heard:
        try:
            task = prepare(config)
            if start is not None:
                task.adopt(start.meaning, of=start.run)
                task.network.load_state_dict(start.weights)
        except TrainingError:
            report.tell_notes(heard, "what was noted before the error", console)
            raise
    return task


def prepared_again(
    run: RunFolder, config: AnyConfig, checkpoint: Checkpoint, console: Console
) -> Task:
    """Read the data of a run anew, and build the network as it was when it stopped.

    Raises:
        DataError: the data cannot be used.
        RunError: the data has changed since.
    """
    task = prepared(config, console)
    if checkpoint["sha256"] != task.sha256:
        raise RunError(
            f"{run.path}: {task.source} has changed since the run began; train anew, or start from "
            f"its weights: --from {run.path}"
        )
    task.adopt(checkpoint["meaning"], of=str(run.path))
    task.network.load_state_dict(checkpoint["network"])
    return task


def run_at(path: Path) -> RunFolder:
    """The folder of a run that is given by it or by its checkpoint."""
    return RunFolder(path.parent if path.name == CHECKPOINT else path)
