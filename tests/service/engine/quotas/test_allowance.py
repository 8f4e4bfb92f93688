"""A principal has as much under way as its quotas say, and is told when to come again."""

import asyncio
from itertools import pairwise

import pytest

from service.auth.principal import NOBODY, Grant, Principal, Quota, calling
from service.engine.quotas.allowance import Allowance, Allowances
from service.engine.work.flow import Flows
from service.errors import BadInputError, QuotaExceededError
from tests.service.engine.quotas.clocks import Clock


def allowance_of(clock: Clock | None = None, **quota: float) -> Allowance:
    grant = Grant(quota=Quota(**quota))  # type: ignore[arg-type]
    return Allowances(clock or Clock()).of(Principal("alice", grant))


def test_a_principal_has_one_allowance_and_nobody_has_none() -> None:
    allowances = Allowances(Clock())
    flows = Flows(allowances)
    assert calling.get() is NOBODY
    nobodys = flows.current.allowance
    token = calling.set(Principal("alice", Grant()))
    try:
        found = flows.current.allowance
        assert (nobodys, found is None) == (None, False)
        assert found is not None
        anew = Principal("alice", Grant(quota=Quota(max_generations=0)))
        assert allowances.of(anew) is found
        with pytest.raises(QuotaExceededError), found.generating():
            pass
    finally:
        calling.reset(token)


def test_without_quotas_all_is_taken_and_counted() -> None:
    own = allowance_of()
    own.charge(10_000)
    assert own.take_rows([3] * 10) == (10, [])
    assert own.take_one()
    assert own.pay(100) == 0.0
    assert own.steps == 10_131


def test_steps_that_come_too_fast_are_refused_and_told_when() -> None:
    clock = Clock()
    own = allowance_of(clock, max_steps_per_s=10)
    own.charge(10)
    with pytest.raises(QuotaExceededError, match="10 steps a second") as caught:
        own.charge(5)
    assert caught.value.metadata == {"quota": "max_steps_per_s"}
    assert caught.value.retry_after_s == pytest.approx(0.5, abs=0.002)
    assert not own.take_one()
    clock.now_s += caught.value.retry_after_s or 0.0
    own.charge(5)
    assert own.steps == 15


def test_a_quota_that_changes_holds_at_once() -> None:
    own = allowance_of(max_steps_per_s=10)
    own.charge(10)
    own.principal.grant = Grant()
    own.charge(1000)
    own.principal.grant = Grant(quota=Quota(max_pending_steps=5))
    with pytest.raises(BadInputError):
        own.charge(6)


def test_rows_of_a_frame_are_taken_as_far_as_they_may_be() -> None:
    own = allowance_of(max_steps_per_s=100, max_pending_steps=120)
    own.pending_steps = 5
    taken, errors = own.take_rows([1] * 200)
    assert taken == 100
    assert [count for count, _ in errors] == [15, 85]
    assert [error.metadata["quota"] for _, error in errors] == [
        "max_steps_per_s",
        "max_pending_steps",
    ]
    taken, errors = own.take_rows([1, 121])
    assert taken == 0
    assert [error.reason for _, error in errors] == ["QUOTA_EXCEEDED", "BAD_INPUT"]


def test_rows_that_come_too_fast_are_told_when_each_may_come() -> None:
    clock = Clock()
    own = allowance_of(clock, max_steps_per_s=100)
    taken, errors = own.take_rows([1] * 250)
    assert taken == 100
    told_s = [error.retry_after_s or 0.0 for _, error in errors]
    assert told_s == pytest.approx([1.0, 1.5], abs=0.003)
    assert [count for count, _ in errors] == [100, 50]
    for (count, _), wait_s in zip(errors, told_s, strict=True):
        clock.now_s = 1000.0 + wait_s
        assert own.take_rows([1] * count) == (count, [])


def test_a_frame_of_many_sizes_has_few_errors() -> None:
    own = allowance_of(max_steps_per_s=10)
    taken, errors = own.take_rows([1, 2] * 2000)
    assert taken < 10
    assert len(errors) < 4000
    assert sum(count for count, _ in errors) == 4000 - taken


def test_pending_steps_are_those_of_all_connections() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    own = allowances.of(Principal("alice", Grant(quota=Quota(max_pending_steps=10))))
    flows = Flows(allowances)
    one, other = flows.of("one", own), flows.of("other", own)
    assert one is not flows.of("one")
    one.charge(8)
    one.take(8)
    with pytest.raises(QuotaExceededError, match="8 steps of yours") as caught:
        other.charge(3)
    assert caught.value.retry_after_s == 0.05  # nothing is known of how soon they are answered
    with pytest.raises(BadInputError, match="in several requests"):
        other.charge(11)
    for _ in range(20):  # 4 steps a second
        clock.now_s += 1
        one.answered(4)
        one.take(4)
    waits = []
    for _ in range(3):
        with pytest.raises(QuotaExceededError) as caught:
            other.charge(4)
        waits.append(caught.value.retry_after_s)
    assert waits == pytest.approx([0.5, 1.5, 2.5], abs=0.1)
    one.answered(8)
    other.charge(10)


def test_a_principal_is_one_rival_however_many_connections_it_has() -> None:
    allowances, flows = Allowances(Clock()), None
    flows = Flows(allowances)
    own = allowances.of(Principal("alice", Grant()))
    hogs = [flows.of(str(number), own) for number in range(100)]
    for hog in hogs:
        hog.take(50)
    assert flows.active == 1
    polite = flows.of("polite", allowances.of(Principal("bob", Grant())))
    assert (polite.rivals, polite.before(1)) == (2, 2)
    newcomer = flows.of("new", own)
    assert (newcomer.rivals, newcomer.before(1)) == (1, 101)
    assert hogs[0].before(1) == 5001  # all of its principal's, and none of nobody's
    for hog in hogs:
        hog.answered(50)
    assert (flows.active, own.active, own.pending_steps) == (0, 0, 0)
    hogs[0].take(3)
    del hog, hogs[0]  # whatever is not answered by a fault is not waited for
    assert (flows.active, own.pending_steps) == (0, 0)


def test_so_many_generations_at_once() -> None:
    own = allowance_of(max_generations=1)
    with own.generating():
        more = own.generating()
        with pytest.raises(QuotaExceededError, match="1 may") as caught:
            more.__enter__()
    assert caught.value.metadata == {"quota": "max_generations"}
    with own.generating():
        pass


def test_streams_of_a_principal_that_are_refused_wait_one_after_the_other() -> None:
    clock = Clock()
    own = allowance_of(clock)
    pauses = [own.pause(100) for _ in range(3)]
    assert pauses == pytest.approx([0.003, 0.006, 0.009])
    assert own.pause(10**6) == 1.0
    clock.now_s += 5
    assert own.pause(100) == pytest.approx(0.003)


@pytest.mark.parametrize(("steps", "apart"), [(1, 1), (16, 5), (1000, 9)])
async def test_streams_of_a_principal_have_a_turn_of_the_loop_each(steps: int, apart: int) -> None:
    own, came = allowance_of(), list[tuple[int, int]]()
    turns = 0

    async def stream(number: int) -> None:
        for _ in range(3):
            await own.turn(steps)
            came.append((number, turns))

    streams = [asyncio.create_task(stream(number)) for number in range(4)]
    await asyncio.sleep(0)
    streams[2].cancel()  # while it waits: the others go on
    while not all(task.done() for task in streams):
        await asyncio.sleep(0)
        turns += 1
        assert turns < 200
    passes = [turn for _, turn in came]
    assert len(came) == 9
    assert all(later - sooner >= apart for sooner, later in pairwise(passes)), passes
