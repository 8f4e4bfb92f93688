"""A loop with a clock of its own: its budget is kept, and its learning rate comes down in time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric import Fabric
from torch import nn

from training.families.char.settings import CharConfig
from training.families.char.task import CharTask
from training.families.parsing import parse_config
from training.run.fit import resume, train
from training.run.steps.loop import Loop


@dataclass
class Clock:
    """Stands still but for what a test lets pass."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Slow(CharTask):
    """A text whose validations take their time."""

    clock: Clock
    validation_s: float

    def validation_loss(self, model: nn.Module) -> float:
        self.clock.now_s += self.validation_s
        return super().validation_loss(model)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "text.txt"
    path.write_text("hello" * 120)
    return {
        "task": "char",
        "text": [path],
        "hidden": 8,
        "embedding": 4,
        "batch": 4,
        "window": 8,
        "warmup": 4,
        "device": "cpu",
        "optimiser": "adamw",
        "publish": True,
        "models": tmp_path / "models",
        "runs": tmp_path / "runs",
    }


def loop_of(settings: dict[str, Any], clock: Clock, *, validation_s: float = 0.0) -> Loop:
    config = parse_config(settings)
    assert isinstance(config, CharConfig)
    task = Slow(config)
    task.clock, task.validation_s = clock, validation_s
    return Loop(task, Fabric(accelerator="cpu", devices=1), clock=clock)


def test_a_machine_that_slows_down_gets_fewer_steps(settings: dict[str, Any]) -> None:
    clock = Clock()
    loop = loop_of({**settings, "budget_s": 60.0}, clock, validation_s=0.5)
    for _ in loop.run():
        clock.now_s += 0.5 if loop.spent_s < 30.0 else 5.0
    assert loop.finished
    assert 55.0 <= loop.spent_s <= 65.5
    assert loop.total == loop.step < 70
    rates = [record["learning_rate"] for record in loop.history if "learning_rate" in record]
    assert rates[-1] < 0.1 * loop.config.learning_rate
    assert loop.history[-1]["step"] == loop.step
    validated = [record["step"] for record in loop.history if "validation" in record]
    assert validated[0] == 0
    assert validated[-1] == loop.step


def test_a_tiny_budget_on_a_busy_machine_ends_with_what_was_learnt(
    settings: dict[str, Any],
) -> None:
    clock = Clock()
    loop = loop_of({**settings, "budget_s": 1.0}, clock, validation_s=0.9)
    before = {name: each.clone() for name, each in loop.task.network.state_dict().items()}
    for _ in loop.run():
        clock.now_s += 1.0
    assert loop.finished
    assert loop.spent_s <= 2.0
    assert loop.best.step == loop.step >= 1
    assert any(not each.equal(before[name]) for name, each in loop.best.weights.items())


def test_a_stopped_budget_has_what_was_left_of_it(settings: dict[str, Any]) -> None:
    clock = Clock()
    config = parse_config({**settings, "budget_s": 10.0})

    class Ticking(Clock):
        def __call__(self) -> float:
            self.now_s += 0.05
            return self.now_s

    part = train(config, stop_after=20, clock=Ticking())
    assert not part.finished
    assert part.total_steps is not None
    assert part.total_steps > 40
    clock = Ticking()
    whole = resume(part.folder, clock=clock)
    assert whole.finished
    assert clock.now_s - 1000.0 < 10.0  # and not another ten
    assert whole.steps > 40
