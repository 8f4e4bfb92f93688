"""The store in memory forgets what a crash takes, and no more."""

from __future__ import annotations

import threading
from random import Random

import pytest

from service.store.store import StoreFailedError, StoreFullError
from tests.service.store.fake import FakeStore


def numbers(store: FakeStore) -> list[int]:
    return [number for number, _ in store.groups()]


def test_a_crash_leaves_what_was_acknowledged() -> None:
    store = FakeStore()
    store.append(1, b"one")
    store.write({b"a": b"1"})
    left = store.crash()
    assert (numbers(left), dict(left.rows())) == ([1], {b"a": b"1"})
    with pytest.raises(StoreFailedError, match="crashed"):
        store.append(2, b"two")
    left.append(2, b"two")


def test_a_store_that_lies_loses_what_it_acknowledged() -> None:
    store = FakeStore()
    store.append(1, b"one")
    store.lies = True
    store.append(2, b"two")
    store.append(3, b"three")
    assert numbers(store) == [1, 2, 3]
    assert store.durable_groups == {1: b"one"}
    assert numbers(store.crash()) == [1]


def test_dice_may_leave_any_beginning_of_what_was_not_durable() -> None:
    left = set()
    for seed in range(40):
        store = FakeStore()
        store.lies = True
        for number in (1, 2, 3):
            store.append(number, b"")
        left.add(tuple(numbers(store.crash(Random(seed)))))
    assert left == {(), (1,), (1, 2), (1, 2, 3)}


def test_a_lie_comes_true_with_a_sync() -> None:
    store = FakeStore()
    store.lies = True
    store.append(1, b"one")
    store.sync()
    assert numbers(store.crash()) == [1]


def test_what_was_dropped_is_back_until_the_next_append() -> None:
    store = FakeStore()
    for number in (1, 2, 3):
        store.append(number, b"")
    store.drop(3)
    assert numbers(store) == [3]
    assert numbers(store.crash()) == [1, 2, 3]
    store = FakeStore()
    for number in (1, 2):
        store.append(number, b"")
    store.drop(2)
    store.append(3, b"")
    assert numbers(store.crash()) == [2, 3]


def test_a_crash_at_the_gate_leaves_rows_whole_or_not_at_all() -> None:
    left = set()
    for seed in range(20):
        store = FakeStore()
        store.gate = threading.Event()
        caught: list[BaseException] = []

        def write(store: FakeStore = store, caught: list[BaseException] = caught) -> None:
            try:
                store.write({b"a": b"1", b"b": b"2"})
            except StoreFailedError as error:
                caught.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        while not store.writes:
            pass
        after = store.crash(Random(seed))
        store.gate.set()
        thread.join()
        assert len(caught) == 1
        left.add(tuple(after.rows()))
    assert left == {(), ((b"a", b"1"), (b"b", b"2"))}


def test_it_is_full_for_groups_and_new_rows_and_not_for_deletes() -> None:
    store = FakeStore()
    store.write({b"a": b"1"})
    store.full = True
    with pytest.raises(StoreFullError):
        store.append(1, b"one")
    with pytest.raises(StoreFullError):
        store.write({b"b": b"1"})
    store.write({}, [b"a"])
    store.full = False
    store.append(1, b"one")
    assert (numbers(store), list(store.rows())) == ([1], [])


def test_it_fails_at_the_call_it_is_told_and_on_that_side_for_good() -> None:
    store = FakeStore()
    store.fails_at = 2
    store.append(1, b"one")
    with pytest.raises(StoreFailedError):
        store.append(2, b"two")
    for call in (lambda: store.append(3, b""), lambda: numbers(store), lambda: store.drop(9)):
        with pytest.raises(StoreFailedError):
            call()
    store.write({b"a": b"1"})
    assert numbers(store.crash()) == [1]
