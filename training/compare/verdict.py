"""What a comparison of cells found, and whether it is more than luck. Pure figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev, variance

Records = list[dict[str, float]]

# Student's t, two-sided 95 %, by degrees of freedom; beyond the last, the last is on the safe side.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trained network."""

    cell: str
    source: str
    loss_name: str
    seed: int
    score: float
    scores: dict[str, float]
    weights: int
    steps: int
    seconds: float
    session_bytes: int
    history: Records
    run: Path
    model: Path
    shortfall: str | None = None
    """Which simplest baseline it is worse than, in a sentence; None: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One cell with its trials, one for each seed."""

    cell: str
    trials: tuple[Trial, ...]

    @property
    def score(self) -> float:
        """Mean over the seeds."""
        return fmean(trial.score for trial in self.trials)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN of a single one."""
        return stdev(self._scores) if len(self.trials) > 1 else math.nan

    @property
    def steps_per_s(self) -> float:
        """Training speed, validation included."""
        return sum(t.steps for t in self.trials) / max(sum(t.seconds for t in self.trials), 1e-9)

    @property
    def _scores(self) -> list[float]:
        return [trial.score for trial in self.trials]

    def error_of_mean(self) -> float:
        """Square of the standard error of the mean score."""
        return variance(self._scores) / len(self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Cells on the same data, seeds and budget."""

    budget: str
    score_name: str
    rises: bool
    """Whether a higher score is better."""
    rivals: tuple[Rival, ...]

    @property
    def ranked(self) -> list[Rival]:
        """The best first."""
        return sorted(self.rivals, key=lambda rival: rival.score, reverse=self.rises)

    @property
    def source(self) -> str:
        """The data, for people."""
        return self.rivals[0].trials[0].source

    @property
    def loss_name(self) -> str:
        """What training minimises."""
        return self.rivals[0].trials[0].loss_name

    @property
    def lead(self) -> float:
        """By how much the best mean score is better than the second."""
        first, second = self.ranked[:2]
        return abs(first.score - second.score)

    @property
    def noise(self) -> float | None:
        """What the lead must exceed to be more than luck; None with one seed.

        Half the 95 % interval of Welch's t test, for the two best.
        """
        first, second = self.ranked[:2]
        if min(len(first.trials), len(second.trials)) < 2:
            return None
        errors = first.error_of_mean(), second.error_of_mean()
        if not sum(errors):
            return 0.0
        freedom = sum(errors) ** 2 / sum(
            error**2 / (len(rival.trials) - 1)
            for error, rival in zip(errors, (first, second), strict=True)
        )
        t = _T_95[min(max(int(freedom), 1), len(_T_95)) - 1]
        return t * math.sqrt(sum(errors))

    def verdict(self) -> list[str]:
        """Which cell wins, and whether the difference is more than the noise."""
        first, second = self.ranked[:2]
        of = f"{first.cell} {first.score:.4f}, {second.cell} {second.score:.4f}"
        if not self.lead:
            return [f"{first.cell} and {second.cell} are level in {self.score_name}: {of}."]
        best = f"{first.cell} does best in {self.score_name}: {of}, a lead of {self.lead:.4f}."
        seeds = len(first.trials)
        if self.noise is None:
            return [best, "One seed each: the lead may be luck. --seeds 3 tells how much varies."]
        if self.lead > self.noise:
            more = f"That is more than the noise: {self.noise:.4f} would do"
        else:
            more = f"That is NOT more than the noise: it would take {self.noise:.4f}"
        return [best, f"{more} (Welch's t test at 95 %, {seeds} seeds)."]


def rivals_of(trials: Sequence[Trial]) -> tuple[Rival, ...]:
    """Trials by cell, in the order in which the cells first come."""
    cells = dict.fromkeys(trial.cell for trial in trials)
    return tuple(
        Rival(cell=cell, trials=tuple(t for t in trials if t.cell == cell)) for cell in cells
    )
