"""A fault where work has left one place and is not yet in the next: its callers are answered, too.

The fault is raised in each line of what carries work from place to place, when it is first come to.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from service import errors
from service.engine.calls.generate import generate
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.scheduler.scheduler import Scheduler
from service.engine.shard.restoring.restorer import Restorer
from service.engine.shard.shard import Shard
from service.engine.shard.tick import Tick
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.log.test_restart import read
from tests.service.engine.wires import Row, Wire, ask
from tests.service.store.fake import FakeStore

PASSAGES: dict[str, list[Callable[..., Any]]] = {
    "straight": [Shard._next, Shard._straight, Tick.straight],
    "turn": [Shard._take_turn, Tick.queued],
    "queue": [
        Scheduler.submit, Scheduler.hold, Scheduler.release, Scheduler._enqueue,
        Scheduler._make_ready, Scheduler._rows, Scheduler._chunk_parts, Scheduler.finish,
        Scheduler.finish_whole, Scheduler.unpark,
    ],
    "feedback": [Feedback.settle, Feedback.work, Scheduler._fed_back],
    "restorer": [Restorer._thaw, Restorer._note, Restorer._load, Restorer._put],
}  # fmt: skip
Line = tuple[str, int]


class InjectedError(RuntimeError):
    """The fault that is raised."""


@contextmanager
def traced(passages: list[Callable[..., Any]], at: Line | None, visit: int) -> Iterator[set[Line]]:
    """Raise at a visit of a line, and tell the lines that were come to."""
    codes = {passage.__code__ for passage in passages}
    seen: set[Line] = set()
    left = visit

    def line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        here = frame.f_code.co_qualname, frame.f_lineno
        if event == "line":
            seen.add(here)
            if here == at:
                left -= 1
                if not left:
                    raise InjectedError("injected")
        return line

    def call(frame: FrameType, _event: str, _: object) -> Any:
        return line if frame.f_code in codes else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield seen
    finally:
        sys.settrace(before)


async def generated(house: Fakes, name: str) -> None:
    prompt = house.served.reader.tokens(np.array([1]))
    with suppress(errors.CellarError):
        async for _ in generate(
            house.engine, name, prompt=prompt, max_steps=30, sampling=Sampling(seed=1)
        ):
            pass


async def answered(rows: list[Row], wire: Wire) -> None:
    while any(not row.answers for row in rows) and not wire.is_broken:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def play(
    passages: list[Callable[..., Any]], inline_run_s: float, at: Line | None = None, visit: int = 1
) -> set[Line]:
    """Sessions that are in the store, and new ones, are asked for all kinds of steps."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in "abcd":
            house.open(name)
            await read(house, name, 1, 2, 3)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("b").slot]))
        await read(house, "b", 4)
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("c").slot]))
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        for name in "ef":
            house.open(name)
        (device,) = house.runners
        assert isinstance(device, DecodingRunner)
        assert house.engine._upkeep is not None
        await house.engine._upkeep.stop()  # they come back when they are asked for
        wire = await Wire(house).attach("a", "b", "e", "f")
        with traced(passages, at, visit) as seen:
            rows = [ask(house, "e", [1], None)[0]]
            await asyncio.sleep(0)
            rows += wire.frame({0: ([5], -1), 1: ([6], -1), 2: ([7], -1)})
            rows.append(wire.single(3, 8))
            rows.append(ask(house, "c", [1, 2, 3, 4, 5, 6, 7, 8, 9], None)[0])
            rows += wire.frame({0: ([5], -1), 1: ([6, 7], -1)})
            calls = [asyncio.create_task(generated(house, name)) for name in ("d", "f")]
            await asyncio.wait_for(asyncio.gather(answered(rows, wire), *calls), 5)
            rows += wire.frame({0: ([5], -1), 3: ([6], -1)})
            await asyncio.wait_for(answered(rows, wire), 5)
            await asyncio.wait_for(house.settle(), 5)
        wire.stream.end()
        assert all(row.answers <= 1 for row in rows)
        left = leftovers(house.served)
        assert not {name for name in left if not name.startswith("flows that wait")}, left
        for name in "abcdef":
            found = await read_again(house, name, 9)
            tokens = device.tokens[house.row(name)]
            assert len(tokens) == house.position(name)
            assert found == run_alone(tokens)[-1:]
    return seen


async def read_again(house: Fakes, name: str, token: int) -> list[float]:
    """Read a step, if need be once the session is restored."""
    for _ in range(100):
        try:
            return await asyncio.wait_for(read(house, name, token), 5)
        except errors.StoreUnavailableError:
            await asyncio.sleep(0.01)
    raise TimeoutError(f"{name} is never restored")


async def check(where: str, inline_run_s: float, visit: int) -> None:
    passages = PASSAGES[where]
    seen = await play(passages, inline_run_s)
    assert len({name for name, _ in seen}) >= len(passages) - 1, "hardly a passage was taken"
    problems = []
    for at in sorted(seen):
        try:
            with capture_logs():
                await play(passages, inline_run_s, at, visit)
        except (AssertionError, TimeoutError, errors.CellarError) as problem:
            problems.append(f"{at}: {problem!r}")
    assert not problems, "\n".join(problems)


async def test_a_fault_on_the_way_loses_no_caller() -> None:
    await check("straight", INLINE, 1)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("where", PASSAGES)
async def test_a_fault_anywhere_on_the_way_loses_no_caller(where: str, inline_run_s: float) -> None:
    for visit in (1, 2, 5):
        await check(where, inline_run_s, visit)
