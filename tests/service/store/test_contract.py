"""What every store does, the one in memory as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.store.embedded import LmdbStore
from service.store.store import Store, StoreError
from tests.service.store.fake import FakeStore


def lmdb_store(path: Path) -> Store:
    return LmdbStore.open(path / "store", ballast=1 << 20)


def fake_store(path: Path) -> Store:
    return FakeStore()


@pytest.fixture(params=[lmdb_store, fake_store], ids=["lmdb", "fake"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    make: Callable[[Path], Store] = request.param
    made = make(tmp_path)
    yield made
    made.close()


def numbers(store: Store, first: int = 0) -> list[int]:
    return [number for number, _ in store.groups(first)]


def test_groups_come_back_in_order_from_any_number_on(store: Store) -> None:
    # 255 to 257: the order is that of numbers, not that of bytes as they happen to lie.
    kept = {number: b"%d" % number for number in (0, 1, 2, 255, 256, 257, 2**40, 2**64 - 1)}
    for number, group in kept.items():
        store.append(number, group)
    assert list(store.groups()) == list(kept.items())
    assert numbers(store, 2) == [2, 255, 256, 257, 2**40, 2**64 - 1]
    assert numbers(store, 258) == [2**40, 2**64 - 1]


@pytest.mark.parametrize("number", [-1, 3, 5, 2**64])
def test_a_number_that_does_not_ascend_is_refused(store: Store, number: int) -> None:
    store.append(5, b"five")
    with pytest.raises(ValueError, match=str(number)):
        store.append(number, b"again")
    assert list(store.groups()) == [(5, b"five")]


def test_what_is_dropped_is_gone_and_the_rest_is_not(store: Store) -> None:
    for number in range(0, 3000, 100):
        store.append(number, bytes(10))
    store.drop(0)
    assert len(numbers(store)) == 30
    store.drop(1001)
    assert numbers(store) == list(range(1100, 3000, 100))
    store.drop(10**9)
    assert numbers(store) == []
    store.append(3000, b"next")
    assert numbers(store) == [3000]


def test_rows_are_set_and_deleted_together(store: Store) -> None:
    store.write({b"sa": b"1", b"sb": b"", b"ca": b"3"})
    store.write({b"sa": b"4", b"x": b"5"}, [b"sb", b"x", b"never there"])
    assert list(store.rows()) == [(b"ca", b"3"), (b"sa", b"4"), (b"x", b"5")]
    assert list(store.rows(b"s")) == [(b"sa", b"4")]
    assert (store.row(b"sa"), store.row(b"sb"), store.row(b"")) == (b"4", None, None)
    assert store.rows_at([b"x", b"sb", b"ca", b"x", b""]) == [b"5", None, b"3", b"5", None]
    assert store.rows_at([]) == []


def test_a_prefix_of_high_bytes_is_a_prefix(store: Store) -> None:
    store.write({b"\xff": b"1", b"\xff\xff": b"2", b"\xfe": b"3"})
    assert list(store.rows(b"\xff")) == [(b"\xff", b"1"), (b"\xff\xff", b"2")]


@pytest.mark.parametrize("key", [b"", bytes(512)])
def test_a_key_of_a_wrong_length_is_refused_and_nothing_is_written(
    store: Store, key: bytes
) -> None:
    with pytest.raises(ValueError, match="1 to 511 bytes"):
        store.write({b"good": b"1", key: b"2"})
    with pytest.raises(ValueError, match="1 to 511 bytes"):
        store.write({b"good": b"1"}, [key])
    assert list(store.rows()) == []


def test_it_tells_how_much_it_holds(store: Store) -> None:
    assert (store.journal_bytes, store.table_bytes) == (0, 0)
    store.append(1, bytes(100_000))
    store.write({b"key": bytes(50_000)})
    assert 100_000 <= store.journal_bytes < 110_000
    assert 50_000 <= store.table_bytes < 60_000
    store.drop(2)
    store.write({}, [b"key"])
    assert (store.journal_bytes, store.table_bytes) == (0, 0)


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.append(1, b""),
        lambda: store.drop(1),
        lambda: list(store.groups()),
        lambda: store.write({b"a": b"b"}),
        lambda: list(store.rows()),
        lambda: store.row(b"a"),
        lambda: store.rows_at([b"a"]),
    ):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_groups_may_be_dropped_while_they_are_read(store: Store) -> None:
    for number in range(5):
        store.append(number, bytes(600_000))
    seen = []
    for number, _ in store.groups():
        seen.append(number)
        store.drop(number)
    assert seen == list(range(5))


KEYS = st.binary(min_size=1, max_size=2)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.dictionaries(KEYS, st.binary(max_size=9)), st.lists(KEYS))))
def test_rows_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[dict[bytes, bytes], list[bytes]]]
) -> None:
    store, rows = lmdb_store(tmp_path_factory.mktemp("rows")), dict[bytes, bytes]()
    for puts, deletes in changes:
        store.write(puts, deletes)
        rows = {key: value for key, value in rows.items() if key not in deletes} | puts
    assert list(store.rows()) == sorted(rows.items())
    store.close()
