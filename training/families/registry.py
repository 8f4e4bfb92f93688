"""The kinds of task there are: each one's settings and what prepares it.

What prepares a task is imported when it is wanted: torch takes seconds to import, and settings and
help need none of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.families.char.settings import CharConfig
from training.families.classify.settings import ClassifyConfig
from training.families.parsing import AnyConfig
from training.families.series.settings import SeriesConfig
from training.settings import TrainingConfig

if TYPE_CHECKING:
    from training.families.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of task."""

    config: type[TrainingConfig]
    task: "Callable[[AnyConfig], Task]"
    summary: str
    """For ``cellar-train --help``."""
    headline: str
    """The score that `compare` ranks by."""
    headline_rises: bool = False
    """Whether more of it is better."""


def _char(config: AnyConfig) -> "Task":
    from training.families.char.task import CharTask

    assert isinstance(config, CharConfig), "its settings chose the family"
    return CharTask(config)


def _series(config: AnyConfig) -> "Task":
    from training.families.series.task import SeriesTask

    assert isinstance(config, SeriesConfig), "its settings chose the family"
    return SeriesTask(config)


def _classify(config: AnyConfig) -> "Task":
    from training.families.classify.task import ClassifyTask

    assert isinstance(config, ClassifyConfig), "its settings chose the family"
    return ClassifyTask(config)


FAMILIES = {
    "char": Family(
        config=CharConfig,
        task=_char,
        summary="predict the next character of a text",
        headline="cold256",
    ),
    "series": Family(
        config=SeriesConfig,
        task=_series,
        summary="predict the distribution of a series' next value",
        headline="nll",
    ),
    "classify": Family(
        config=ClassifyConfig,
        task=_classify,
        summary="say the label of a sequence",
        headline="accuracy",
        headline_rises=True,
    ),
}


def prepare(config: AnyConfig) -> "Task":
    """Read a run's data and build its untrained network from the seed.

    Raises:
        DataError: the data cannot be used.
    """
    import torch

    torch.manual_seed(config.seed)
    return FAMILIES[config.task].task(config)
