"""A session that ends while it is forked, and whose slot somebody else has by then."""

from typing import Any

import pytest

from service import errors
from service.engine.calls.copies.fork import fork
from service.engine.calls.copies.taking import take
from service.engine.log.chronicle import ALL
from tests.service.engine.calls.copies.seeded import read
from tests.service.engine.fakes import DecodingRunner, initial_rows, run_alone
from tests.service.engine.houses import Fakes, fakes_on


async def begun(house: Fakes) -> int:
    """A session that was opened with a state, and has read; returns a fake state of before."""
    house.engine.open(house.served, "a", initial=initial_rows(5), history_steps=ALL)
    before = [await read(house, "a", token) for token in (1, 2, 3)]
    return before[1]


async def change_hands(house: Fakes) -> None:
    slot = house.find("a").slot
    await house.engine.close("a")
    house.open("b")
    assert house.find("b").slot == slot


async def test_it_is_read_again_from_what_it_was_opened_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fakes_on(DecodingRunner) as house:
        before = await begun(house)
        shard = house.served.shards[0]
        borrow = shard.borrow

        async def later(*arguments: Any) -> Any:
            await change_hands(house)
            return await borrow(*arguments)

        monkeypatch.setattr(shard, "borrow", later)
        assert (await fork(house.engine, "a", "copy", position=2)).position == 2
        assert house.state("copy") == before


async def test_it_starts_from_nobody_elses_state(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fakes_on(DecodingRunner) as house:
        house.open("a")
        shard = house.served.shards[0]
        perform = shard.perform

        async def and_then(*works: Any) -> Any:
            found = await perform(*works)
            slot = house.find("a").slot
            await house.engine.close("a")
            house.open("b", initial=77)
            assert house.find("b").slot == slot
            return found

        monkeypatch.setattr(shard, "perform", and_then)
        await fork(house.engine, "a", "copy")
        monkeypatch.setattr(shard, "perform", perform)
        assert await read(house, "copy", 1) == run_alone([1])[-1]


async def test_nothing_is_told_of_who_has_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fakes_on(DecodingRunner) as house:
        await begun(house)

        async def and_then(*arguments: Any) -> Any:
            taken = await take(*arguments)
            await change_hands(house)
            return taken

        monkeypatch.setattr("service.engine.calls.copies.fork.take", and_then)
        with pytest.raises(errors.SessionClosedError):
            await fork(house.engine, "a", "copy", position=2)
