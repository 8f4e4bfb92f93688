"""Who comes with little waits for a share of each other's queue, never for a whole one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler.fair_queue import FairQueue

QUANTUM = 4
flows = st.sampled_from("abcd")


def put(queue: FairQueue[tuple[str, int]], flow: str, number: int, rows: int = 1) -> None:
    queue.append((flow, number), queue.place(flow, rows))


@given(st.lists(flows, max_size=60))
def test_all_comes_out_once_and_each_flows_in_order(asked: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for number, flow in enumerate(asked):
        put(queue, flow, number)
    found = [queue.popleft() for _ in range(len(queue))]
    assert sorted(number for _, number in found) == list(range(len(asked)))
    for flow in "abcd":
        own = [number for name, number in found if name == flow]
        assert own == sorted(own)


@given(st.lists(st.tuples(flows, st.integers(1, 30)), max_size=20), st.integers(0, 40))
def test_a_newcomer_waits_for_a_share_of_each(ahead: list[tuple[str, int]], taken: int) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for flow, rows in ahead:
        for number in range(rows):
            put(queue, flow, number)
    for _ in range(min(taken, len(queue))):
        queue.popleft()
    put(queue, "new", 0)
    before: Counter[str] = Counter()
    while (entry := queue.popleft())[0] != "new":
        before[entry[0]] += 1
    assert all(rows <= QUANTUM for rows in before.values()), before


@given(st.integers(1, 20), st.integers(0, 30))
def test_one_long_entry_is_taken_in_turns_too(at_once: int, takes: int) -> None:
    """However few of its rows run at a time: in a batch there may be room for no more."""
    queue: FairQueue[str] = FairQueue(QUANTUM)
    queue.append("long", queue.place("hog", 10_000))
    for _ in range(takes):
        assert queue.popleft() == "long"
        queue.put_back("long", at_once)
    queue.append("new", queue.place("new", 1))
    ahead = 0
    while queue.popleft() != "new":
        queue.put_back("long", at_once)
        ahead += at_once
        assert ahead < QUANTUM + at_once


def test_who_was_far_ahead_and_is_done_has_no_disadvantage() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for number in range(100):
        put(queue, "a", number)
    while queue:
        queue.popleft()
    put(queue, "a", 100)
    for number in range(8):
        put(queue, "b", number)
    assert queue.popleft() == ("a", 100)


def test_what_nobody_wants_is_dropped() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for number in range(30):
        put(queue, "ab"[number % 2], number)
    queue.keep(lambda entry: entry[0] == "b")
    assert len(queue) == 15
    assert [queue.popleft()[1] for _ in range(15)] == list(range(1, 30, 2))
    assert not queue
    put(queue, "a", 1)
    assert queue.first() == queue.popleft() == ("a", 1)
