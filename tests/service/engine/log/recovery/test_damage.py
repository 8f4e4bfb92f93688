"""A bit of the journal has flipped: what it held is lost and says so, and all else is served."""

import asyncio
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Outputs
from service.store.records import DamagedError, unpack
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.store.fake import FakeStore

EVERY = Outputs(raw=True, every_step=True)


async def read(house: Fakes, name: str, *tokens: int) -> list[float]:
    """Let a session read, and return the prediction after each step."""
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=EVERY)
    assert result.answers.raw is not None
    found: list[float] = result.answers.raw[:, 0].tolist()
    return found


async def written() -> tuple[FakeStore, dict[str, list[int]]]:
    """A store that a process has left behind, and what is in it: a group for each request."""
    store, dice = FakeStore(), random.Random(1)
    tokens: dict[str, list[int]] = {}
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in "abc":
            house.open(name)
            await house.engine.describe(name)
        for _ in range(4):
            for name in "abc":
                own = [dice.randrange(60) for _ in range(dice.choice([1, 2, 3]))]
                await read(house, name, *own)
                tokens.setdefault(name, []).extend(own)
        return store.crash(), tokens


def flip(store: FakeStore, number: int, bit: int) -> None:
    """Flip a bit of a group."""
    data = bytearray(store._groups[number])
    data[bit // 8] ^= 1 << bit % 8
    store._groups[number] = store._durable_groups[number] = bytes(data)


def entries(store: FakeStore) -> dict[int, int]:
    """Whose steps each group holds; those without steps are left out."""
    found: dict[int, int] = {}
    for number, data in store._groups.items():
        for section in unpack(data):
            if section.kind == "steps":
                (found[number],) = section.columns["session"].tolist()
    return found


def knows_whose(data: bytes) -> bool:
    """Whether a damaged group can still tell whose steps it held."""
    try:
        unpack(data)
    except DamagedError as error:
        return any("session" in section.columns for section in error.sections)
    raise AssertionError("a flipped bit was not found")


async def statuses(house: Fakes) -> dict[str, SessionStatus]:
    """Of each session."""
    return {name: (await house.engine.describe(name)).status for name in "abc"}


@given(dice=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_what_a_flipped_bit_is_in_is_lost_and_all_else_is_served(dice: random.Random) -> None:
    asyncio.run(_flip_and_look(dice))


async def _flip_and_look(dice: random.Random) -> None:
    store, tokens = await written()
    owners = entries(store)
    number = dice.choice(sorted(owners))
    flip(store, number, dice.randrange(8 * len(store._groups[number])))
    damaged = store._groups[number]
    async with fakes_on(DecodingRunner, store=store) as house:
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.look_after()
        table = house.served.shards[0].table
        found = await statuses(house)
        for name, own in tokens.items():
            session = int(table.number[house.find(name).slot])
            last = max(group for group, owner in owners.items() if owner == session)
            lost = found[name] is SessionStatus.LOST
            if owners[number] == session:
                assert lost
                assert house.position(name) < len(own)
            else:  # who has read on behind it, has read nothing there
                assert lost == (not knows_whose(damaged) and last < number)
            if lost:
                with pytest.raises(errors.StateLostError):
                    await read(house, name, 1)
            else:
                assert await read(house, name, 1) == run_alone([*own, 1])[-1:]
    assert store._groups[number] == damaged, "it can still be looked at"
    async with fakes_on(DecodingRunner, store=store) as house:  # and it stays so
        assert await statuses(house) == found
        for name, status in found.items():
            if status is SessionStatus.LOST:
                await house.engine.reset(name)
                await read(house, name, 5)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:  # until they begin anew
        for name, own in tokens.items():
            read_on = [5] if found[name] is SessionStatus.LOST else [*own, 1]
            assert await read(house, name, 6) == run_alone([*read_on, 6])[-1:]
