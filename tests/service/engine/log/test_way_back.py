"""Generations that are broken off, with company, checkpoints and crashes."""

import asyncio
import random
import threading
from contextlib import suppress

import numpy as np
import pytest

from service import errors
from service.engine.work.columns import SAMPLE, Outputs
from service.engine.work.sampling import Draws, Sampling
from service.engine.work.work import Fork
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on
from tests.service.engine.written import (
    SETTLES,
    WAYS,
    Client,
    Stepping,
    break_off,
    check,
    turns,
    until,
)
from tests.service.store.fake import FakeStore


class Gate(threading.Event):
    """One that says when somebody waits at it.

    Attributes:
        reached: is set then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


async def fork(house: Fakes, name: str) -> None:
    """What a forecast begins with: copies of a session."""
    session = house.find(name)
    shard = session.shard
    try:
        made = Fork(
            slots=np.array([session.slot]),
            expected=np.array([shard.require_started(session.slot, "session_id")]),
            branches=np.array([shard.on_branch(session.slot)], np.uint64),
            row_cost=3,
            outputs=SAMPLE,
            draws=Draws.repeated(Sampling(), 3),
        )
        try:
            await shard.perform(made)
            (device,) = house.runners
            assert isinstance(device, DecodingRunner)
            read = [device.tokens[slot] for slot in made.spares.tolist()]
            assert read == [read[0]] * 3
            assert [len(own) for own in read] == made.expected.tolist() * 3
        finally:
            shard.slots.return_spares(made)
    except (errors.StaleBranchError, errors.PositionMismatchError, errors.NotStartedError):
        return


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("seed", range(5))
async def test_any_moment_any_company_any_crash(seed: int, durable: bool) -> None:
    dice = random.Random(seed)
    store = FakeStore() if durable else None
    read: dict[str, list[int]] = {}
    branches: dict[str, int] = {}
    for _ in range(4):
        device = dice.choice([DecodingRunner, Stepping])
        inline_run_s = dice.choice([INLINE, WORKER])
        async with fakes_on(
            device, store=store, inline_run_s=inline_run_s, checkpoint_steps=20
        ) as house:
            house.runners[0].longest_s = 0.0003  # type: ignore[attr-defined]
            for name, tokens in read.items():
                # Under the branch before, too: whoever was cut off knows no other.
                info = await house.engine.describe(name, settle=True, branch=branches[name])
                assert info.position == len(tokens), name
            for _ in range(dice.randrange(3, 8)):
                await one_round(house, dice, read, branches)
            if store is not None and dice.random() < 0.7:
                store = store.crash(dice)
        if store is None:
            read.clear()


async def one_round(
    house: Fakes, dice: random.Random, read: dict[str, list[int]], branches: dict[str, int]
) -> None:
    names = dice.sample("abcdef", dice.randrange(1, 5))
    clients: list[tuple[Client, asyncio.Task[None]]] = []
    for name in names:
        if name not in read:
            house.open(name)
            read[name] = []
        branches[name] = (await house.engine.describe(name)).branch
        prompt = [dice.randrange(VOCABULARY) for _ in range(dice.choice([1, 1, 3, 11]))]
        if read[name] and dice.random() < 0.3:
            prompt = []
        client = Client(house=house, name=name, prompt=prompt, write_turns=dice.randrange(5))
        clients.append((client, asyncio.create_task(client.read())))
    company = [
        asyncio.create_task(fork(house, dice.choice(names))) for _ in range(dice.randrange(3))
    ]
    await turns(2 + dice.randrange(40))
    upkeep = house.engine._upkeep
    if upkeep is not None and dice.random() < 0.4:
        company.append(asyncio.create_task(upkeep.look_after()))
        await turns(dice.randrange(3))
    for client, task in clients:
        name, way = client.name, dice.choice(WAYS)
        told = await break_off(client, task, way)
        info = await house.engine.describe(name)
        before = read[name]
        read[name] = before + (client.prompt if info.position > len(before) else []) + told
        assert info.position == len(read[name]), (name, way)
        if dice.random() < 0.5:
            tokens = [dice.randrange(VOCABULARY) for _ in range(dice.choice([1, 4]))]
            steps = house.served.reader.tokens(np.array(tokens))
            result = await house.engine.step(name, steps, outputs=Outputs(raw=True))
            read[name] += tokens
            assert result.position == len(read[name])
            assert result.answers.raw is not None
            assert result.answers.raw[0, 0] == run_alone(read[name])[-1]
        with suppress(asyncio.CancelledError, ConnectionResetError, errors.CellarError):
            await task
    await asyncio.gather(*company)
    for name in names:
        if not read[name]:
            continue
        (device,) = house.runners
        assert isinstance(device, DecodingRunner)
        assert device.tokens[house.row(name)] == read[name]


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_checkpoint_on_its_way_is_not_taken_for_where_it_goes(crashes: bool) -> None:
    """It is of the branch before, with steps that the session does not keep."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=WORKER) as house:
        (device,) = house.runners
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2], write_turns=3)
        task = asyncio.create_task(client.read())
        await until(lambda: client.told)
        device.gate.clear()
        feedback = house.served.shards[0].feedback
        await until(lambda: feedback.in_flight)
        await turns(20)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        saving = asyncio.create_task(
            upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        )
        await turns(5)
        told = await break_off(client, task, "cancelled")
        # All that follows is in one group, and what was saved is written behind that.
        store.gate = threading.Event()
        house.open("b")
        await turns(5)
        device.gate.set()
        await house.settle()
        store.gate.set()
        await saving
        info = await house.engine.describe("a")
        assert info.position == 2 + len(told)
        if crashes:
            store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        again = await house.engine.describe("a")
        assert (again.position, again.branch) == (info.position, info.branch)
        await check(house, "a", [1, 2, *told])


@pytest.mark.parametrize("way", ["cancelled", *SETTLES])
async def test_pieces_that_wait_for_the_store_are_not_written_any_more(way: str) -> None:
    """The session has gone back to where they are not read."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=WORKER) as house:
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2])
        task = asyncio.create_task(client.read())
        await until(lambda: client.told)
        store.gate = gate = Gate()
        await until(gate.reached.is_set)
        await turns(50)  # what was durable before is told
        told = list(client.told)
        await until(lambda: house.position("a") > 2 + len(told))  # more is read, and waits
        leaving = asyncio.create_task(break_off(client, task, way))
        await turns(50)
        store.gate.set()
        await leaving
        with suppress(asyncio.CancelledError, ConnectionResetError, errors.CellarError):
            await task
        assert client.told == told
        info = await house.engine.describe("a")
        assert info.position == 2 + len(told)
        await check(house, "a", [1, 2, *told])
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert (await house.engine.describe("a")).position == 4 + len(told)
        await check(house, "a", [1, 2, *told, 5, 6])
