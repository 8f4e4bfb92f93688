"""A session that ends the process when it is folded is found, and set aside alone."""

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service import errors
from service.engine.log.recovery.folding import FOLDING, Folding
from service.engine.log.recovery.reading import read_store
from service.engine.sessions.table.status import SessionStatus
from service.store.embedded import LmdbStore
from service.store.records import unpack
from tests.service.engine.fakes import DecodingRunner, FakeRunner, run_alone
from tests.service.engine.houses import fakes_on, leftovers
from tests.service.engine.log.recovery.test_bits import restored
from tests.service.engine.log.test_restart import read
from tests.service.engine.wires import ask
from tests.service.store.fake import FakeStore

NAMES = "abcdef"
POISON = 13


class Deadly(FakeRunner):
    """Ends the process where it reads a certain token."""

    def step(self, **columns: Any) -> Any:
        if (columns["inputs"] == POISON).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(**columns)


async def life(path: Path, *, is_first: bool) -> None:
    """One process: it makes the sessions, or it brings them back and uses them."""
    store = LmdbStore.open(path)
    async with fakes_on(FakeRunner if is_first else Deadly, store=store) as house:
        if is_first:
            for name in NAMES:
                house.open(name)
                await read(house, name, 1, 2)
            await read(house, "d", POISON)
            await read(house, "d", 3)
            os._exit(0)
        await restored(house)
        for name in NAMES.replace("d", ""):
            assert await read(house, name, 5, position=2) == run_alone([1, 2, 5])[-1:]
            await house.engine.reset(name)
            await read(house, name, 1, 2)
        assert (await house.engine.describe("d")).status is SessionStatus.LOST
        assert (await house.engine.describe("d")).position == 4
        with pytest.raises(errors.StateLostError):
            await read(house, "d", 5)
        assert not leftovers(house.served)
    store.close()


def run(path: Path, *, is_first: bool = False) -> int:
    script = (
        f"import asyncio, pathlib; from {__name__} import life; "
        f"asyncio.run(life(pathlib.Path({os.fspath(path)!r}), is_first={is_first}))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True
    ).returncode


@pytest.mark.long
def test_a_session_whose_fold_ends_the_process_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "store"
    assert run(path, is_first=True) == 0
    # Once among all, and twice alone.
    assert [run(path) for _ in range(5)] == [-signal.SIGKILL] * 3 + [0] * 2
    store = LmdbStore.open(path)
    (kept,) = [own for own in read_store(store).sessions.values() if own.row.id == "d"]
    assert (kept.position, kept.tail_steps) == (4, 4)  # nothing of it was overwritten
    store.close()


def noted(store: FakeStore) -> dict[int, tuple[int, int]]:
    """By session the ends of the process, and its state."""
    value = store.row(FOLDING)
    if value is None:
        return {}
    columns = unpack(value)[0].columns
    names = ("session", "ends", "state")
    return {
        number: (ends, state)
        for number, ends, state in zip(*(columns[n].tolist() for n in names), strict=True)
    }


async def folding_on(store: FakeStore) -> Folding:
    async def write(key: bytes, value: bytes | None) -> None:
        await asyncio.sleep(0)
        store.write({} if value is None else {key: value}, [key] if value is None else [])

    return Folding(store, write)


async def crashed(names: str = NAMES) -> FakeStore:
    """A store with sessions that have something to fold."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in names:
            house.open(name)
            await read(house, name, 1, 2)
        return store.crash()


async def started(store: FakeStore) -> tuple[Folding, dict[str, Any]]:
    folding = await folding_on(store)
    rows = {own.row.id: own.row for own in read_store(store).sessions.values()}
    return folding, rows


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_was_under_way_together_is_folded_alone_and_one_by_one() -> None:
    store = await crashed()
    folding, rows = await started(store)
    gone: list[str] = []
    folding.begin([rows["a"], rows["b"], rows["c"]], lambda: gone.append("abc"))
    assert not gone, "it is not durable yet"
    await settled()
    assert gone == ["abc"]
    folding.end(rows["c"].number)
    await settled()
    store = store.crash()
    folding, _ = await started(store)
    assert not folding.compare(rows.values())
    assert [name for name in NAMES if folding.is_suspect(rows[name])] == ["a", "b"]
    for name in "ab":
        folding.begin([rows[name]], partial(gone.append, name))
    await settled()
    assert gone == ["abc", "a"], "the other waits"
    folding.end(rows["a"].number)
    await settled()
    assert gone == ["abc", "a", "b"]
    store = store.crash()
    for ends in (1, 2):
        folding, _ = await started(store)
        assert folding.compare(rows.values()) == ({rows["b"].number} if ends == 2 else set())
        if ends == 1:
            folding.begin([rows["b"]], lambda: None)
            await settled()
            store = store.crash()
    assert not folding.compare([row for row in rows.values() if row.id != "b"])
    await folding.settle()
    assert store.row(FOLDING) is None


async def test_a_restore_that_ends_well_leaves_no_note() -> None:
    store = await crashed()
    async with fakes_on(DecodingRunner, store=store) as house:
        row, _ = ask(house, "f", [3], 2)
        await house.engine.close("e")
        await restored(house)
        assert row.reply[1] == run_alone([1, 2, 3])[-1]
        for name in "abcd":
            assert await read(house, name, 5, position=2) == run_alone([1, 2, 5])[-1:]
        await settled()
        assert not noted(store)
        store = store.crash()
    assert not noted(store)


async def test_suspects_wait_for_their_turn_and_can_be_closed() -> None:
    store = await crashed()
    folding, rows = await started(store)
    folding.begin(rows.values(), lambda: None)
    await settled()
    store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        closing = asyncio.create_task(house.engine.close("f"))
        again, call = ask(house, "c", [3], 2)
        await restored(house)
        assert await closing == 2
        assert call is not None
        await call  # what it tells is durable by then
        assert again.reply[1] == run_alone([1, 2, 3])[-1]
        for name in "abde":
            assert await read(house, name, 5, position=2) == run_alone([1, 2, 5])[-1:]
        await house.settle()
        assert not leftovers(house.served)
    assert not noted(store)


async def test_a_session_that_was_set_aside_can_be_reset() -> None:
    store = await crashed("a")
    for _ in range(2):
        folding, rows = await started(store)
        folding.begin([rows["a"]], lambda: None)  # one that is under way by itself is alone
        await settled()
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert (await house.engine.describe("a")).status is SessionStatus.LOST
        await house.engine.reset("a")
        assert await read(house, "a", 7) == run_alone([7])
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 8, position=1) == run_alone([7, 8])[-1:]


async def test_a_full_disk_keeps_nobody_from_being_restored() -> None:
    store = await crashed("a")
    async with fakes_on(DecodingRunner, store=store) as house:
        store.full = True
        await restored(house)
        assert (await house.engine.describe("a")).status is SessionStatus.OPEN
        store.full = False
        assert await read(house, "a", 5, position=2) == run_alone([1, 2, 5])[-1:]
