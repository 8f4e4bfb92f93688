"""Who waits for a row of the arena: parties take turns, and nobody is forgotten or handed two."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sessions.rows.waiting import Waiting

SLOTS = 40


def slots_of(*found: int) -> np.ndarray:
    return np.array(found, np.int64)


def tickets_of(slots: np.ndarray) -> np.ndarray:
    return (100 + slots).astype(np.int32)


def test_parties_take_turns_and_each_has_its_own_in_order() -> None:
    waiting = Waiting(400)
    many = np.arange(200)
    waiting.add(many, tickets_of(many), "many")
    waiting.add(slots_of(300), tickets_of(slots_of(300)), "few")
    first, tickets = waiting.next(150)
    assert first.tolist() == list(range(64))  # a share, though there was room for more
    assert tickets.tolist() == [100 + slot for slot in range(64)]
    assert waiting.next(150)[0].tolist() == [300]
    assert waiting.next(3)[0].tolist() == [64, 65, 66]
    assert waiting.count == 200 - 67


def test_who_leaves_and_waits_again_is_there_once() -> None:
    waiting = Waiting(SLOTS)
    waiting.add(slots_of(1, 2, 3), tickets_of(slots_of(1, 2, 3)), "a")
    left, tickets = waiting.leave(slots_of(2, 9))
    assert (left.tolist(), tickets.tolist()) == ([2], [102])
    waiting.add(slots_of(2), np.array([7], np.int32), "b")
    found = [waiting.next(SLOTS) for _ in range(2) if waiting.count]
    slots = [slot for some, _ in found for slot in some.tolist()]
    assert sorted(slots) == [1, 2, 3]
    assert dict(zip(slots, [t for _, some in found for t in some.tolist()], strict=True))[2] == 7
    assert waiting.count == 0


acts = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sets(st.integers(0, SLOTS - 1)), st.sampled_from("abc")),
        st.tuples(st.just("leave"), st.sets(st.integers(0, SLOTS - 1)), st.none()),
        st.tuples(st.just("next"), st.integers(1, 9), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=40,
)


@given(acts)
def test_they_are_as_in_sets(script: list[tuple[str, object, str]]) -> None:
    waiting, expected = Waiting(SLOTS), dict[int, int]()  # by slot: its ticket
    for number, (act, what, party) in enumerate(script):
        if act == "add":
            assert isinstance(what, set)
            slots = slots_of(*sorted(what - expected.keys()))
            if len(slots):
                waiting.add(slots, np.full(len(slots), number, np.int32), party)
            expected |= dict.fromkeys(slots.tolist(), number)
        elif act == "leave":
            assert isinstance(what, set)
            left, tickets = waiting.leave(slots_of(*sorted(what)))
            assert left.tolist() == sorted(what & expected.keys())
            assert tickets.tolist() == [expected.pop(slot) for slot in left.tolist()]
        elif act == "next" and waiting.count:
            assert isinstance(what, int)
            slots, tickets = waiting.next(what)
            assert len(slots) <= what
            assert tickets.tolist() == [expected.pop(slot) for slot in slots.tolist()]
        elif act == "clear":
            assert waiting.clear().tolist() == sorted(expected)
            expected.clear()
        assert waiting.count == len(expected)
    while waiting.count:
        for slot in waiting.next(5)[0].tolist():
            del expected[slot]
    assert not expected
