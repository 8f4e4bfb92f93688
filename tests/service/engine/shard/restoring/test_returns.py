"""Sessions that go back while a fault of ours empties the queue."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from service.engine.shard.run import Run
from service.engine.work.columns import Floats, Ints
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.written import Client, break_off, check, turns, until
from tests.service.store.fake import FakeStore

STAGES = ("load", "chunk", "step")  # of going back


class Staged(DecodingRunner):
    """One whose runs wait to be let in, one by one, once its door is closed.

    Attributes:
        waits: what does; "" where nothing does.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.waits = ""
        self.is_closed = False
        self._let_in = threading.Semaphore(0)

    def _wait(self, what: str) -> None:
        if self.is_closed:
            self.waits = what
            self._let_in.acquire()

    def let_in(self) -> None:
        if self.waits:
            self.waits = ""
            self._let_in.release()

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        self._wait("load")
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the device caught fire")
        super().write(slots, rows)

    def step(self, **columns: Any) -> Floats:
        self._wait("chunk" if columns["lengths"].max() > 1 else "step")
        return super().step(**columns)


async def goes_back(house: Fakes, client: Client, until_stage: str) -> list[int]:
    """Break a generation off behind several pieces; a stage of its session's way back runs then."""
    told = await breaks_off(house, client)
    (device,) = house.runners
    assert isinstance(device, Staged)
    async with asyncio.timeout(5):
        for stage in STAGES[: STAGES.index(until_stage) + 1]:
            while device.waits != stage:
                device.let_in()
                await asyncio.sleep(0.001)
    return told


async def comes_back(house: Fakes, told: list[int]) -> None:
    """Let everything run: the session stands where its generation was broken off."""
    (device,), (shard,) = house.runners, house.served.shards
    assert isinstance(device, Staged)
    device.is_closed = False
    device.let_in()
    await asyncio.wait_for(house.settle(), 5)
    assert not shard.table.restoring.any()
    info = await house.engine.describe("a")
    assert (info.position, info.status.value) == (2 + len(told), "open")
    assert not leftovers(house.served)
    await check(house, "a", [1, 2, *told])


async def breaks_off(house: Fakes, client: Client) -> list[int]:
    """Break a generation off behind several pieces, while a step of it is about to run."""
    (device,) = house.runners
    assert isinstance(device, Staged)
    task = asyncio.create_task(client.read())
    await until(lambda: len(client.told) > 2)
    client.write_turns = 10**9
    await client.reads_past(2)
    device.is_closed = True
    async with asyncio.timeout(5):
        await until(lambda: device.waits)
    return await break_off(client, task, "cancelled")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("end", ["late", "fault", "at once"])
async def test_a_fault_while_a_part_of_it_runs(stage: str, end: str, durable: bool) -> None:
    """That part is not called back, and what follows it is refused."""
    store = FakeStore() if durable else None
    async with fakes_on(Staged, store=store, inline_run_s=WORKER) as house:
        (device,), (shard,) = house.runners, house.served.shards
        assert isinstance(device, Staged)
        house.open("a")
        told = await goes_back(house, Client(house=house, name="a", prompt=[1, 2]), stage)
        device.fail_next = end == "fault"
        if end == "at once":  # it has run, and the loop has not heard of it
            device.is_closed = False
            device.let_in()
            time.sleep(0.02)  # noqa: ASYNC251
        shard._give_up(MemoryError("of ours"))
        if end == "late":
            await turns(50)
        await comes_back(house, told)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_fault_where_its_last_step_is_committed(
    durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that wrote is in doubt, and the log cannot tell: it does not know the branch yet."""
    store = FakeStore() if durable else None
    async with fakes_on(Staged, store=store, inline_run_s=WORKER) as house:
        (device,), (shard,) = house.runners, house.served.shards
        assert isinstance(device, Staged)
        house.open("a")
        told = await breaks_off(house, Client(house=house, name="a", prompt=[1, 2]))
        assert shard.table.returning.any()
        commit, faults = shard._tick.commit, [MemoryError("of ours")]

        def fail_once(run: Run) -> None:
            if faults:
                raise faults.pop()
            commit(run)

        monkeypatch.setattr(shard._tick, "commit", fail_once)
        device.is_closed = False
        device.let_in()
        await asyncio.wait_for(house.settle(), 5)
        assert not faults
        assert not shard.table.restoring.any()
        info = await house.engine.describe("a")
        assert (info.position, info.status.value) == (2 + len(told), "open")
        assert not leftovers(house.served)
        await check(house, "a", [1, 2, *told])


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("failures", [1, 3])
async def test_it_is_tried_again_where_what_puts_it_there_fails(
    failures: int, durable: bool
) -> None:
    store = FakeStore() if durable else None
    async with fakes_on(Staged, store=store, inline_run_s=WORKER) as house:
        (device,) = house.runners
        assert isinstance(device, Staged)
        house.open("a")
        told = await goes_back(house, Client(house=house, name="a", prompt=[1, 2]), "load")
        for _ in range(failures):
            async with asyncio.timeout(5):
                while device.waits != "load":
                    device.let_in()
                    await asyncio.sleep(0.001)
            device.fail_next = True
            device.let_in()
            await turns(50)
        await comes_back(house, told)
