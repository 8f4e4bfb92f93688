"""What a crash may have cost: its sessions begin new branches, and say what they have kept."""

import asyncio
import random
import threading

import numpy as np
import pytest

from service import errors
from service.engine.log.keys import IN_DOUBT
from service.store.store import StoreError
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on
from tests.service.engine.log.test_restart import read
from tests.service.engine.wires import Wire
from tests.service.store.fake import FakeStore


def branch(house: Fakes, name: str) -> int:
    """The branch that a session is on."""
    return house.engine.directory.describe(name).branch


def durable(house: Fakes, name: str) -> int:
    """As far as this a session is known to be durable."""
    info, session = house.engine.directory.describe(name), house.find(name)
    found = house.engine.durable_position(session, position=info.position, branch=info.branch)
    assert found is not None
    return found


def kept(house: Fakes, name: str, claimed: int) -> int | None:
    """How much of a former branch a session has kept, as whoever asks for it is told."""
    session = house.find(name)
    with pytest.raises(errors.StaleBranchError) as caught:
        session.shard.on_branch(session.slot, claimed)
    assert (caught.value.branch, caught.value.position) == (
        branch(house, name),
        house.position(name),
    )
    return caught.value.kept


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
@pytest.mark.parametrize("ends", ["well", "crash"])
async def test_only_a_crash_that_may_have_cost_steps_begins_branches(
    durability: str, ends: str
) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability=durability) as house:
        house.open("a")
        await house.engine.settled(house.find("a"))
        await read(house, "a", 1, 2, 3)
        assert (store.row(IN_DOUBT) is not None) == (durability != "commit")
        assert durable(house, "a") == (3 if durability == "commit" else 0)
        if durability == "interval":  # a look at it waits for what it tells
            assert (await house.engine.describe("a")).position == durable(house, "a") == 3
        before = branch(house, "a")
        if ends == "crash":
            store = store.crash()
    # Whatever the next one promises, it must know what the one before did.
    async with fakes_on(DecodingRunner, store=store) as house:
        assert store.row(IN_DOUBT) is None
        is_in_doubt = ends == "crash" and durability != "commit"
        assert (branch(house, "a") != before) == is_in_doubt
        lost = is_in_doubt and durability == "none"
        assert house.position("a") == durable(house, "a") == (0 if lost else 3)
        if is_in_doubt:
            assert kept(house, "a", before) == house.position("a")
        assert kept(house, "a", before ^ 1) is None
        assert await read(house, "a", 4) == run_alone([4] if lost else [1, 2, 3, 4])[-1:]


@pytest.mark.parametrize("durability", ["interval", "none"])
@pytest.mark.parametrize("seed", range(4))
async def test_any_play_keeps_what_was_told_to_be_durable(durability: str, seed: int) -> None:
    dice, store = random.Random(seed), FakeStore()
    said: dict[str, list[int]] = {}  # what was answered
    told: dict[str, tuple[int, int]] = {}  # branch, and what was told to be durable of it
    for _ in range(6):
        inline_run_s = dice.choice([INLINE, WORKER])
        async with fakes_on(
            DecodingRunner,
            store=store,
            inline_run_s=inline_run_s,
            checkpoint_steps=5,
            durability=durability,
        ) as house:
            for name, tokens in said.items():
                at, (before, least) = house.position(name), told[name]
                assert least <= at <= len(tokens), name
                if branch(house, name) == before:
                    assert at == len(tokens), "only another branch may have lost something"
                else:
                    assert kept(house, name, before) == at
                del tokens[at:]
                assert durable(house, name) == at
            for _ in range(dice.randrange(5, 60)):
                name = dice.choice("abcdefgh")
                if name not in said:
                    house.open(name)
                    await house.engine.settled(house.find(name))
                    said[name] = []
                    continue
                what = dice.random()
                tokens = [dice.randrange(VOCABULARY) for _ in range(dice.choice([1, 1, 2, 9]))]
                if what < 0.05:
                    await house.engine.reset(name)
                    said[name] = []
                elif what < 0.1:
                    await house.engine.close(name)
                    del said[name]
                elif what < 0.2:
                    await asyncio.sleep(0.03)
                elif what < 0.25:
                    upkeep = house.engine._upkeep
                    assert upkeep is not None
                    await upkeep.look_after()
                else:
                    expected = run_alone(said[name] + tokens)[-len(tokens) :]
                    assert await read(house, name, *tokens) == expected
                    said[name] += tokens
            told = {name: (branch(house, name), durable(house, name)) for name in said}
            if dice.random() < 0.8:
                store = store.crash(dice)


async def test_what_is_durable_is_told_though_a_session_never_rests() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        house.open("a")
        await house.engine.settled(house.find("a"))
        assert house.engine.log is not None
        found, position = [0], 0
        while len(found) < 4:
            assert position < 50_000, "it goes on"
            await read(house, "a", 1)
            position, told = position + 1, durable(house, "a")
            assert found[-1] <= told <= position
            if found[-1] != told:
                found.append(told)
            if position % 10 == 0:
                await asyncio.sleep(0.002)
        # One that waits for the disk says what was durable before.
        store.gate = threading.Event()
        await asyncio.sleep(0.1)
        before = durable(house, "a")
        for _ in range(10):
            await read(house, "a", 1)
        await asyncio.sleep(0.1)
        assert durable(house, "a") == before < house.position("a")
        store.gate.set()
        await house.engine.log.flush()
        assert durable(house, "a") == house.position("a")
        old = branch(house, "a")
        await house.engine.reset("a")
        log = house.find("a").shard.log
        assert log is not None
        assert log.durable_position(house.find("a").slot, position=5, branch=old) == 0


@pytest.mark.parametrize("checkpoint", [False, True])
async def test_a_session_comes_through_many_crashes(checkpoint: bool) -> None:
    store, tokens, branches = FakeStore(), list[int](), list[int]()
    for life in range(12):
        async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
            if not life:
                house.open("a")
            assert house.position("a") == len(tokens)
            stops = [kept(house, "a", former) for former in branches]
            # All but the latest few are forgotten: of these nothing is said.
            assert stops == [2 * n + 2 if n >= life - 8 else None for n in range(life)]
            await read(house, "a", life, 1)
            tokens += [life, 1]
            branches.append(branch(house, "a"))
            if checkpoint:
                await house.engine.barrier("a")
                upkeep = house.engine._upkeep
                assert upkeep is not None
                await upkeep.checkpoints.save(
                    house.served.shards[0], np.array([house.find("a").slot])
                )
                await upkeep.look_after()
            await house.engine.describe("a")  # is durable then
            store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 5) == run_alone([*tokens, 5])[-1:]
        now = branch(house, "a")
        await house.engine.reset("a")
        assert kept(house, "a", now) is None, "it was no crash"
    async with fakes_on(DecodingRunner, store=store) as house:
        assert kept(house, "a", branches[-1]) is None


async def test_starts_in_a_row_are_not_counted_twice() -> None:
    """However short the lives of servers are, a client that comes back is told what was kept."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        house.open("a")
        house.open("ended")
        await read(house, "a", 1, 2, 3)
        known = branch(house, "a")
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await house.engine.settled(house.find("a"))
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        await house.engine.close("ended")
        await house.engine.settled(house.find("a"))
        store = store.crash()
    for _ in range(7):
        async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
            assert kept(house, "a", known) == 3
            assert list(house.engine.directory.sessions) == ["a"]
            store = store.crash()


@pytest.mark.parametrize("fails_at", [1, 2, 3])
async def test_a_start_that_fails_is_made_again(fails_at: int) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        for name in "ab":
            house.open(name)
            await read(house, name, 1, 2)
            await house.engine.describe(name)
        before = branch(house, "a")
        store = store.crash()
    store.fails_at = fails_at  # the group, the rows, the mark
    with pytest.raises(StoreError):
        async with fakes_on(DecodingRunner, store=store, durability="interval"):
            raise AssertionError("it was not to start")
    store = store.crash(random.Random(fails_at))
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        assert branch(house, "a") != before
        assert kept(house, "a", before) == 2
        assert house.engine.log is not None
        row = house.engine.log.find(1)
        assert row is not None
        past = row.past
        assert len(dict(past)) == len(past), "no crash is counted twice"
        assert await read(house, "a", 3) == run_alone([1, 2, 3])[-1:]
        assert await read(house, "b", 3) == run_alone([1, 2, 3])[-1:]


async def test_a_failed_run_is_restored_after_a_crash() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        house.open("a")
        await read(house, "a", 1, 2)
        await house.engine.describe("a")
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        await read(house, "a", 3)
        (device,) = house.runners
        wire = await Wire(house).attach("a")
        device.fail_next = True
        failed = wire.frame({0: ([5], 3)})
        await house.settle()
        await house.engine.drain()
        house.engine.draining = False
        assert isinstance(failed[0].refusal, errors.StoreUnavailableError)
        assert await read(house, "a", 5, position=3) == run_alone([1, 2, 3, 5])[-1:]
        wire.stream.end()


async def test_a_drain_without_time_is_no_crash() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability="interval") as house:
        house.open("a")
        await read(house, "a", 1, 2)
        before = branch(house, "a")
        await house.engine.drain()
        assert not await house.engine.settle_store(-1.0)
        assert store.row(IN_DOUBT) is None
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, durability="none") as house:
        assert branch(house, "a") == before
        await read(house, "a", 3)
        await house.engine.drain()
        assert not await house.engine.settle_store(-1.0)
        assert store.row(IN_DOUBT) is not None, "what has no checkpoint is nowhere"
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert branch(house, "a") != before
        assert house.position("a") == 2
