"""What a session has read is in no file of the store soon after its end."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from service.engine.work.columns import Outputs
from service.store.embedded import LmdbStore
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.store.fake import FakeStore

EVERY = Outputs(raw=True, every_step=True)


def some_tokens(seed: int, count: int = 60) -> list[int]:
    """Tokens that stand nowhere else, one byte each in the journal."""
    dice = random.Random(seed)
    return [dice.randrange(VOCABULARY) for _ in range(count)]


async def read(house: Fakes, name: str, tokens: list[int]) -> list[float]:
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=EVERY)
    assert result.answers.raw is not None
    found: list[float] = result.answers.raw[:, 0].tolist()
    return found


def holds(folder: Path, what: bytes) -> bool:
    """Whether any file of a store holds these bytes."""
    return any(what in path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def look_after(house: Fakes) -> None:
    upkeep = house.engine._upkeep
    assert upkeep is not None
    await upkeep.look_after()
    await upkeep.eraser.finished()


async def test_what_a_closed_session_had_read_is_in_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    store = LmdbStore.open(path)
    secret, other = some_tokens(1), some_tokens(2)
    async with fakes_on(DecodingRunner, store=store, erase_s=0.05) as house:
        house.open("private-a")
        house.open("b")
        # In one group: what one has read is kept with what the other has.
        both = [read(house, "private-a", secret), read(house, "b", other)]
        await asyncio.gather(*both)
        assert holds(path, bytes(secret))
        await house.engine.close("private-a")
        await asyncio.sleep(0.06)
        await look_after(house)
        for what in (bytes(secret), b"private-a"):
            assert not holds(path, what)
        assert await read(house, "b", [3]) == run_alone([*other, 3])[-1:]
    store.close()
    assert not holds(path, bytes(secret))
    store = LmdbStore.open(path)
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "b", [4]) == run_alone([*other, 3, 4])[-1:]
    store.close()
    told = "".join(capfd.readouterr())
    assert "private-a" not in told
    assert str(secret)[1:-1] not in told


async def test_files_are_written_anew_only_when_a_session_has_ended() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, erase_s=0.05) as house:
        for name in "abc":
            house.open(name)
            await read(house, name, [1, 2])
        await asyncio.sleep(0.06)
        await look_after(house)
        assert store.erasures == 0
        await house.engine.close("a")
        await look_after(house)
        await house.engine.close("b")
        await look_after(house)  # too soon
        assert store.erasures == 1
        await asyncio.sleep(0.06)
        await look_after(house)
        await look_after(house)
        assert store.erasures == 2


async def test_what_ended_before_a_restart_is_erased_behind_it() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, erase_s=1000) as house:
        house.open("a")
        await read(house, "a", [1, 2])
        await house.engine.close("a")
        await look_after(house)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, erase_s=0.05) as house:
        await asyncio.sleep(0.06)
        await look_after(house)
        assert store.erasures == 1


async def test_nothing_is_erased_where_nobody_wants_it() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, erase_s=0) as house:
        house.open("a")
        await read(house, "a", [1, 2])
        await house.engine.close("a")
        await look_after(house)
        assert store.erasures == 0
