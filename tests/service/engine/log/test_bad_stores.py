"""A store that is full, fails, or does not answer: who is told what, and what is there then."""

import asyncio
import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import numpy as np
import pytest

from service import errors
from service.engine.log.keys import CHECKPOINT, SESSION
from service.engine.log.recovery.folding import FOLDING
from service.store.store import StoreFailedError, StoreFullError
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.wires import RAW, Row, Wire, ask
from tests.service.store.fake import FakeStore


class Most(random.Random):
    """Dice that leave of what is in doubt as much as there may be."""

    def randint(self, a: int, b: int) -> int:
        """The highest."""
        return max(a, b)


BOTH_WAYS = pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])


async def read(house: Fakes, name: str, *tokens: int) -> float:
    """Let a session read, and return the last prediction."""
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=RAW)
    assert result.answers.raw is not None
    return float(result.answers.raw[0, 0])


@BOTH_WAYS
async def test_a_full_store_takes_nothing_new_and_answers_all_once_there_is_room(
    inline_run_s: float,
) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        assert house.engine.log is not None
        house.open("a")
        await read(house, "a", 1)
        store.full = True
        taken, _ = ask(house, "a", [2], 1)
        await house.settle()
        while not house.engine.log.full:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        with pytest.raises(errors.StoreFullError):
            ask(house, "a", [3], 2)
        assert taken.answers == 0
        assert not house.engine.failed.is_set()
        store.full = False
        await house.engine.log.flush()
        await house.settle()
        assert taken.reply[:2] == (2, run_alone([1, 2])[-1])
        assert await read(house, "a", 3) == run_alone([1, 2, 3])[-1]
        await house.settle()
        assert not leftovers(house.served)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 4) == run_alone([1, 2, 3, 4])[-1]


@BOTH_WAYS
@pytest.mark.parametrize("written", [True, False])
async def test_nothing_is_told_once_a_write_has_failed(inline_run_s: float, written: bool) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        house.open("a")
        assert await read(house, "a", 1) == run_alone([1])[-1]
        store.fails_at = 1
        doubtful, _ = ask(house, "a", [2], 1)
        behind, _ = ask(house, "a", [3], 2)
        reading = asyncio.create_task(house.engine.describe("a"))
        await asyncio.wait_for(house.engine.failed.wait(), 5)
        await house.settle()
        assert (doubtful.answers, behind.answers) == (0, 0)
        with pytest.raises(errors.StoreUnavailableError):
            await reading
        with pytest.raises(errors.DrainingError):
            ask(house, "a", [4], 3)
        store = store.crash(Most() if written else None)
    async with fakes_on(DecodingRunner, store=store) as house:
        tokens = [1] if not written else [1, 2, 3]
        at = (await house.engine.describe("a")).position
        assert 1 <= at <= len(tokens)
        assert await read(house, "a", 9) == run_alone([*tokens[:at], 9])[-1]


@BOTH_WAYS
async def test_a_store_that_does_not_answer_takes_no_more_and_loses_nothing(
    inline_run_s: float,
) -> None:
    store = FakeStore()
    async with fakes_on(
        DecodingRunner, store=store, inline_run_s=inline_run_s, store_timeout_s=0.02
    ) as house:
        house.open("a")
        await read(house, "a", 1)
        store.gate = threading.Event()
        taken, _ = ask(house, "a", [2], 1)
        behind, _ = ask(house, "a", [3], 2)
        await asyncio.sleep(0.03)
        with pytest.raises(errors.StoreUnavailableError):
            ask(house, "a", [4], 3)
        assert (taken.answers, behind.answers) == (0, 0)
        store.gate.set()
        await house.engine.drain()
        await house.settle()
        assert taken.reply[:2] == (2, run_alone([1, 2])[-1])
        assert behind.reply[:2] == (3, run_alone([1, 2, 3])[-1])
        assert not leftovers(house.served)


async def test_what_waits_for_a_slow_store_is_bounded() -> None:
    store = FakeStore()
    async with fakes_on(
        DecodingRunner, store=store, max_undurable_bytes=2**16, store_timeout_s=60
    ) as house:
        for name in "abcdefgh":
            house.open(name)
            await read(house, name, 1)
        store.gate = threading.Event()
        rows: list[Row] = []
        log = house.engine.log
        assert log is not None
        while log.takes_more:
            rows.append(ask(house, "abcdefgh"[len(rows) % 8], [5], None)[0])
            await house.settle()
        with pytest.raises(errors.OverloadedError, match="bytes wait to be written"):
            ask(house, "a", [5], None)
        assert log.undurable_bytes < 2**17
        assert not any(row.answers for row in rows)
        store.gate.set()
        await house.engine.drain()
        await house.settle()
        assert all(len(row.replies) == 1 for row in rows)


class Failing(FakeStore):
    """A store of which some kind of call fails, or finds no room, from a moment on."""

    fails_in = "nothing"
    is_full = False

    def append(self, number: int, group: bytes) -> None:
        """See `Store.append`."""
        self._may_fail("append", "journal")
        super().append(number, group)

    def drop(self, before: int) -> None:
        """See `Store.drop`."""
        self._may_fail("drop", "journal")
        super().drop(before)

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """See `Store.groups`."""
        self._may_fail("groups", "journal")
        return super().groups(first)

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """See `Store.write`."""
        for key in (*puts, *(deletes := list(deletes))):
            self._may_fail(KINDS.get(key) or KINDS.get(key[:1], ""), "table")
        super().write(puts, deletes)

    def erase(self) -> None:
        """See `Store.erase`."""
        self._may_fail("erase", "table")
        super().erase()

    def _may_fail(self, kind: str, side: str) -> None:
        if kind != self.fails_in:
            return
        if self.is_full:
            raise StoreFullError("the fake store is full")
        with self._lock:
            raise self._fail(side)


KINDS = {SESSION: "session row", CHECKPOINT: "checkpoint row", FOLDING: "note"}


async def use(house: Fakes, kind: str) -> None:
    """Have the store come to a call of a kind, with a session that has read."""
    upkeep = house.engine._upkeep
    assert upkeep is not None
    slots = np.array([house.find("a").slot])
    if kind == "append":
        ask(house, "a", [3], 2)
    elif kind in ("session row", "checkpoint row"):
        await upkeep.checkpoints.save(house.served.shards[0], slots)
    elif kind in ("drop", "erase"):
        await house.engine.close("b")
        await asyncio.sleep(0.02)  # until it is time for that
        await upkeep.look_after()
        await upkeep.eraser.finished()
    else:  # it is read again, and that is noted
        house.runners[0].fail_next = True
        ask(house, "a", [3], 2)
        await house.settle()


ALL_KINDS = ("append", "session row", "checkpoint row", "note", "drop", "erase", "groups")


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_whatever_finds_that_the_disk_has_failed_ends_the_server(kind: str) -> None:
    store = Failing()
    async with fakes_on(DecodingRunner, store=store, erase_s=0.01) as house:
        for name in "ab":
            house.open(name)
            await read(house, name, 1, 2)
        wire = await Wire(house).attach("a")
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.stop()  # which would find it a little later
        store.fails_in = kind
        with suppress(StoreFailedError):
            await use(house, kind)
        await asyncio.wait_for(house.engine.failed.wait(), 5)
        row = wire.single(0, 4)  # on a stream, which asks nobody whether the server serves
        await asyncio.sleep(0.02)
        assert not row.replies
        with pytest.raises(errors.DrainingError, match="the store has failed"):
            ask(house, "a", [4], None)
        left = store.crash()
    async with fakes_on(DecodingRunner, store=left) as house:
        assert (await house.engine.describe("a")).position == 2, "what was acknowledged is there"
        assert await read(house, "a", 5) == run_alone([1, 2, 5])[-1]


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "groups"])
async def test_whatever_finds_the_disk_full_goes_on_once_there_is_room(kind: str) -> None:
    store = Failing()
    async with fakes_on(DecodingRunner, store=store, erase_s=0.01) as house:
        for name in "ab":
            house.open(name)
            await read(house, name, 1, 2)
        store.fails_in, store.is_full = kind, True
        with suppress(errors.StoreFullError, StoreFullError):
            await use(house, kind)
        await asyncio.sleep(0.02)
        store.fails_in = "nothing"
        assert house.engine.log is not None
        await house.engine.log.flush()
        await house.settle()
        await house.engine.drain()
        house.engine.draining = False
        assert not house.engine.failed.is_set()
        at = (await house.engine.describe("a")).position
        assert await read(house, "a", 5) == run_alone([*[1, 2, 3][:at], 5])[-1]
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.look_after()
        left = store.crash()
    async with fakes_on(DecodingRunner, store=left) as house:
        assert await read(house, "a", 6) == run_alone([*[1, 2, 3][:at], 5, 6])[-1]
