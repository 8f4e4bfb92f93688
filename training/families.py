"""The kinds of task there are: each one's settings and what prepares it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.char.config import CharConfig
from training.char.task import CharTask
from training.classify.config import ClassifyConfig
from training.classify.task import ClassifyTask
from training.config import AnyConfig
from training.series.config import SeriesConfig
from training.series.task import SeriesTask
from training.settings import TrainingConfig
from training.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of task."""

    config: type[TrainingConfig]
    task: Callable[[Any], Task]
    summary: str
    """For ``cellar-train --help``."""
    headline: str
    """The score that `compare` ranks by."""
    headline_rises: bool = False
    """Whether more of it is better."""


FAMILIES = {
    "char": Family(
        config=CharConfig,
        task=CharTask,
        summary="predict the next character of a text",
        headline="cold256",
    ),
    "series": Family(
        config=SeriesConfig,
        task=SeriesTask,
        summary="predict the distribution of a series' next value",
        headline="nll",
    ),
    "classify": Family(
        config=ClassifyConfig,
        task=ClassifyTask,
        summary="say the label of a sequence",
        headline="accuracy",
        headline_rises=True,
    ),
}


def prepare(config: AnyConfig) -> Task:
    """Read a run's data and build its untrained network from the seed.

    Raises:
        DataError: the data cannot be used.
    """
    torch.manual_seed(config.seed)
    return FAMILIES[config.task].task(config)
