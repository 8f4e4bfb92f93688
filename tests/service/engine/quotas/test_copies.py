"""Copies count as steps, and one principal's histories leave room for others'."""

from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from service.engine.calls.copies.fork import fork
from service.engine.calls.generate import generate
from service.engine.calls.snapshots.exporting import export, import_session
from service.engine.log.chronicle import ALL
from service.engine.work.sampling import Sampling
from service.errors import CellarError, OverloadedError, QuotaExceededError
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.engine.lives.lives import PaddedRunner
from tests.service.engine.quotas.clocks import Clock
from tests.service.engine.quotas.test_engine import allowance_of, called_by, principal
from tests.service.engine.wires import ask

ALICE, BOB = principal("alice"), principal("bob")
SLOW = principal("slow", max_steps_per_s=4)


async def forked(house: Fakes, data: bytes) -> None:
    del data
    await fork(house.engine, "a", "copy")
    await house.engine.close("copy")


async def exported(house: Fakes, data: bytes) -> None:
    del data
    await export(house.engine, "a")


async def imported(house: Fakes, data: bytes) -> None:
    await import_session(house.engine, data, "copy")
    await house.engine.close("copy")


async def imported_badly(house: Fakes, data: bytes) -> None:
    with pytest.raises(CellarError, match="snapshot"):
        await import_session(house.engine, data[:-1], "copy")


@pytest.mark.parametrize("copied", [forked, exported, imported, imported_badly])
async def test_a_copy_counts_as_a_step(copied: Callable[[Fakes, bytes], Awaitable[None]]) -> None:
    clock = Clock()
    async with fakes_on(PaddedRunner, max_open_sessions=8) as house:
        with called_by(SLOW):
            own = allowance_of(house, SLOW, clock)
            house.open("a")
            ask(house, "a", [1, 2], 0)
            await house.settle()
            clock.now_s += 1.0
            data = (await export(house.engine, "a")).data
            steps = own.steps
            for _ in range(3):
                await copied(house, data)
            assert own.steps == steps + 3
            with pytest.raises(QuotaExceededError) as refused:
                await (exported if copied is imported_badly else copied)(house, data)
            assert refused.value.metadata["quota"] == "max_steps_per_s"
            with pytest.raises(QuotaExceededError) as step:
                ask(house, "a", [1], 2)
            assert step.value.metadata == refused.value.metadata
            assert str(step.value).split(":")[0] == str(refused.value).split(":")[0]
            assert list(house.engine.directory.sessions) == ["a"]
            assert own.steps == steps + 3
            clock.now_s += 2.0  # the places of both are given up
            await copied(house, data)
        with called_by(BOB):
            house.open("b")
            await fork(house.engine, "b")


async def test_one_principals_histories_leave_room_for_others() -> None:
    async with fakes_on(PaddedRunner, history_memory=8000, max_open_sessions=8) as house:
        memory = house.served.shards[0].chronicles.memory
        for who in (ALICE, BOB):
            with called_by(who):
                house.engine.open(house.served, "s", history_steps=ALL)
                house.open("free")
        with called_by(ALICE):
            read = 0
            while not memory.full_owners:
                ask(house, "s", [1, 2, 3, 4], read)
                await house.settle()
                read += 4
            assert 4000 <= memory.used_by(house.find("s").shard.slots.owners.item(0)) < 4200
            row, _ = ask(house, "s", [5], read)
            free, _ = ask(house, "free", [5], 0)
            await house.settle()
            assert isinstance(row.refusal, OverloadedError)
            assert free.reply[0] == 1
            with pytest.raises(OverloadedError):
                house.engine.open(house.served, "t", history_steps=1)
        with called_by(BOB):
            for position in range(20):
                row, _ = ask(house, "s", [5], position)
                await house.settle()
                assert row.reply[0] == position + 1
            house.engine.open(house.served, "t", history_steps=1)
        with called_by(ALICE):
            await house.engine.reset("s")
            row, _ = ask(house, "s", [5], 0)
            await house.settle()
            assert row.reply[0] == 1
            await house.engine.close("s")
        with called_by(BOB):
            await house.engine.close("s")
            await house.engine.close("t")
        assert memory.used == 0
        assert not memory.full_owners


async def test_the_last_generations_of_who_has_most_make_room() -> None:
    async with fakes_on(PaddedRunner, history_memory=8 * 5000, max_open_sessions=16) as house:

        async def generated(name: str) -> None:
            house.open(name)
            pieces = generate(
                house.engine,
                name,
                prompt=house.served.reader.tokens(np.array([1])),
                max_steps=100,
                sampling=Sampling(seed=1),
            )
            assert [piece async for piece in pieces]

        with called_by(BOB):
            await generated("s")
        with called_by(ALICE):
            for number in range(8):
                await generated(f"s{number}")
            with pytest.raises(CellarError, match="keeps no history"):
                await house.engine.rewind("s0", 50)
            await house.engine.rewind("s7", 50)
        with called_by(BOB):  # it is the oldest of all
            assert (await house.engine.rewind("s", 50)).position == 50
