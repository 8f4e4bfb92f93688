"""What sessions keep of what they read: how far back, in how much memory, and in which files."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from service import errors
from service.engine.calls import generate as generate_
from service.engine.calls import way_back
from service.engine.calls.generate import generate
from service.engine.log import chronicle
from service.engine.log.chronicle import ALL, Chronicle
from service.engine.log.keys import HISTORY
from service.engine.log.seeds import Seed
from service.engine.shard.history.chronicles import Chronicles
from service.engine.shard.restoring.returns import Return, Returns
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from service.engine.work.work import Piece
from service.store.embedded import LmdbStore
from tests.service.engine.fakes import VOCABULARY, CutsRunner, DecodingRunner, run_alone
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.engine.log.test_rewinds import Play
from tests.service.engine.written import Client, break_off, check, until
from tests.service.store.fake import FakeStore

RAW = Outputs(raw=True)


@pytest.fixture(autouse=True)
def _short_parts() -> Iterator[None]:
    with patch.object(chronicle, "BASE_STEPS", 8):
        yield


async def read(house: Fakes, name: str, tokens: list[int], *, at_once: int = 4) -> None:
    for start in range(0, len(tokens), at_once):
        steps = house.served.reader.tokens(np.array(tokens[start : start + at_once]))
        await house.engine.step(name, steps, outputs=RAW)


def some(count: int) -> list[int]:
    dice = random.Random(count)
    return [dice.randrange(VOCABULARY) for _ in range(count)]


async def test_it_keeps_what_was_promised_and_lets_go_of_the_rest() -> None:
    async with fakes_on(DecodingRunner) as house:
        house.engine.open(house.served, "a", history_steps=10)
        tokens = some(80)
        for count in range(4, 81, 4):
            await read(house, "a", tokens[count - 4 : count])
            info = await house.engine.describe("a")
            assert info.history_position is not None
            assert count - 10 - 2 * 12 <= info.history_position <= max(0, count - 10)
        first = info.history_position
        assert first
        with pytest.raises(errors.HistoryMissingError) as missing:
            await house.engine.rewind("a", first - 1)
        assert missing.value.history_position == first
        assert (await house.engine.describe("a")).branch == info.branch
        back = await house.engine.rewind("a", first)
        assert (back.position, back.history_position) == (first, first)
        await check(house, "a", tokens[:first])


async def test_without_a_history_it_says_so() -> None:
    async with fakes_on(DecodingRunner) as house:
        house.open("a")
        await read(house, "a", some(9))
        info = await house.engine.describe("a")
        assert info.history_position is None
        with pytest.raises(errors.HistoryMissingError, match="history_steps") as missing:
            await house.engine.rewind("a", 8)
        assert missing.value.history_position is None
        with pytest.raises(errors.BadInputError, match="ahead of the session, which is at 9"):
            await house.engine.rewind("a", 10)
        assert (await house.engine.describe("a")).branch == info.branch


async def test_the_setting_stands_for_those_who_say_nothing() -> None:
    async with fakes_on(DecodingRunner, history_steps=100) as house:
        house.open("a")
        house.engine.open(house.served, "b", history_steps=0)
        assert (await house.engine.describe("a")).history_position == 0
        assert (await house.engine.describe("b")).history_position is None


async def test_it_waits_for_what_was_sent_before_and_refuses_what_is_for_the_branch() -> None:
    async with fakes_on(DecodingRunner) as house:
        (device,) = house.runners
        house.engine.open(house.served, "a", history_steps=ALL)
        await read(house, "a", [1, 2, 3])
        before = await house.engine.describe("a")
        step = house.served.reader.tokens(np.array([4]))
        first = house.engine.step("a", step, outputs=RAW)
        rewind = asyncio.create_task(house.engine.rewind("a", 4))
        await asyncio.sleep(0)
        late = house.engine.step("a", step, outputs=RAW, branch=before.branch)
        assert (await first).position == 4
        back = await rewind
        assert back.position == 4
        assert back.branch != before.branch
        with pytest.raises(errors.StaleBranchError):
            await late
        # Whoever was cut off knows no other branch.
        again = await house.engine.rewind("a", 2, branch=before.branch)
        assert again.position == 2
        assert device.fail_next is False
        await check(house, "a", [1, 2])


async def test_one_behind_another() -> None:
    async with fakes_on(DecodingRunner) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        tokens = some(30)
        await read(house, "a", tokens)
        done = await asyncio.gather(
            house.engine.rewind("a", 25),
            house.engine.rewind("a", 11),
            house.engine.rewind("a", 12),
            house.engine.rewind("a", 7),
            return_exceptions=True,
        )
        assert isinstance(done[2], errors.BadInputError)
        assert len({own.branch for own in done if not isinstance(own, BaseException)}) == 3
        await check(house, "a", tokens[:7])


@pytest.mark.parametrize("durable", [False, True])
async def test_a_fold_that_fails_is_made_good(durable: bool) -> None:
    store = FakeStore() if durable else None
    async with fakes_on(DecodingRunner, store=store) as house:
        (device,) = house.runners
        house.engine.open(house.served, "a", history_steps=ALL)
        tokens = some(30)
        await read(house, "a", tokens)
        before = (await house.engine.describe("a")).branch
        device.fail_next = True
        await house.engine.rewind("a", 22)
        await asyncio.wait_for(house.settle(), 5)
        await until(lambda: not house.find("a").shard.table.restoring.any())
        info = await house.engine.describe("a")
        assert info.branch != before
        await check(house, "a", tokens[:22])


async def test_the_bound_on_memory() -> None:
    async with fakes_on(DecodingRunner, history_memory=2000) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        house.open("free")
        read_some = 0
        while read_some < 4000:
            try:
                await read(house, "a", [1, 2, 3, 4])
            except errors.OverloadedError as full:
                assert "--history-memory" in str(full)  # noqa: PT017
                break
            read_some += 4
        memory = house.find("a").shard.chronicles.memory
        assert 2000 <= memory.used < 2200
        assert read_some > 100
        info = await house.engine.describe("a")
        assert (info.position, info.history_position) == (read_some, 0)
        with pytest.raises(errors.OverloadedError):
            house.engine.open(house.served, "b", history_steps=1)
        with pytest.raises(errors.OverloadedError):
            await house.engine.step(
                "a", house.served.reader.tokens(np.array([1])), outputs=RAW, position=read_some
            )
        await read(house, "free", [1])
        # What was promised is there, and gives room when it is left.
        await house.engine.rewind("a", 6)
        await check(house, "a", [1, 2, 3, 4, 1, 2])
        house.engine.open(house.served, "b", history_steps=1)
        await house.engine.close("a")
        await house.engine.close("b")
        assert memory.used == 0


@pytest.mark.parametrize("way", ["ended", "cancelled"])
async def test_a_generation_can_be_rewound_within_without_a_history(way: str) -> None:
    async with fakes_on(DecodingRunner) as house:
        house.open("a")
        most = 40 if way == "ended" else 10_000
        client = Client(house=house, name="a", prompt=[1, 2, 3], most=most, write_turns=1)
        task = asyncio.create_task(client.read())
        if way == "cancelled":
            await until(lambda: len(client.told) > 20)
            await break_off(client, task, way)
        else:
            await task
        told = client.told
        info = await house.engine.describe("a", settle=True)
        assert (info.position, info.history_position) == (3 + len(told), None)
        back = await house.engine.rewind("a", 3 + 7, branch=info.branch)
        assert back.position == 10
        with pytest.raises(errors.HistoryMissingError):
            await house.engine.rewind("a", 2)
        await check(house, "a", [1, 2, 3, *told[:7]])
        with pytest.raises(errors.HistoryMissingError):  # it has read something since
            await house.engine.rewind("a", 10)


@pytest.mark.parametrize("device", [DecodingRunner, CutsRunner])
async def test_so_many_of_its_steps_at_least(device: type[DecodingRunner]) -> None:
    with patch.object(way_back, "BASE_STEPS", 16), patch.object(generate_, "BASE_STEPS", 16):
        for most in (3, 15, 16, 17, 31, 40, 90):
            async with fakes_on(device) as house:
                house.open("a")
                client = Client(house=house, name="a", prompt=[1, 2, 3], most=most, write_turns=1)
                await client.read()
                (runner,) = house.runners
                assert isinstance(runner, DecodingRunner)
                told = list(runner.tokens[house.find("a").slot])
                for back in (1, min(most, 9), min(most, 16)):
                    position = 3 + most - back
                    await house.engine.rewind("a", position, generated=True)
                    assert (await house.engine.barrier("a")) == position
                    assert runner.tokens[house.find("a").slot] == told[:position]


async def test_old_generations_are_forgotten_first() -> None:
    async with fakes_on(DecodingRunner, history_memory=8 * 5000) as house:
        for name in "abcdef":
            house.open(name)
            pieces = generate(
                house.engine,
                name,
                prompt=house.served.reader.tokens(np.array([1])),
                max_steps=100,
                sampling=Sampling(seed=1),
            )
            assert [piece async for piece in pieces]
        found = []
        for name in "abcdef":
            try:
                await house.engine.rewind(name, 50)
                found.append(name)
            except errors.HistoryMissingError:
                pass
        assert found == ["d", "e", "f"][-len(found) :]
        assert found


async def test_it_is_in_the_table_for_as_long_as_the_session(tmp_path: Path) -> None:
    tokens = some(50)
    store = LmdbStore.open(tmp_path / "store")
    async with fakes_on(DecodingRunner, store=store) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        house.engine.open(house.served, "b", history_steps=ALL)
        await read(house, "a", tokens)
        await read(house, "b", tokens)
    store.close()
    store = LmdbStore.open(tmp_path / "store")
    assert len(list(store.rows(HISTORY))) > 8
    async with fakes_on(DecodingRunner, store=store) as house:
        await house.engine.rewind("a", 33)
        await check(house, "a", tokens[:33])
        await house.engine.close("b")
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.look_after()
        assert {name[1:9] for name, _ in store.rows(HISTORY)} == {(1).to_bytes(8, "big")}
        await house.engine.reset("a")
        await upkeep.look_after()
        assert not list(store.rows(HISTORY))
    store.close()


async def test_parts_of_a_branch_that_was_left_go() -> None:
    """And what is found of them after a crash is not taken for the session's."""
    store = FakeStore()
    first, second = some(50), some(41)
    async with fakes_on(DecodingRunner, store=store) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        await read(house, "a", first)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        await house.engine.rewind("a", 11)
        await read(house, "a", second)
        crashed = store.crash()
    async with fakes_on(DecodingRunner, store=crashed) as house:
        for position in (45, 30, 12, 11, 3):
            await house.engine.rewind("a", position)
            expected = [*first[:11], *second][:position]
            assert house.runners[0].tokens[house.find("a").slot] == expected  # type: ignore[attr-defined]
            assert house.state("a") == run_alone(expected)[-1]


async def test_what_was_let_go_of_is_not_taken_from_a_branch_that_was_left() -> None:
    """It is in the table as it was on that, when the process ends."""
    store = FakeStore()
    first, second = some(16), some(22)
    async with fakes_on(DecodingRunner, store=store, checkpoint_steps=1000) as house:
        house.engine.open(house.served, "a", history_steps=9)
        await read(house, "a", first)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        await house.engine.rewind("a", 12)
        await read(house, "a", second)
        await house.engine.rewind("a", 33)
        info = await house.engine.describe("a")
        assert info.history_position == 16
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        again = await house.engine.describe("a")
        assert again.history_position == 16
        await house.engine.rewind("a", 18)
        await check(house, "a", [*first[:12], *second][:18])


async def test_a_damaged_part_costs_what_was_before_it() -> None:
    store, tokens = FakeStore(), some(50)
    async with fakes_on(DecodingRunner, store=store) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        await read(house, "a", tokens)
    parts = list(store.rows(HISTORY))
    name, value = parts[len(parts) // 2]
    store.write({name: value[:-9] + bytes(9)})
    async with fakes_on(DecodingRunner, store=store) as house:
        info = await house.engine.describe("a")
        assert info.position == 50
        assert info.history_position
        assert info.history_position > int.from_bytes(name[9:], "big")
        await house.engine.rewind("a", info.history_position + 1)
        await check(house, "a", tokens[: info.history_position + 1])


# -- faults that the play of any order has to find ----------------------------------------


def is_found(plays: int, *, durable: bool) -> bool:
    """Whether one of some plays comes upon something that is not as it should be."""
    for seed in range(plays):
        play = Play(random.Random(seed), DecodingRunner, durable)
        try:
            asyncio.run(asyncio.wait_for(play.lives(), 30))
        except (AssertionError, errors.CellarError):
            return True
    return False


def moves_the_position_only(returns: Returns, own: Return) -> None:
    table = returns._table
    own.branch = table.go_back(own.slot, own.position)
    table.returning[own.slot] = False
    table.position[own.slot] = own.position


def begins_at_the_base(returns: Returns, own: Return) -> None:
    whole = Return(slot=own.slot, seed=own.seed, tail=own.tail.first(len(own.tail.inputs) // 2))
    own.branch = returns._table.go_back(own.slot, own.position)
    returns._put(whole, returns._works(whole))


@pytest.mark.parametrize("fault", [moves_the_position_only, begins_at_the_base])
def test_a_planted_fault_is_found(fault: object) -> None:
    with patch.object(Returns, "go", fault):
        assert is_found(20, durable=False)


def test_a_log_that_is_told_of_the_last_part_alone_is_found() -> None:
    with patch.object(Chronicles, "not_there", lambda _self, _slot, seed, tail: (seed, tail, 0)):
        assert is_found(40, durable=True)


# -- the columns --------------------------------------------------------------------------


def seed_at(position: int) -> Seed:
    return Seed(branch=0, position=position, last_steps=1, content=0, states=[np.zeros(1, "f4")])


@pytest.mark.parametrize("width", [0, 3])
def test_columns_of_any_cuts(width: int) -> None:
    dice = random.Random(width)
    for _ in range(300):
        own = Chronicle(ALL, width)
        own.begin(seed_at(4))
        steps: list[tuple[int, int, int]] = []  # the step, its bucket, its run's time steps
        for _ in range(dice.randrange(1, 20)):
            at = 4 + len(steps)
            what = dice.choice(["read", "read", "base", "cut"])
            if what == "read":
                count = dice.randrange(1, 6)
                cuts = sorted({*dice.sample(range(1, count + 1), dice.randrange(count)), count})
                pieces = [Piece(stop, 1 << dice.randrange(3), dice.choice([0, 4])) for stop in cuts]
                new = [dice.randrange(99) for _ in range(count)]
                inputs = np.array(new)
                if width:
                    inputs = np.repeat(inputs[:, None], width, 1).astype(np.float32)
                own.read(at, inputs, pieces)
                start = 0
                for piece in pieces:
                    ran = piece.bucket, piece.run_steps
                    steps += [(step, *ran) for step in new[start : piece.stop]]
                    start = piece.stop
            elif what == "base":
                own.add(seed_at(at))
            else:
                to = dice.randint(4, at)
                assert own.cut(to)
                del steps[to - 4 :]
            assert own.end == 4 + len(steps)
        position = dice.randint(4, own.end)
        found = own.back_to(position)
        assert found is not None
        base, tail = found
        flat = tail.inputs[:, 0] if width else tail.inputs
        runs = [np.repeat(column, tail.steps) for column in (tail.buckets, tail.run_steps)]
        told = list(zip(flat.astype(int).tolist(), *(run.tolist() for run in runs), strict=True))
        assert told == steps[base.position - 4 : position - 4]
        assert own.back_to(3) is None
        assert own.back_to(own.end + 1) is None
