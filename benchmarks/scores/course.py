"""What a group of scores is given: data, seeds, and a way to train."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.bench import Findings
from benchmarks.errors import UnmeasuredError
from training.families.parsing import parse_config
from training.run.files.folder import TrainedRun
from training.run.fit import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One run of ``make scores``.

    Attributes:
        folder: for run folders and models.
        console: where progress goes.
        seeds: the most seeds of each score.
        budget_s: seconds of training on tiny Shakespeare.
    """

    folder: Path
    console: Console
    seeds: int
    budget_s: float

    def data(self, name: str) -> Path:
        """A file or folder of the data that is not the project's own.

        Raises:
            UnmeasuredError: it is not there.
        """
        home = Path(os.environ.get("CELLAR_DATA", Path(__file__).parents[3] / "shared" / "data"))
        path = home / name
        if not path.exists():
            raise UnmeasuredError(f"no {name}: set CELLAR_DATA to the folder that has it")
        return path

    @property
    def models(self) -> Path:
        """The repository that runs publish to."""
        return self.folder / "models"

    def train(self, **settings: Any) -> TrainedRun:
        """Train and publish one model."""
        folders = {"models": self.models, "runs": self.folder / "runs"}
        config = parse_config({"publish": True, **folders, **settings})
        return train(config, console=self.console)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Some scores that come from one data set.

    Attributes:
        name: what to call it.
        keys: of the figures it yields.
        measure: adds what it finds as it goes; raises UnmeasuredError where it can go no further.
    """

    name: str
    keys: Sequence[str]
    measure: Callable[[Course, Findings], None]


__all__ = ["Course", "Subject"]
