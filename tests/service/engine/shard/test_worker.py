"""The worker begins what is next while something is under way, and ends all of it in order."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from service.engine.shard import worker as module
from service.engine.shard.worker import Ahead, Worker


class Device:
    """Work that is over when it is told; notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.over: dict[str, threading.Event] = {}
        self.noted = threading.Condition()

    def note(self, what: str) -> None:
        with self.noted:
            self.done.append(what)
            self.noted.notify_all()

    def ahead(self, name: str, *, breaks: str = "") -> Ahead:
        over = self.over[name] = threading.Event()

        def half(what: str) -> None:
            if what == "end":
                assert over.wait(10)
            self.note(f"{what} {name}")
            if breaks == what:
                raise RuntimeError("as told")

        return Ahead(
            begin=lambda: half("begin"),
            is_over=over.is_set,
            finish=lambda: half("end"),
            then=lambda: self.note(f"told {name}"),
        )

    @staticmethod
    def wait_for(gate: threading.Event) -> None:
        assert gate.wait(10)

    async def until(self, count: int) -> list[str]:
        """What was done, once it is so much."""
        for _ in range(1000):
            if len(self.done) >= count:
                break
            await asyncio.sleep(0.005)
        return list(self.done)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker("test")
    yield made
    made.stop()


async def test_what_is_there_is_begun_before_the_first_one_ends(worker: Worker) -> None:
    device = Device()
    gate = threading.Event()
    worker.hand(lambda: device.wait_for(gate), lambda: None)
    for name in "ab":
        worker.hand_ahead(device.ahead(name))
    gate.set()
    assert await device.until(2) == ["begin a", "begin b"]
    device.over["a"].set()
    assert (await device.until(4))[2:] == ["end a", "told a"]
    device.over["b"].set()
    assert (await device.until(6))[4:] == ["end b", "told b"]


async def test_what_comes_while_long_work_is_under_way_is_begun_beside_it(
    worker: Worker,
) -> None:
    device = Device()
    worker._usual_s = 1.0
    worker.hand_ahead(device.ahead("a"))
    assert await device.until(1) == ["begin a"]
    worker.hand_ahead(device.ahead("b"))
    assert await device.until(2) == ["begin a", "begin b"]
    for name in "ab":
        device.over[name].set()
    assert (await device.until(6))[-1] == "told b"


async def test_short_work_is_waited_for(worker: Worker) -> None:
    """A look at the device takes as long as that."""
    device = Device()
    worker.hand_ahead(device.ahead("a"))
    assert await device.until(1) == ["begin a"]
    await asyncio.sleep(20 * module._LOOK_S)  # it waits by now
    worker.hand_ahead(device.ahead("b"))
    await asyncio.sleep(20 * module._LOOK_S)
    assert device.done == ["begin a"]
    for name in "ab":
        device.over[name].set()
    found = await device.until(6)
    assert [one for one in found if "told" not in one] == ["begin a", "end a", "begin b", "end b"]


async def test_other_work_waits_for_what_is_under_way(worker: Worker) -> None:
    device = Device()
    worker._usual_s = 1.0
    worker.hand_ahead(device.ahead("a"))
    assert await device.until(1) == ["begin a"]
    worker.hand(lambda: device.note("other"), lambda: None)
    await asyncio.sleep(0.02)
    assert device.done == ["begin a"]
    device.over["a"].set()
    found = await device.until(4)
    assert found.index("end a") < found.index("other")
    assert found[1] == "end a"
    loop = asyncio.get_running_loop()
    worker.hand_ahead(device.ahead("b"))
    device.over["b"].set()
    seen = await loop.run_in_executor(None, worker.do, lambda: list(device.done))
    assert seen[len(found) :][:2] == ["begin b", "end b"]


@pytest.mark.parametrize("half", ["begin", "end"])
async def test_a_fault_in_one_half_does_not_end_the_thread(worker: Worker, half: str) -> None:
    device = Device()
    gate = threading.Event()
    worker.hand(lambda: device.wait_for(gate), lambda: None)
    worker.hand_ahead(device.ahead("a", breaks=half))
    worker.hand_ahead(device.ahead("b"))
    for name in "ab":
        device.over[name].set()
    gate.set()
    assert set(await device.until(6)) == {
        f"{x} {y}" for x in ("begin", "end", "told") for y in "ab"
    }


async def test_it_ends_what_is_under_way_before_it_stops() -> None:
    device, worker = Device(), Worker("test")
    worker._usual_s = 1.0
    worker.hand_ahead(device.ahead("a"))
    await device.until(1)
    device.over["a"].set()
    worker.stop()
    assert device.done[:2] == ["begin a", "end a"]
