"""What a network reads beside the value: other columns, and what is known of the time.

A number is read as two: its change since the step before, in units of training's usual change, and
its level, standardised by training's mean and deviation. These are constants of the graph and not
running statistics: what a column usually does is known from training, and must not depend on how
long a session has been open. A level that drifts (a price) has no usual place: only its changes are
read. A known time such as the weekday is read as one of a few cases.

A client sends the same columns, raw, after the value: `columns` names them in order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.series.columns import TimeFeature
from training.families.series.scaling import NORMAL
from training.families.series.settings import Transform

CHANGE_BOUND = 10.0
LEVEL_BOUND = 3.0
SMALLEST = 1e-30
"""Where a logarithm is taken, what is smaller counts as this."""
CASES = {
    TimeFeature.HOUR: range(24),
    TimeFeature.WEEKDAY: range(7),
    TimeFeature.MONTHDAY: range(1, 32),
    TimeFeature.MONTH: range(1, 13),
}
"""What a client sends for each: hours 0-23, weekdays 0 (Monday) to 6, days 1-31, months 1-12."""
DRIFT = 1.0
"""A level drifts when the halves of training differ by more than so many deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A column of numbers, and what training saw of it."""

    name: str
    transform: Transform
    change_scale: float
    mean: float
    deviation: float
    drifts: bool

    @classmethod
    def seen_in(cls, name: str, stretches: list[NDArray[np.float64]]) -> "Number":
        """What is to be known of a column: its training stretch in each series, ``(rows,)``."""
        positive = all(bool((rows > 0).all()) for rows in stretches)
        read = [np.log(rows) if positive else rows for rows in stretches]
        changes = np.concatenate([np.diff(rows) for rows in read])
        every = np.concatenate(read)
        deviation = float(every.std())
        halves = [
            abs(rows[: len(rows) // 2].mean() - rows[len(rows) // 2 :].mean()) for rows in read
        ]
        within = float(np.sqrt(np.mean([rows.std() ** 2 for rows in read])))
        return cls(
            name=name,
            transform=Transform.LOG_RETURN if positive else Transform.DIFFERENCE,
            change_scale=max(1e-12, NORMAL * float(np.abs(changes).mean())),
            mean=float(every.mean()),
            deviation=max(1e-12, deviation),
            drifts=max(halves) > DRIFT * within,
        )

    def plain(self) -> dict[str, Any]:
        """As words and numbers that `of` reads."""
        return {
            "name": self.name,
            "transform": str(self.transform),
            "change_scale": float(self.change_scale),
            "mean": float(self.mean),
            "deviation": float(self.deviation),
            "drifts": bool(self.drifts),
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Number":
        """What `plain` made."""
        return cls(**{**plain, "transform": Transform(plain["transform"])})


class Features(nn.Module):
    """Turns the columns beside the value into what a network reads; has nothing to learn."""

    def __init__(self, *, numbers: tuple[Number, ...] = (), times: tuple[TimeFeature, ...] = ()):
        super().__init__()
        self.numbers = numbers
        self.times = times

    @property
    def columns(self) -> tuple[str, ...]:
        """What a client sends after the value."""
        return (*(number.name for number in self.numbers), *self.times)

    @property
    def width(self) -> int:
        """What the network reads per step."""
        return 2 * len(self.numbers) + sum(len(CASES[time]) for time in self.times)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the step before."""
        return {"last_numbers": (len(self.numbers),)} if self.numbers else {}

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The state before the first step: zeros."""
        return tuple(torch.zeros(batch, *shape) for shape in self.state_shapes.values())

    def forward(
        self, columns: Tensor, seen: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Map ``(batch, time, columns)`` to ``(batch, time, width)``.

        ``seen (batch, 1)`` is above zero where there has been a step before.
        """
        count = len(self.numbers)
        parts: list[Tensor] = []
        following: tuple[Tensor, ...] = ()
        if self.numbers:
            numbers = columns[..., :count]  # (batch, time, numbers)
            last = torch.where(seen > 0, state[0], numbers[:, 0]).unsqueeze(1)
            before = torch.cat([last, numbers[:, :-1]], dim=1)
            for place, number in enumerate(self.numbers):
                level, previous = numbers[..., place : place + 1], before[..., place : place + 1]
                if number.transform is Transform.LOG_RETURN:
                    level = torch.log(level.clamp(min=SMALLEST))
                    previous = torch.log(previous.clamp(min=SMALLEST))
                change = level - previous
                standard = (level - number.mean) / number.deviation
                kept = torch.zeros_like(level) if number.drifts else standard
                parts.append((change / number.change_scale).clamp(-CHANGE_BOUND, CHANGE_BOUND))
                parts.append(kept.clamp(-LEVEL_BOUND, LEVEL_BOUND))
            following = (numbers[:, -1],)
        for place, time in enumerate(self.times, start=count):
            cases = torch.tensor(CASES[time], dtype=columns.dtype, device=columns.device)
            parts.append((columns[..., place : place + 1] == cases).to(columns.dtype))
        return torch.cat(parts, dim=-1), following
