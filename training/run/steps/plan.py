"""How long a run trains, and what share of the peak learning rate each of its steps has.

A plan of steps follows from the number of the step alone, so that a resumed run takes the very
steps an uninterrupted one would have. A plan of time follows the time that was spent: it holds its
budget whatever else the machine does, and the learning rate has come down when the time is up.
Knows nothing of networks, and no clock: what was spent is told to it.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from training.errors import RunError

FINAL_RATE = 0.01
"""The learning rate ends at this share of its peak."""
WARM_UP_SHARE = 0.25
"""Warm-up takes no more of a plan than this."""
VALIDATION_SHARE = 1 / 3
"""Validations take no more of a budget than this: where one takes long, there are fewer."""
LATEST = 2.0
"""A last validation that would end after so many budgets is left out."""


def decayed(progress: float) -> float:
    """Share of the peak after the warm-up: from 1 down to `FINAL_RATE`, along a cosine."""
    progress = min(max(progress, 0.0), 1.0)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


class Plan(ABC):
    """The way from one step of a run to its last."""

    @property
    def limit_s(self) -> float | None:
        """The seconds that there are; None: as many as it takes."""
        return None

    @abstractmethod
    def share(self, step: int) -> float:
        """Share of the peak learning rate that step ``step`` has, counted from 0."""

    @abstractmethod
    def is_over(self, step: int) -> bool:
        """Whether a run that has taken ``step`` steps has taken its last one."""

    @abstractmethod
    def validates(self, step: int) -> bool:
        """Whether to validate after so many steps."""

    @abstractmethod
    def total(self, step: int) -> int | None:
        """The steps of the whole run, as it looks after ``step`` of them; None: not known yet."""

    @abstractmethod
    def tell(self, step: int, spent_s: float) -> None:
        """Hear that the run has taken ``step`` steps in so many seconds."""

    @abstractmethod
    def validated(self, seconds: float) -> None:
        """Hear what a validation took."""

    def affords_validation(self) -> bool:
        """Whether there is time for one more validation."""
        return True

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `plan_of` makes the same plan of: plain numbers and words."""


@dataclass(slots=True, kw_only=True)
class StepsPlan(Plan):
    """So many steps: linear warm-up, then cosine decay down to the last of them."""

    last: int
    """The number of steps that the run has taken when it is over."""
    warmup: int
    validations: int
    first: int = 0
    """The steps that were taken before the plan began."""

    def share(self, step: int) -> float:
        """By the number of the step."""
        count, total = step - self.first, self.last - self.first
        warmup = min(self.warmup, int(total * WARM_UP_SHARE))
        if count < warmup:
            return min(1.0, (count + 1) / (warmup + 1))
        return decayed((count - warmup) / max(1, total - warmup))

    def is_over(self, step: int) -> bool:
        """After the last step."""
        return step >= self.last

    def validates(self, step: int) -> bool:
        """At even distances, and after the last step."""
        every = max(1, math.ceil((self.last - self.first) / self.validations))
        return (step - self.first) % every == 0 or self.is_over(step)

    def total(self, step: int) -> int:  # noqa: ARG002
        """Known from the start."""
        return self.last

    def tell(self, step: int, spent_s: float) -> None:
        """Time does not matter."""

    def validated(self, seconds: float) -> None:
        """Nor here."""

    def state(self) -> dict[str, Any]:
        """Its numbers."""
        return {"kind": "steps", **asdict(self)}


@dataclass(slots=True, kw_only=True)
class BudgetPlan(Plan):
    """So much time, validations included: what is left of it decides anew after every step.

    Ends when there is just time for a last validation, or after ``most_steps``. Takes one step at
    least.
    """

    budget_s: float
    warmup: int
    """Steps of linear warm-up, at most."""
    validations: int
    most_steps: float = math.inf
    first: int = 0
    """The steps that were taken before the plan began."""
    began_s: float = 0.0
    """The time that was spent before the plan began."""

    spent_s: float = 0.0
    progress: float = 0.0
    """How much of the plan is done: of its time, or of its steps where these run out first."""
    warm_at: float | None = None
    """The progress at which the warm-up ended; None while it goes on."""
    validated_at: float = 0.0
    """The progress at the last validation."""
    validation_s: float = 0.0
    """What the last validation took."""

    def share(self, step: int) -> float:
        """By the number of the step in the warm-up, then by the time that is spent."""
        if self.warm_at is None:
            by_step = (step - self.first + 1) / (self.warmup + 1)
            return min(1.0, max(by_step, self.progress / WARM_UP_SHARE))
        return decayed((self.progress - self.warm_at) / max(1e-9, 1 - self.warm_at))

    def is_over(self, step: int) -> bool:
        """When the time or the steps are used up."""
        count = step - self.first
        return count >= self.most_steps or (count > 0 and self.spent_s >= self._ends_s)

    def validates(self, step: int) -> bool:
        """At even distances in progress, and after the last step."""
        if self.is_over(step):
            return True
        count = self._affordable
        return math.floor(self.progress * count) > math.floor(self.validated_at * count)

    def total(self, step: int) -> int | None:
        """What the steps so far make likely."""
        count = step - self.first
        if not count or not self.progress:
            return None
        return step if self.is_over(step) else self.first + max(count, round(count / self.progress))

    def tell(self, step: int, spent_s: float) -> None:
        """Look at the plan anew."""
        count = step - self.first
        self.spent_s = spent_s - self.began_s
        by_time = self.spent_s / self._ends_s if self._ends_s > 0 else 1.0
        self.progress = min(1.0, max(self.progress, by_time, count / self.most_steps))
        if self.warm_at is None and (count >= self.warmup or self.progress >= WARM_UP_SHARE):
            self.warm_at = self.progress

    def validated(self, seconds: float) -> None:
        """Keep that much for the last one."""
        self.validation_s = seconds
        self.validated_at = self.progress

    def affords_validation(self) -> bool:
        """Whether it would end within twice the budget."""
        return self.spent_s + self.validation_s <= LATEST * self.budget_s

    def state(self) -> dict[str, Any]:
        """Its numbers."""
        return {"kind": "budget", **asdict(self)}

    @property
    def limit_s(self) -> float:
        """The budget."""
        return self.budget_s

    @property
    def _ends_s(self) -> float:
        """When to stop: a last validation fits behind it."""
        return self.budget_s - self.validation_s

    @property
    def _affordable(self) -> int:
        """Validations that the budget has room for."""
        room_s = VALIDATION_SHARE * self.budget_s
        if self.validations * self.validation_s <= room_s:
            return self.validations
        return max(1, int(room_s / self.validation_s))


def plan_of(state: dict[str, Any]) -> Plan:
    """The plan whose `Plan.state` this is.

    Raises:
        RunError: it is no plan's.
    """
    kinds: dict[str, type[StepsPlan | BudgetPlan]] = {"steps": StepsPlan, "budget": BudgetPlan}
    numbers = dict(state)
    try:
        return kinds[numbers.pop("kind")](**numbers)
    except (KeyError, TypeError) as error:
        raise RunError("its plan was made by another version of Cellar; train anew") from error
