"""The kinds of task there are: each one's settings and what prepares it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.families.char.settings import CharConfig
from training.families.char.task import CharTask
from training.families.classify.settings import ClassifyConfig
from training.families.classify.task import ClassifyTask
from training.families.parsing import AnyConfig
from training.families.series.settings import SeriesConfig
from training.families.series.task import SeriesTask
from training.families.task import Task
from training.settings import TrainingConfig


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
