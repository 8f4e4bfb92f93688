"""What callers have the server hold: the one who holds most is refused first."""

import weakref

import pytest

from service.auth.principal import Grant, Principal, Quota
from service.engine.quotas.allowance import Allowance, Allowances
from service.engine.work.flow import caller
from service.engine.work.memory import Account, BufferMemory, Held
from service.errors import BadInputError, CellarError, OverloadedError, QuotaExceededError

LIMIT = 1000


def account_of(memory: BufferMemory, name: str, cuts: list[str] | None = None) -> Account:
    token = caller.set(lambda: name)
    try:
        if cuts is None:
            return memory.account()

        def cut(error: CellarError) -> None:
            assert error.retry_after_s is not None
            cuts.append(name)

        return memory.account(cut)
    finally:
        caller.reset(token)


def test_all_that_was_taken_is_given_back() -> None:
    memory = BufferMemory(LIMIT)
    one, other = account_of(memory, "a"), account_of(memory, "a")
    one.take(Held.STREAM, 100)
    one.take(Held.CHANNELS, 50)
    other.take(Held.REQUEST, 70)
    one.give(Held.STREAM, 30)
    assert (memory.used, memory.by_kind[Held.STREAM], one.held) == (190, 70, 120)
    one.close()
    one.give(Held.STREAM, 70)  # late, and counted already
    other.close()
    assert memory.used == 0
    assert not any(memory.by_kind.values())


def test_one_caller_holds_a_half_at_most_however_many_streams_it_has() -> None:
    memory = BufferMemory(LIMIT)
    for _ in range(5):
        account_of(memory, "hoarder").take(Held.STREAM, 100)
    with pytest.raises(OverloadedError, match="share"):
        account_of(memory, "hoarder").take(Held.STREAM, 1)
    account_of(memory, "neighbour").take(Held.STREAM, 100)


def test_the_stream_that_holds_most_ends_where_a_neighbour_needs_room() -> None:
    memory, cuts = BufferMemory(LIMIT), list[str]()
    for name, size in (("a", 300), ("b", 400), ("c", 300)):
        account_of(memory, name, cuts).take(Held.STREAM, size)
    small = account_of(memory, "small")
    small.take(Held.REQUEST, 10)
    assert cuts == ["b"]
    assert memory.used == 610


def test_whoever_holds_most_is_refused_and_ends_nobody() -> None:
    memory, cuts = BufferMemory(LIMIT), list[str]()
    for name in ("a", "b", "c"):
        account_of(memory, name, cuts).take(Held.STREAM, 250)
    greedy = account_of(memory, "greedy")
    with pytest.raises(OverloadedError, match="the limit is 1,000"):
        greedy.take(Held.REQUEST, 300)
    assert not cuts
    assert memory.used == 750


def test_whoever_holds_most_in_requests_alone_does_not_save_a_stream_that_holds_much() -> None:
    memory, cuts = BufferMemory(LIMIT), list[str]()
    account_of(memory, "requests").take(Held.REQUEST, 450)
    account_of(memory, "requests", cuts)  # its stream holds nothing
    account_of(memory, "streams", cuts).take(Held.STREAM, 400)
    account_of(memory, "small").take(Held.REQUEST, 200)
    assert cuts == ["streams"]


def test_what_never_fits_is_not_to_be_tried_again() -> None:
    memory = BufferMemory(LIMIT)
    with pytest.raises(BadInputError, match="hold 501 bytes at once") as caught:
        account_of(memory, "a").take(Held.REQUEST, 501)
    assert caught.value.retry_after_s is None
    account_of(memory, "a").take(Held.REQUEST, 500)


class Kept:
    """Replies that are kept for repetitions."""

    def __init__(self, memory: BufferMemory, *sizes: int) -> None:
        self.memory = memory
        self.sizes = list(sizes)
        memory.count(Held.HISTORY, sum(sizes))
        memory.add_reclaim(self.forget)

    def forget(self) -> bool:
        if not self.sizes:
            return False
        self.memory.count(Held.HISTORY, -self.sizes.pop())
        return True


def test_what_is_kept_for_repetitions_goes_first() -> None:
    memory, cuts = BufferMemory(LIMIT), list[str]()
    kept = Kept(memory, 200, 200)
    account_of(memory, "a", cuts).take(Held.STREAM, 500)
    account_of(memory, "b").take(Held.REQUEST, 200)
    assert (kept.sizes, cuts, memory.used) == ([200], [], 900)


def test_whoever_kept_something_is_not_kept_for_that() -> None:
    memory = BufferMemory(LIMIT)
    gone = weakref.ref(Kept(memory, 0))
    assert gone() is None
    assert not memory.reclaim()


def test_bytes_that_are_held_for_a_while_are_given_back_whatever_happens() -> None:
    memory = BufferMemory(LIMIT)

    def fail() -> None:
        with memory.holding(Held.REQUEST, 500):
            assert memory.used == 500
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert memory.used == 0


def principals_account(
    memory: BufferMemory, own: Allowance, connection: str, cuts: list[str] | None = None
) -> Account:
    cut = None if cuts is None else lambda _: cuts.append(connection)
    return memory.account(cut, who=(connection, own))


def allowance_of(name: str, **quota: int) -> Allowance:
    return Allowances().of(Principal(name, Grant(quota=Quota(**quota))))


def test_a_principal_holds_a_half_on_all_connections_and_a_quarter_on_one() -> None:
    memory, own = BufferMemory(LIMIT), allowance_of("alice")
    with pytest.raises(BadInputError, match="a quarter of --buffer-memory"):
        principals_account(memory, own, "a").take(Held.STREAM, 251)
    one = principals_account(memory, own, "a")
    one.take(Held.STREAM, 250)
    principals_account(memory, own, "b").take(Held.STREAM, 200)
    with pytest.raises(OverloadedError, match="on all your connections"):
        principals_account(memory, own, "c").take(Held.STREAM, 60)
    principals_account(memory, allowance_of("bob"), "a").take(Held.STREAM, 250)
    one.close()
    assert own.held_bytes == 200
    principals_account(memory, own, "c").take(Held.STREAM, 60)


def test_a_principal_holds_no_more_than_its_quota() -> None:
    memory, own = BufferMemory(LIMIT), allowance_of("alice", max_waiting_bytes=100)
    principals_account(memory, own, "a").take(Held.STREAM, 60)
    with pytest.raises(QuotaExceededError) as caught:
        principals_account(memory, own, "b").take(Held.STREAM, 60)
    assert caught.value.metadata == {"quota": "max_waiting_bytes"}
    with pytest.raises(BadInputError, match="you may have it hold 100"):
        principals_account(memory, own, "b").take(Held.STREAM, 101)
    assert memory.used == own.held_bytes == 60


def test_the_principal_that_holds_most_loses_its_largest_stream() -> None:
    """Its connections count together, though each holds less than another's."""
    memory, cuts = BufferMemory(LIMIT), list[str]()
    many, other = allowance_of("many"), allowance_of("other")
    for name, size in (("m1", 100), ("m2", 150), ("m3", 200)):
        principals_account(memory, many, name, cuts).take(Held.STREAM, size)
    principals_account(memory, other, "o1", cuts).take(Held.STREAM, 250)
    principals_account(memory, other, "o2", cuts).take(Held.STREAM, 100)
    small = allowance_of("small")
    principals_account(memory, small, "s").take(Held.REQUEST, 220)
    assert cuts == ["m3"]
    assert many.held_bytes == 250
