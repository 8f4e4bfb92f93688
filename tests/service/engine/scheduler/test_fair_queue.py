"""Who comes with little waits for a share of each other's queue, never for a whole one."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler.fair_queue import FairQueue

QUANTUM = 4
flows = st.sampled_from("abcd")


def put(queue: FairQueue[tuple[str, int]], flow: str, number: int, rows: int = 1) -> None:
    queue.append((flow, number), queue.place(flow, rows))


@given(st.lists(flows, max_size=60))
def test_all_comes_out_once_and_each_flows_in_order(asked: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    for number, flow in enumerate(asked):
        put(queue, flow, number)
    found = [queue.popleft() for _ in range(len(queue))]
    assert sorted(number for _, number in found) == list(range(len(asked)))
    for flow in "abcd":
        own = [number for name, number in found if name == flow]
        assert own == sorted(own)


@given(st.lists(st.tuples(flows, st.integers(1, 30)), max_size=20), st.integers(0, 40))
def test_a_newcomer_waits_for_a_share_of_each(ahead: list[tuple[str, int]], taken: int) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
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
    queue: FairQueue[str] = FairQueue(QUANTUM, size=lambda _: 1)
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
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    for number in range(100):
        put(queue, "a", number)
    while queue:
        queue.popleft()
    put(queue, "a", 100)
    for number in range(8):
        put(queue, "b", number)
    assert queue.popleft() == ("a", 100)


def test_what_nobody_wants_is_dropped() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    for number in range(30):
        put(queue, "ab"[number % 2], number)
    queue.keep(lambda entry: entry[0] == "b")
    assert len(queue) == 15
    assert [queue.popleft()[1] for _ in range(15)] == list(range(1, 30, 2))
    assert not queue
    put(queue, "a", 1)
    assert queue.first() == queue.popleft() == ("a", 1)


principals = st.sampled_from("PQR")


def ask(
    queue: FairQueue[tuple[str, str, int]], principal: str, flow: str, number: int, *, joins: bool
) -> None:
    """A row, that may share an entry with others of its round or has one of its own."""
    name = principal + flow
    if joins:
        start, whose = queue.join(name, 1, principal)
    else:
        start, whose = queue.place(name, 1, principal), principal
    queue.append((principal, flow, number), start, whose)


@given(st.lists(st.tuples(principals, flows, st.booleans(), st.integers(0, 2)), max_size=80))
def test_all_of_all_principals_comes_out_once_and_each_flows_in_order(
    asked: list[tuple[str, str, bool, int]],
) -> None:
    """Whatever was taken, and put back, meanwhile."""
    queue: FairQueue[tuple[str, str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    found: list[tuple[str, str, int]] = []
    for number, (principal, flow, joins, takes) in enumerate(asked):
        ask(queue, principal, flow, number, joins=joins)
        for _ in range(min(takes, len(queue))):
            first = queue.first()
            found.append(queue.popleft())
            assert found[-1] == first
    assert len(queue) == len(list(queue)) == len(asked) - len(found)
    found += [queue.popleft() for _ in range(len(queue))]
    assert sorted(number for _, _, number in found) == list(range(len(asked)))
    for key in {entry[:2] for entry in found}:
        own = [entry[2] for entry in found if entry[:2] == key]
        assert own == sorted(own)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.booleans(), st.integers(0, 99))
def test_principals_have_equal_shares_whatever_their_flows(
    flows_of: list[int], joins: bool, seed: int
) -> None:
    """All have more queued than is taken; the flows of each have equal shares of its share."""
    rounds, queue = 15, FairQueue[tuple[str, str, int]](QUANTUM, size=lambda _: 1)
    rows = [
        (f"P{number}", f"/{flow}")
        for number, count in enumerate(flows_of)
        for flow in range(count)
        for _ in range(rounds * QUANTUM + QUANTUM)
    ]
    Random(seed).shuffle(rows)
    for number, (principal, flow) in enumerate(rows):
        ask(queue, principal, flow, number, joins=joins)
    taken = Counter(queue.popleft()[:2] for _ in range(rounds * QUANTUM * len(flows_of)))
    for number, count in enumerate(flows_of):
        own = [taken[f"P{number}", f"/{flow}"] for flow in range(count)]
        assert abs(sum(own) - rounds * QUANTUM) <= QUANTUM
        assert max(own) - min(own) <= 2 * QUANTUM


@given(st.integers(1, 60), st.integers(1, 200), st.integers(0, 300), st.booleans())
def test_a_newcomer_waits_for_a_share_of_each_principal(
    flows_of: int, rows: int, taken: int, same: bool
) -> None:
    """Another principal for its share; a flow of the same one for a share of each flow of it."""
    queue: FairQueue[tuple[str, str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    for number in range(rows):
        for flow in range(flows_of):
            ask(queue, "hog", str(flow), number, joins=True)
    for _ in range(min(taken, len(queue))):
        queue.popleft()
    ask(queue, "hog" if same else "polite", "new", 0, joins=True)
    before: Counter[str] = Counter()
    while (entry := queue.popleft())[1] != "new":
        before[entry[1]] += 1
    if same:
        assert all(count <= 2 * QUANTUM for count in before.values())
    else:
        assert before.total() <= QUANTUM


def test_a_long_entry_of_a_principal_is_taken_in_turns() -> None:
    """However it is put back: its share is a round's rows."""
    left = {"long": 10_000, "other": 10_000}
    queue: FairQueue[str] = FairQueue(QUANTUM, size=lambda name: left.get(name, 1))
    for name in left:
        queue.append(name, queue.place(name, left[name], name), name)
    ran: Counter[str] = Counter()
    for _ in range(100):
        name = queue.popleft()
        assert queue.is_shared
        ran[name] += 3
        left[name] -= 3
        queue.put_back(name, 3, name)
    assert abs(ran["long"] - ran["other"]) <= 2 * QUANTUM


def test_what_nobody_of_a_principal_wants_is_dropped_and_it_has_turns_again() -> None:
    queue: FairQueue[tuple[str, str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    for number in range(30):
        ask(queue, "P", "a", number, joins=False)
    ask(queue, "Q", "a", 0, joins=False)
    queue.keep(lambda entry: entry[0] == "Q")
    assert len(queue) == 1
    ask(queue, "P", "b", 1, joins=False)
    assert {queue.popleft()[0], queue.popleft()[0]} == {"P", "Q"}
    assert not queue


def test_entries_that_are_passed_over_come_first_again() -> None:
    """As sequences of other lengths do, which are taken and put back."""
    queue: FairQueue[tuple[str, str, int]] = FairQueue(QUANTUM, size=lambda _: 1)
    for number in range(20):
        ask(queue, "PQ"[number % 2], "a", number, joins=False)
    passed = [queue.popleft() for _ in range(10)]
    for entry in reversed(passed):
        queue.put_back(entry, 0, entry[0])
    found = [queue.popleft() for _ in range(20)]
    assert sorted(entry[2] for entry in found) == list(range(20))
    for principal in "PQ":
        own = [entry[2] for entry in found if entry[0] == principal]
        assert own == sorted(own)
    assert {entry[0] for entry in found[: 2 * QUANTUM + 1]} == {"P", "Q"}
