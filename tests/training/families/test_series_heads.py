"""The Johnson SU distribution: density, quantiles and the normal quantile agree."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.families.series.heads import JohnsonSU, bounded, fit_constant, normal_quantile


def distributions() -> st.SearchStrategy[JohnsonSU]:
    number = st.floats(-1.0, 1.0)
    return st.tuples(number, number, number, number).map(
        lambda raw: JohnsonSU.unpack(bounded(torch.tensor(raw, dtype=torch.float64)))
    )


@given(distributions(), st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None)
def test_density_integrates_to_the_level_of_the_quantile(
    distribution: JohnsonSU, level: float
) -> None:
    low = distribution.quantile(torch.tensor(1e-7, dtype=torch.float64))
    high = distribution.quantile(torch.tensor(level, dtype=torch.float64))
    # Integrate over asinh((y - location) / scale): the tails are then short.
    ends = [torch.asinh((end - distribution.location) / distribution.scale) for end in (low, high)]
    grid = torch.linspace(float(ends[0]), float(ends[1]), 20_001, dtype=torch.float64)
    y = distribution.location + distribution.scale * torch.sinh(grid)
    density = distribution.log_density(y).exp() * distribution.scale * torch.cosh(grid)
    assert abs(float(torch.trapezoid(density, grid)) - level) < 1e-4


@given(st.floats(1e-9, 1 - 1e-9))
@settings(deadline=None)
def test_normal_quantile_matches_torch(level: float) -> None:
    exact = torch.tensor(level, dtype=torch.float64)
    assert abs(float(normal_quantile(exact) - torch.special.ndtri(exact))) < 2e-6


def test_untrained_distribution_is_close_to_a_standard_normal() -> None:
    rest = JohnsonSU.unpack(bounded(torch.zeros(4)))
    draws = rest.quantile(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert abs(float(draws.mean())) < 0.02
    assert abs(float(draws.std()) - 1) < 0.02


def test_fit_finds_the_distribution_that_made_the_data() -> None:
    made = JohnsonSU.unpack(bounded(torch.tensor([0.2, -0.3, 0.1, -0.4])))
    draws = made.quantile(torch.rand(50_000, generator=torch.Generator().manual_seed(0)))
    found = JohnsonSU.unpack(bounded(torch.tensor(fit_constant(draws))))
    levels = torch.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(found.quantile(levels), made.quantile(levels), atol=0.03)


def test_fit_survives_data_without_spread() -> None:
    assert all(np.isfinite(fit_constant(torch.zeros(100))))
