"""Whether something grows."""

from __future__ import annotations

import numpy as np

from benchmarks.soak.trend import grows, slope

TIMES = np.arange(0, 600, 2.0)


def test_the_slope_of_a_line_with_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 3, len(TIMES))
    found = slope(TIMES.tolist(), (100 + 0.05 * TIMES + noise).tolist())
    assert found.low < 0.05 < found.high
    assert found.high - found.low < 0.02
    assert grows(found, 600, tolerance=2.0)
    assert not grows(found, 600, tolerance=100.0)


def test_what_comes_and_goes_does_not_grow() -> None:
    for seed in range(20):
        noise = np.random.default_rng(seed).exponential(5, len(TIMES))
        found = slope(TIMES.tolist(), (100 + noise).tolist())
        assert not grows(found, 600, tolerance=2.0)


def test_a_step_up_that_stays_is_told_from_steps_that_repeat() -> None:
    once = np.where(TIMES > 100, 120.0, 100.0)
    often = 100.0 + 10 * (TIMES // 60)
    assert not grows(slope(TIMES.tolist(), once.tolist()), 600, tolerance=2.0)
    assert grows(slope(TIMES.tolist(), often.tolist()), 600, tolerance=2.0)


def test_too_few_samples_tell_nothing() -> None:
    found = slope([0.0, 1.0], [1.0, 100.0])
    assert not grows(found, 1, tolerance=0)
