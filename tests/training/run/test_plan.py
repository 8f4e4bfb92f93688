"""How long a run trains: steps follow from their number, a budget is kept whatever happens."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import RunError
from training.run.steps.plan import FINAL_RATE, LATEST, BudgetPlan, Plan, StepsPlan, plan_of

WARMUP = 40


@dataclass
class Course:
    """A run without a network: its clock stands still but for what steps and validations take."""

    plan: Plan
    validation_s: float = 0.0
    now_s: float = 0.0
    step: int = 0
    shares: list[float] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)

    def begin(self) -> "Course":
        self.validate()
        self.plan.tell(0, self.now_s)
        return self

    def take(self, step_s: float) -> None:
        self.shares.append(self.plan.share(self.step))
        self.step += 1
        self.now_s += step_s
        self.plan.tell(self.step, self.now_s)
        if self.plan.validates(self.step) and self.plan.affords_validation():
            self.validate()
            self.plan.tell(self.step, self.now_s)

    def validate(self) -> None:
        self.now_s += self.validation_s
        self.validated.append(self.step)
        self.plan.validated(self.validation_s)

    @property
    def is_over(self) -> bool:
        return self.plan.is_over(self.step)


def budget(seconds: float, **settings: Any) -> BudgetPlan:
    return BudgetPlan(budget_s=seconds, **{"warmup": WARMUP, "validations": 12, **settings})


def test_steps_have_the_shares_they_always_had() -> None:
    plan = StepsPlan(last=400, warmup=WARMUP, validations=12)
    assert plan.share(0) == 1 / 41
    assert plan.share(39) == 40 / 41
    assert plan.share(40) == 1.0
    assert plan.share(220) == pytest.approx((1 + FINAL_RATE) / 2)
    assert plan.share(400) == pytest.approx(FINAL_RATE)
    assert [step for step in range(1, 401) if plan.validates(step)] == [*range(34, 400, 34), 400]
    short = StepsPlan(last=8, warmup=WARMUP, validations=12)
    assert [short.share(step) for step in range(3)] == [1 / 3, 2 / 3, 1.0]


def test_a_steady_budget_is_the_plan_of_as_many_steps() -> None:
    course = Course(plan=budget(10.0)).begin()
    while not course.is_over:
        course.take(0.01)
    assert course.step == pytest.approx(1000, abs=2)
    same = StepsPlan(last=course.step, warmup=WARMUP, validations=12)
    for step, share in enumerate(course.shares):
        assert share == pytest.approx(same.share(step), abs=0.01), step
    assert len(course.validated) == 13
    assert course.validated[-1] == course.step


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_plan_follows_a_speed_that_changes(factor: float) -> None:
    course = Course(plan=budget(10.0)).begin()
    while not course.is_over:
        course.take(0.01 if course.now_s < 5.0 else 0.01 * factor)
    assert course.now_s == pytest.approx(10.0, abs=0.11)
    assert course.step == pytest.approx(500 + 500 / factor, rel=0.02)
    assert course.shares[499] == pytest.approx(0.53, abs=0.05)
    assert course.shares[-1] < 0.02


STEP_S = st.floats(0.02, 3.0)


@given(
    step_s=st.lists(STEP_S, min_size=1, max_size=200),
    validation_s=st.floats(0.0, 0.8),
    budget_s=st.floats(1.0, 20.0),
)
def test_a_budget_is_kept_whatever_steps_take(
    step_s: list[float], validation_s: float, budget_s: float
) -> None:
    course = Course(plan=budget(budget_s), validation_s=validation_s).begin()
    while not course.is_over:
        course.take(step_s[course.step % len(step_s)])
    assert course.step >= 1
    slowest = max(step_s)
    assert course.now_s <= max(budget_s, validation_s) + slowest + validation_s + 1e-6
    if slowest + validation_s <= budget_s:
        assert course.now_s <= LATEST * budget_s
        assert course.validated[-1] == course.step or course.now_s > budget_s
    warm = [share for share in course.shares if share == 1.0]
    falling = course.shares[course.shares.index(1.0) :] if warm else []
    assert all(a >= b for a, b in itertools.pairwise(falling))
    assert all(0 < share <= 1 for share in course.shares)


def test_a_budget_that_a_step_uses_up_is_one_step() -> None:
    course = Course(plan=budget(1.0), validation_s=0.5).begin()
    course.take(9.0)
    assert course.is_over
    assert course.validated == [0]  # another one would end after twice the budget
    assert course.now_s == 9.5


def test_long_validations_are_fewer() -> None:
    course = Course(plan=budget(30.0, validations=30), validation_s=2.0).begin()
    while not course.is_over:
        course.take(0.05)
    assert 3 <= len(course.validated) - 1 <= 5
    assert course.now_s == pytest.approx(30.0, abs=0.1)
    assert course.validated[-1] == course.step


def test_steps_may_run_out_before_the_time() -> None:
    course = Course(plan=budget(1e6, most_steps=100)).begin()
    while not course.is_over:
        course.take(0.01)
    assert course.step == 100
    assert course.shares[-1] < 0.02
    assert 0.3 < course.shares[62] < 0.7


@given(steps=st.integers(0, 30), step_s=STEP_S)
def test_a_plan_goes_on_where_it_was(steps: int, step_s: float) -> None:
    for plan in (budget(30.0), StepsPlan(last=200, warmup=WARMUP, validations=12)):
        course = Course(plan=plan).begin()
        for _ in range(steps):
            course.take(step_s)
        other = plan_of(plan.state())
        assert other == plan
        assert other.share(steps) == plan.share(steps)
    with pytest.raises(RunError, match="another version"):
        plan_of({"kind": "moon"})


def test_a_plan_can_begin_late() -> None:
    plan = budget(10.0, first=500, began_s=70.0)
    plan.tell(510, 75.0)
    assert not plan.is_over(510)
    assert plan.total(510) == 520
    plan.tell(512, 80.0)
    assert plan.is_over(512)
    late = StepsPlan(first=500, last=600, warmup=10, validations=4)
    assert late.share(500) == 1 / 11
    assert [step for step in range(501, 601) if late.validates(step)] == [525, 550, 575, 600]
