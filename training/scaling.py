"""Scaling of a series by its own past: the last value and a running variance are states.

A change is ``log(x_t / x_{t-1})`` or ``x_t - x_{t-1}``. The running scale is an exponentially
weighted mean of squared changes with a small pull towards the variance seen in training, v0
(RiskMetrics' estimator with a prior)::

    sum_t    = decay sum_{t-1}    + (1 - decay) change_t^2 / v0
    weight_t = decay weight_{t-1} + (1 - decay)
    spread_t = sqrt(v0 (sum_t + prior) / (weight_t + prior))

The first value of a sequence has no change: it leaves sum and weight alone.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.config import Transform

CHANGE_BOUND = 1e4
"""Changes beyond so many training scales count as this many in the running variance."""
FEATURE_BOUND = 10.0
"""The network sees scaled changes clipped to this."""
PRIOR = 0.05
"""Weight of the training variance; one observation weighs 1 - decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A chunk of a series, scaled."""

    features: Tensor
    """(batch, time, 2): change over the previous spread, and log of spread over training's."""
    anchor: Tensor
    """(batch, time, 1): the value itself."""
    spread: Tensor
    """(batch, time, 1): scale of the next change."""


class Scaling(nn.Module):
    """Turns raw values into what a network can read; has nothing to learn."""

    width = 2
    state_shapes: ClassVar[dict[str, tuple[int, ...]]] = {
        "last_value": (1,),
        "seen": (1,),
        "variance_sum": (1,),
        "variance_weight": (1,),
    }

    def __init__(self, *, transform: Transform, change_scale: float, decay: float) -> None:
        super().__init__()
        self.transform = transform
        self.change_scale = change_scale
        self.decay = decay

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The state before the first value: zeros."""
        return tuple(torch.zeros(batch, *shape) for shape in self.state_shapes.values())

    def change(self, previous: Tensor, value: Tensor) -> Tensor:
        """The change from one value to the next."""
        if self.transform is Transform.LOG_RETURN:
            return torch.log(value / previous)
        return value - previous

    def forward(
        self, values: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Scaled, tuple[Tensor, ...]]:
        """Scale a chunk ``(batch, time, 1)``; the states are ``(batch, 1)`` each."""
        last, seen, total, weight = state
        before = torch.cat([last.unsqueeze(1), values[:, :-1]], dim=1)  # (batch, time, 1)
        started = torch.ones_like(values)
        started[:, 0] = seen
        change = self.change(torch.where(started > 0, before, values), values)
        unit = (change / self.change_scale).clamp(-CHANGE_BOUND, CHANGE_BOUND)

        keep, add = self.decay, 1.0 - self.decay
        totals, weights = [total], [weight]
        for step in range(values.shape[1]):
            totals.append(keep * totals[-1] + add * unit[:, step] ** 2)
            weights.append(keep * weights[-1] + add * started[:, step])
        total_path = torch.stack(totals, dim=1)  # (batch, 1 + time, 1)
        weight_path = torch.stack(weights, dim=1)  # (batch, 1 + time, 1)

        ratio = (total_path + PRIOR) / (weight_path + PRIOR)
        relative = torch.sqrt(ratio)  # spread in units of training's
        scaled_change = (unit / relative[:, :-1]).clamp(-FEATURE_BOUND, FEATURE_BOUND)
        log_relative = 0.5 * torch.log(ratio[:, 1:])
        scaled = Scaled(
            features=torch.cat([scaled_change, log_relative], dim=-1),
            anchor=values,
            spread=self.change_scale * relative[:, 1:],
        )
        following = (values[:, -1], torch.ones_like(seen), totals[-1], weights[-1])
        return scaled, following


def change_scale_of(changes: Tensor) -> float:
    """Root mean square of training's changes, kept away from zero for constant series."""
    scale = math.sqrt(float((changes.double() ** 2).mean()))
    return max(1e-12, scale)
