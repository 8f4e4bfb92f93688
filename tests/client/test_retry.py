"""When to try again, with a clock that only moves when told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellar import BadInputError, CellarError, ConnectionLostError, OverloadedError, RetryPolicy
from cellar.calls.retry import Attempts


@given(st.integers(1, 20), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_within_bounds(failures: int, draw: float) -> None:
    policy = RetryPolicy(first_delay_s=0.1, growth=2, longest_delay_s=1, draw=lambda: draw)
    full = min(0.1 * 2 ** (failures - 1), 1)
    assert full / 2 <= policy.delay_s(failures) <= full
    assert policy.delay_s(failures, 3.0) >= 3.0


@given(st.integers(1, 10), st.floats(0.01, 60))
def test_tries_and_time_are_bounded(tries: int, timeout_s: float) -> None:
    now = 0.0
    policy = RetryPolicy(attempts=tries, clock=lambda: now, draw=lambda: 0.5)
    attempts = Attempts(policy, timeout_s)
    made = 0
    with pytest.raises(CellarError):  # noqa: PT012
        while True:
            assert attempts.remaining_s() > 0
            made += 1
            now += attempts.failed(ConnectionLostError("gone"))
    assert made <= tries
    assert now < timeout_s
    assert attempts.ambiguous


def test_what_is_not_retried() -> None:
    for error in (BadInputError("no"), OverloadedError("full, and no word when not")):
        attempts = Attempts(RetryPolicy(), 10)
        with pytest.raises(type(error)):
            attempts.failed(error)
        assert not attempts.ambiguous
