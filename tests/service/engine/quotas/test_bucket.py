"""A rate is kept, and whoever comes again when he is told is taken then."""

from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.quotas.bucket import GRACE_S, HORIZON_S, Bucket
from tests.service.engine.quotas.clocks import Clock

rates = st.floats(0.5, 5000.0)
asks = st.tuples(st.floats(0.0, 0.5), st.integers(1, 8))


@given(rates, st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 400)), max_size=60))
def test_no_more_is_taken_than_the_rate_and_a_burst(
    rate: float, asked: list[tuple[float, int]]
) -> None:
    """In any stretch of time: a burst, what places were kept for, the rate, and what is owed."""
    clock = Clock()
    bucket = Bucket(clock)
    taken: list[tuple[float, int]] = []
    for pause_s, steps in asked:
        clock.now_s += pause_s
        if bucket.take(steps, rate):
            taken.append((clock.now_s, steps))
        else:
            bucket.wait(steps, rate)
    burst = max(1.0, rate)
    for first, (start_s, _) in enumerate(taken):
        total = 0
        for now_s, steps in taken[first:]:
            total += steps
            over = max(0.0, steps - burst)  # which is owed, and paid before anything else
            kept_s = GRACE_S if first else 0.0  # what came late was somebody's before
            assert total - over <= burst + rate * (now_s - start_s + kept_s) + 1e-3


@given(rates, st.lists(asks, min_size=1, max_size=30))
def test_who_comes_again_when_he_is_told_is_taken_then(
    rate: float, asked: list[tuple[float, int]]
) -> None:
    """Callers with requests of any size up to a burst, who all do as they are told."""
    clock = Clock()
    bucket = Bucket(clock)
    burst = max(1, int(rate))
    events: list[tuple[float, int, int, bool]] = []
    now_s = clock.now_s
    for number, (pause_s, eighths) in enumerate(asked):
        now_s += pause_s
        heappush(events, (now_s, number, max(1, burst * eighths // 8), False))
    while events:
        clock.now_s, number, steps, is_back = heappop(events)
        if bucket.take(steps, rate):
            continue
        assert not is_back, "he came when he was told to"
        wait_s, _ = bucket.wait(steps, rate)
        if wait_s <= HORIZON_S:
            heappush(events, (clock.now_s + wait_s, number, steps, True))


@given(
    st.floats(2.0, 2000.0), st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.booleans()
)
def test_who_obeys_is_served_at_the_rate_whatever_sizes_he_asks_for(
    rate: float, sizes: list[int], many: bool
) -> None:
    """One caller, or one for each size at once."""
    clock = Clock()
    bucket = Bucket(clock)
    start_s, taken, number = clock.now_s, 0, 0
    events = [(clock.now_s, index) for index in range(len(sizes) if many else 1)]
    last_s = clock.now_s
    for _ in range(400):
        clock.now_s, index = heappop(events)
        steps = sizes[index if many else number % len(sizes)]
        if bucket.take(steps, rate):
            taken, number, last_s = taken + steps, number + 1, clock.now_s
            heappush(events, (clock.now_s, index))
        else:
            heappush(events, (clock.now_s + bucket.wait(steps, rate)[0], index))
    # What the last one owes is paid by the time the next is taken.
    slack = max(1.0, rate) + 2 * max(sizes)
    due = rate * (last_s - start_s)
    assert taken <= due + slack
    assert taken >= 0.97 * due - slack - 0.002 * rate * number


def test_those_who_are_refused_together_come_one_after_the_other() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    assert bucket.take(100, 100.0)
    waits = [bucket.wait(50, 100.0)[0] for _ in range(4)]
    assert waits == pytest.approx([0.5, 1.0, 1.5, 2.0], abs=0.002)
    clock.now_s += waits[0]
    assert not bucket.take(10, 100.0)  # a newcomer: another's place is due
    assert bucket.wait(10, 100.0)[0] == pytest.approx(1.6, abs=0.003)
    assert bucket.take(50, 100.0)
    assert not bucket.take(50, 100.0)


def test_a_place_is_not_kept_for_ever() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    assert bucket.take(100, 100.0)
    for _ in range(5):
        bucket.wait(100, 100.0)
    clock.now_s += 7.0
    assert bucket.take(100, 100.0)


def test_what_is_larger_than_a_burst_is_owed() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    assert bucket.take(1000, 100.0)
    assert not bucket.take(1, 100.0)
    assert bucket.wait(1, 100.0)[0] == pytest.approx(9.01, abs=0.003)
    clock.now_s += 9.0
    assert not bucket.take(1, 100.0)
    clock.now_s += 0.02
    assert bucket.take(1, 100.0)


def test_rows_are_taken_up_to_the_first_that_must_wait() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    assert bucket.take_rows([1] * 250, 100.0) == 100
    first, times = bucket.wait(1, 100.0, 150)
    assert times == 100
    second, times = bucket.wait(1, 100.0, 50)
    assert times == 50
    assert [first, second] == pytest.approx([1.0, 1.5], abs=0.003)
    clock.now_s += first
    assert bucket.take_rows([1] * 100, 100.0) == 100
    clock.now_s += second - first
    assert bucket.take_rows([1] * 50, 100.0) == 50
    assert bucket.take_rows([1], 100.0) == 0


@given(st.floats(1.0, 1000.0), st.integers(1, 16), st.integers(1, 5))
def test_who_pays_afterwards_goes_on_at_the_rate(rate: float, steps: int, rows: int) -> None:
    """As generations do: each reads, pays, and waits as long as it is told."""
    clock = Clock()
    bucket = Bucket(clock)
    start_s, taken = clock.now_s, 0
    events = [(clock.now_s, row) for row in range(rows)]
    for _ in range(300):
        clock.now_s, row = heappop(events)
        taken += steps
        heappush(events, (clock.now_s + bucket.pay(steps, rate), row))
    due = rate * (clock.now_s - start_s)
    assert due - 1 <= taken <= due + max(1.0, rate) + rows * steps + 1


def test_who_pays_afterwards_stands_in_line_with_the_others() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    assert bucket.take(100, 100.0)
    wait_s, _ = bucket.wait(20, 100.0)
    assert bucket.pay(10, 100.0) == pytest.approx(0.3, abs=0.003)
    clock.now_s += wait_s
    assert bucket.take(20, 100.0)
    assert bucket.wait(5, 100.0)[0] == pytest.approx(0.15, abs=0.003)
