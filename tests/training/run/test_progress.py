"""Progress without a terminal: plain lines, few of them, and each of them whole."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from training.run.progress import watch
from training.run.steps.loop import Loop
from training.run.steps.plan import BudgetPlan, Plan, StepsPlan


@dataclass
class Walk:
    """As much of a loop as is watched; a step takes as long as it is told."""

    plan: Plan
    step_s: float
    step: int = 0
    spent_s: float = 0.0
    loss: float = 1.25
    task: Any = field(
        default_factory=lambda: SimpleNamespace(
            unit="characters", streams=SimpleNamespace(per_step=100)
        )
    )

    @property
    def total(self) -> int | None:
        return self.plan.total(self.step)

    @property
    def finished(self) -> bool:
        return self.plan.is_over(self.step)

    def run(self, until: float = math.inf) -> Iterator[None]:
        while not self.finished and self.step < until:
            self.step += 1
            self.spent_s += self.step_s
            self.plan.tell(self.step, self.spent_s)
            yield


def lines(walk: Walk, *, until: float = math.inf) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=20, force_terminal=False)
    for _ in watch(cast(Loop, walk), walk.run(until), console):
        pass
    return out.getvalue().splitlines()


def test_lines_come_every_ten_seconds_and_at_the_end() -> None:
    plan = StepsPlan(last=1000, warmup=0, validations=12)
    found = lines(Walk(plan=plan, step_s=0.05))
    assert len(found) == 5
    assert found[0] == "step 200 of 1,000: loss 1.2500, 2,000 characters/s, 40 s left"
    assert found[-1] == "step 1,000 of 1,000: loss 1.2500, 2,000 characters/s"


def test_a_budget_says_about() -> None:
    plan = BudgetPlan(budget_s=30.0, warmup=0, validations=12)
    found = lines(Walk(plan=plan, step_s=0.5))
    assert found[0] == "step 20 of about 60: loss 1.2500, 200 characters/s, 20 s left"
    assert found[-1].startswith("step 60 of 60: ")


def test_a_long_run_does_not_fill_a_log() -> None:
    plan = StepsPlan(last=36_000, warmup=0, validations=12)
    found = lines(Walk(plan=plan, step_s=1.0))
    assert 40 < len(found) < 100
    assert any(line.endswith(" min left") for line in found)


def test_a_run_that_is_stopped_says_where() -> None:
    plan = StepsPlan(last=1000, warmup=0, validations=12)
    found = lines(Walk(plan=plan, step_s=0.001), until=7)
    assert [line.partition(":")[0] for line in found] == ["step 7 of 1,000"]
    assert lines(Walk(plan=plan, step_s=1.0), until=0) == []


def test_a_terminal_has_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    walk = Walk(plan=StepsPlan(last=30, warmup=0, validations=12), step_s=0.5)
    for _ in watch(cast(Loop, walk), walk.run(), console):
        pass
    assert "30/30" in out.getvalue()
    assert "━" in out.getvalue()
