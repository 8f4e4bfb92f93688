"""Numbers for people: never 0 or 100 % where it is neither, never a share of nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.reports.numbers import against, duration, figure, percent


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.982, "98.2 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.99996, "over 99.9 %"),
        (0.0002, "under 0.1 %"),
        (float("nan"), "–"),
    ],
)
def test_shares(share: float, said: str) -> None:
    assert percent(share) == said


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        (0.9, 1.0, "10.0 % below it"),
        (0.989, 1.0, "1.1 % below it"),
        (1.0003, 1.0, "0.03 % above it"),
        (1.00000003, 1.0, "less than 0.01 % above it"),
        (0.0003, 1.0, "99.97 % below it"),
        (1e-9, 1.0, "more than 99.99 % below it"),
        (40.0, 1.0, "40 times it"),
        (0.0, 0.0, "equal to it"),
        (0.25, 0.0, "0.2500 against 0 of it"),
    ],
)
def test_comparisons(own: float, other: float, said: str) -> None:
    assert against(own, other, "it") == said


@given(own=st.floats(0, 1e12), other=st.floats(0, 1e12))
def test_nothing_is_100_per_cent_below(own: float, other: float) -> None:
    said = against(own, other, "it")
    assert "100" not in said.partition("% below")[0] or "% below" not in said
    assert not said.startswith(("0 %", "0.0 %", "0.00 %"))
    assert ("below" in said) <= (own < other)
    assert ("above" in said) <= (own > other)


@pytest.mark.parametrize(
    ("number", "said"),
    [(0.0082461, "0.008246"), (1.5e-8, "1.500e-08"), (0.0, "0"), (1234.0, "1234")],
)
def test_numbers_of_any_size(number: float, said: str) -> None:
    assert figure(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0.4 s"), (19.2, "19 s"), (200, "3.3 min"), (2700, "45 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
