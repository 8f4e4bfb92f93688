"""The kinds of task there are: each one's settings and what prepares it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.char_task import CharTask
from training.config import AnyConfig, CharConfig, SeriesConfig, TrainingConfig
from training.series_task import SeriesTask
from training.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of task."""

    config: type[TrainingConfig]
    task: Callable[[Any], Task]
    summary: str
    """For ``cellar-train --help``."""


FAMILIES = {
    "char": Family(
        config=CharConfig, task=CharTask, summary="predict the next character of a text"
    ),
    "series": Family(
        config=SeriesConfig,
        task=SeriesTask,
        summary="predict the distribution of a series' next value",
    ),
}


def prepare(config: AnyConfig) -> Task:
    """Read a run's data and build its untrained network from the seed.

    Raises:
        DataError: the data cannot be used.
    """
    torch.manual_seed(config.seed)
    return FAMILIES[config.task].task(config)
