"""The Johnson SU distribution of a series' next change, and its closed forms.

With z a standard normal number, ``y = location + scale sinh((z - skewness) / tail)`` follows
Johnson's SU distribution (N. L. Johnson, Biometrika 36, 1949). Location and scale are in units of
the running spread; scale and tail are positive. Density, quantiles and draws are all closed form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TAIL_AT_REST = 2.0
SCALE_AT_REST = math.sqrt(2.0 / math.expm1(2.0 / TAIL_AT_REST**2))
"""With location and skewness 0 this scale makes the variance 1 at the tail above."""
LOCATION_BOUND = 3.0
LOG_SCALE_BOUND = 3.0
SKEWNESS_BOUND = 3.0
LOG_TAIL_BOUND = 1.1
"""tail stays within TAIL_AT_REST / 3 … TAIL_AT_REST * 3."""
STRETCH_BOUND = 15.0
"""Bound of the argument of sinh."""

# M. J. Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution, Applied
# Statistics 37 (1988): PPND7, about seven decimal digits. Lowest power first.
CENTRAL_LIMIT = 0.425
CENTRAL_SHIFT = 0.180625
CENTRAL_ABOVE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720)
CENTRAL_BELOW = (1.0, 17.895169469, 78.757757664, 67.187563600)
FAR_LIMIT = 5.0
NEAR_SHIFT = 1.6
NEAR_ABOVE = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103)
NEAR_BELOW = (1.0, 0.73700164250, 0.12021132975)
FAR_ABOVE = (6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997)
FAR_BELOW = (1.0, 0.24197894225, 0.012258202635)


def normal_quantile(level: Tensor) -> Tensor:
    """The standard normal quantile at levels in (0, 1), by AS 241 (PPND7)."""
    q = level - 0.5
    r = CENTRAL_SHIFT - q * q
    central = q * _polynomial(r, CENTRAL_ABOVE) / _polynomial(r, CENTRAL_BELOW)
    root = torch.sqrt(-torch.log(torch.minimum(level, 1.0 - level)))
    near_r, far_r = root - NEAR_SHIFT, root - FAR_LIMIT
    near = _polynomial(near_r, NEAR_ABOVE) / _polynomial(near_r, NEAR_BELOW)
    far = _polynomial(far_r, FAR_ABOVE) / _polynomial(far_r, FAR_BELOW)
    tail = torch.where(root <= FAR_LIMIT, near, far) * torch.sign(q)
    return torch.where(q.abs() <= CENTRAL_LIMIT, central, tail)


@dataclass(frozen=True, slots=True, kw_only=True)
class JohnsonSU:
    """A batch of distributions; the four tensors have one shape."""

    location: Tensor
    scale: Tensor
    skewness: Tensor
    tail: Tensor

    @classmethod
    def unpack(cls, shape: Tensor) -> "JohnsonSU":
        """Read the last axis of ``(…, 4 or more)``."""
        location, scale, skewness, tail = shape[..., :4].unbind(-1)
        return cls(location=location, scale=scale, skewness=skewness, tail=tail)

    def log_density(self, y: Tensor) -> Tensor:
        """Logarithm of the density at y, in nats."""
        unit = (y - self.location) / self.scale
        z = self.skewness + self.tail * torch.asinh(unit)
        return (
            torch.log(self.tail / self.scale)
            - 0.5 * math.log(2 * math.pi)
            - 0.5 * torch.log1p(unit * unit)
            - 0.5 * z * z
        )

    def quantile(self, level: Tensor) -> Tensor:
        """The value below which a draw falls with probability ``level``."""
        stretch = (normal_quantile(level) - self.skewness) / self.tail
        return self.location + self.scale * torch.sinh(stretch.clamp(-STRETCH_BOUND, STRETCH_BOUND))


class JohnsonHead(nn.Module):
    """Maps ``(…, hidden)`` to location, scale, skewness and tail ``(…, 4)``.

    Starts as nearly the same distribution everywhere, close to a standard normal: a random walk.
    """

    mask: Tensor

    def __init__(self, hidden: int, *, driftless: bool = False) -> None:
        """A ``driftless`` head has location and skewness 0: up is as likely as down."""
        super().__init__()
        self.linear = nn.Linear(hidden, 4)
        self.register_buffer("mask", mask_of(driftless=driftless), persistent=False)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(hidden))
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():  # what is 0 here stays 0: no gradient reaches it
            self.linear.weight.mul_(self.mask[:, None])

    def forward(self, y: Tensor) -> Tensor:
        """The four parameters, each within its bounds."""
        weight, bias = self.linear.weight * self.mask[:, None], self.linear.bias * self.mask
        return bounded(nn.functional.linear(y, weight, bias))

    def start_from(self, raw: Sequence[float]) -> None:
        """Let the head begin at a distribution found by `fit_constant`."""
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.copy_(torch.tensor(raw))


def bounded(raw: Tensor) -> Tensor:
    """Turn four free numbers ``(…, 4)`` into valid parameters."""
    location, scale, skewness, tail = raw.unbind(-1)
    return torch.stack(
        [
            location.clamp(-LOCATION_BOUND, LOCATION_BOUND),
            SCALE_AT_REST * torch.exp(scale.clamp(-LOG_SCALE_BOUND, LOG_SCALE_BOUND)),
            skewness.clamp(-SKEWNESS_BOUND, SKEWNESS_BOUND),
            TAIL_AT_REST * torch.exp(tail.clamp(-LOG_TAIL_BOUND, LOG_TAIL_BOUND)),
        ],
        dim=-1,
    )


def mask_of(*, driftless: bool) -> Tensor:
    """Which of the four numbers are free, ``(4,)``: 1, or 0 for those that stay 0."""
    return torch.tensor([0.0, 1.0, 0.0, 1.0]) if driftless else torch.ones(4)


def fit_constant(changes: Tensor, *, driftless: bool = False) -> list[float]:
    """The four free numbers that fit scaled changes ``(n,)`` best, by maximum likelihood.

    This is the best random walk of this family: the place from which a network has to improve.
    """
    y = changes.double()
    raw = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    mask = mask_of(driftless=driftless).double()
    optimizer = torch.optim.LBFGS([raw], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # The small pull to the start keeps degenerate data (a constant series) in bounds.
        loss = -JohnsonSU.unpack(bounded(raw * mask)).log_density(y).mean() + 1e-3 * (raw**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = [float(number) for number in raw.detach()]
    return found if all(math.isfinite(number) for number in found) else [0.0] * 4


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
