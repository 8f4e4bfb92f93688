"""A server that dies: everybody is told, with a typed error, within seconds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cellar
from tests.e2e.process import ServerProcess, running

SOON_S = 8.0
FEW = cellar.RetryPolicy(attempts=6)
"""The default policy tries for 3 s; the rest is for a busy machine."""


@pytest.fixture
def mortal(repository: Path) -> Iterator[ServerProcess]:
    with running(repository) as server:
        yield server


class Progress:
    """Counts what each of several workers has done."""

    def __init__(self, workers: int) -> None:
        self._counts = [0] * workers
        self._news = threading.Condition()

    def made(self, worker: int) -> None:
        with self._news:
            self._counts[worker] += 1
            self._news.notify_all()

    def wait(self, each: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: min(self._counts) >= each, 20), self._counts


def test_killed_sync(mortal: ServerProcess) -> None:
    with cellar.connect(mortal.address, retry=FEW) as client:
        progress = Progress(4)

        def long_step(worker: int) -> None:
            with client.session("slow") as session:
                progress.made(worker)
                progress.made(worker)
                session.step("a" * 9000)

        def steps(worker: int) -> None:
            with client.session("letters") as session:
                while True:
                    session.step("hello", top_k=3)
                    progress.made(worker)

        def frames(worker: int) -> None:
            with client.stream("letters") as stream:
                channels = stream.open(64)
                while True:
                    stream.step(channels, "a" * 64)
                    progress.made(worker)

        def generation(worker: int) -> None:
            with client.session("letters") as session:
                for _ in session.generate("a", max_steps=100_000):
                    progress.made(worker)

        def watched(work: Callable[[int], None], worker: int) -> float:
            with pytest.raises(cellar.ConnectionLostError):
                work(worker)
            return time.monotonic()

        with ThreadPoolExecutor() as pool:
            ends = [
                pool.submit(watched, work, worker)
                for worker, work in enumerate((long_step, steps, frames, generation))
            ]
            progress.wait(2)
            mortal.wait_for_metric('cellar_pending_steps{model="slow/1"}', 1)
            mortal.kill()
            killed = time.monotonic()
            assert max(end.result(SOON_S) for end in ends) < killed + SOON_S


async def test_killed_async(mortal: ServerProcess) -> None:
    async with cellar.aio.connect(mortal.address, retry=FEW) as client:
        progress = Progress(4)

        async def long_step() -> None:
            async with client.session("slow") as session:
                progress.made(0)
                progress.made(0)
                await session.step("a" * 9000)

        async def steps() -> None:
            async with client.session("letters") as session:
                while True:
                    await session.step("hello", top_k=3)
                    progress.made(1)

        async def frames() -> None:
            async with client.stream("letters") as stream:
                channels = await stream.open(64)
                while True:
                    await stream.send(channels, "a" * 64)
                    await stream.send(channels, "b" * 64)
                    await stream.receive()
                    await stream.receive()
                    progress.made(2)

        async def generation() -> None:
            async with client.session("letters") as session:
                async for _ in session.generate("a", max_steps=100_000):
                    progress.made(3)

        tasks = [asyncio.create_task(work()) for work in (long_step, steps, frames, generation)]
        await asyncio.to_thread(progress.wait, 2)
        await asyncio.to_thread(mortal.wait_for_metric, 'cellar_pending_steps{model="slow/1"}', 1)
        await asyncio.to_thread(mortal.kill)
        async with asyncio.timeout(SOON_S):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [cellar.ConnectionLostError] * 4, ends
