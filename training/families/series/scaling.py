"""Scaling of a series by its own past: the last values and running sizes of changes are states.

A change is ``log(x_t / x_{t-lag})`` or ``x_t - x_{t-lag}``; the lag is 1, or a season. Its
running size is an exponentially weighted mean of absolute changes, in units u of training's usual
size, that begins at that usual size and forgets it as data comes in::

    sum_t    = decay sum_{t-1}    + (1 - decay) NORMAL |change_t| / u
    weight_t = decay weight_{t-1} + (1 - decay)
    prior_t  = PRIOR (1 - weight_t)
    size_t   = (sum_t + prior_t) / (weight_t + prior_t) + FLOOR
    spread_t = u size_t

Absolute changes, not squares: a single jump does not blow the size up for weeks. The first decay
gives the spread; further ones are features only. Until there are ``lag`` values nothing counts as a
change: the values missing then are taken to equal the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.families.series.settings import Transform

CHANGE_BOUND = 1e4
"""Changes beyond so many of training's count as this many in the running size."""
FEATURE_BOUND = 10.0
"""The network sees scaled changes clipped to this."""
PRIOR = 0.05
"""Weight of training's size at the start; one observation weighs 1 - decay."""
FLOOR = 1e-3
"""A series that stands still has this size."""
BLOCK = 64
"""Steps of a running sum that are computed at once."""
NORMAL = math.sqrt(math.pi / 2)
"""Standard deviation over mean absolute value, of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A chunk of a series, scaled."""

    features: Tensor
    """(batch, time, 1 + decays): change over the previous spread, log of the size, and the logs of
    the sizes of further decays over it."""
    anchor: Tensor
    """(batch, time, 1): what the next change counts from; the value itself at lag 1."""
    spread: Tensor
    """(batch, time, 1): scale of the next change."""


class Scaling(nn.Module):
    """Turns raw values into what a network can read; has nothing to learn."""

    def __init__(
        self,
        *,
        transform: Transform,
        change_scale: float,
        decays: tuple[float, ...],
        lag: int = 1,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.change_scale = change_scale
        self.decays = decays
        self.lag = lag

    @property
    def width(self) -> int:
        """Features per step."""
        return 1 + len(self.decays)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The last values, oldest first; how many there have been; running sums and weights."""
        sizes = (len(self.decays),)
        return {"history": (self.lag,), "seen": (1,), "size_sums": sizes, "size_weights": sizes}

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The state before the first value: zeros."""
        return tuple(torch.zeros(batch, *shape) for shape in self.state_shapes.values())

    def change(self, previous: Tensor, value: Tensor) -> Tensor:
        """The change from one value to another."""
        if self.transform is Transform.LOG_RETURN:
            return torch.log(value / previous)
        return value - previous

    def forward(
        self, values: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Scaled, tuple[Tensor, ...]]:
        """Scale a chunk ``(batch, time, 1)``; the states are as in `state_shapes`."""
        history, seen, sums, weights = state
        time = values.shape[1]
        history = torch.where(seen > 0, history, values[:, :1, 0])  # (batch, lag)
        path = torch.cat([history.unsqueeze(-1), values], dim=1)  # (batch, lag + time, 1)
        steps = torch.arange(time, device=values.device)
        counted = (seen + steps >= self.lag).to(values.dtype).unsqueeze(-1)  # (batch, time, 1)
        change = self.change(path[:, :time], values) * counted
        unit = (change / self.change_scale).clamp(-CHANGE_BOUND, CHANGE_BOUND)

        sum_path = self._running(NORMAL * unit.abs(), sums)  # (batch, 1 + time, decays)
        weight_path = self._running(counted, weights)
        prior = PRIOR * (1.0 - weight_path)
        sizes = (sum_path + prior) / (weight_path + prior) + FLOOR
        main = sizes[..., :1]  # (batch, 1 + time, 1)

        logs = torch.log(sizes[:, 1:])  # (batch, time, decays)
        scaled = Scaled(
            features=torch.cat(
                [
                    (unit / main[:, :-1]).clamp(-FEATURE_BOUND, FEATURE_BOUND),
                    logs[..., :1],
                    logs[..., 1:] - logs[..., :1],
                ],
                dim=-1,
            ),
            anchor=path[:, 1 : time + 1],
            spread=self.change_scale * main[:, 1:],
        )
        following = (
            path[:, time:, 0],
            (seen + time).clamp(max=float(self.lag)),
            sum_path[:, -1],
            weight_path[:, -1],
        )
        return scaled, following

    def _running(self, x: Tensor, start: Tensor) -> Tensor:
        """``s_t = decay s_{t-1} + (1 - decay) x_t`` for each decay: ``(batch, 1 + time, decays)``.

        A block of steps is one product with the powers of the decay.
        """
        decay = torch.tensor(self.decays, device=x.device)[:, None, None]  # (decays, 1, 1)
        place = torch.arange(min(BLOCK, x.shape[1]), device=x.device)
        age = place[:, None] - place  # (to, from)
        shares = (1.0 - decay) * decay ** age.clamp(min=0) * (age >= 0)  # (decays, to, from)
        kept = decay[:, 0] ** (place + 1)  # (decays, to)
        path = [start.unsqueeze(1)]
        for block in x.split(BLOCK, dim=1):  # (batch, <= BLOCK, 1)
            size = block.shape[1]
            new = torch.einsum("bs,nts->btn", block[..., 0], shares[:, :size, :size])
            path.append(new + path[-1][:, -1:] * kept[:, :size].T)
        return torch.cat(path, dim=1)


def change_scale_of(changes: Sequence[Tensor]) -> float:
    """The usual change of several series in training.

    Each one's is the standard deviation of a normal with its mean absolute change; the geometric
    mean of them lies between the smallest and the largest. Constant series do not count.
    """
    sizes = [NORMAL * float(change.double().abs().mean()) for change in changes]
    logs = [math.log(size) for size in sizes if size > 0]
    return math.exp(math.fsum(logs) / len(logs)) if logs else 1e-12
