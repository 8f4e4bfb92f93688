"""A store that is full, fails, or does not answer: who is told what, and what is there then."""

import asyncio
import random
import threading

import numpy as np
import pytest

from service import errors
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.wires import RAW, Row, ask
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
