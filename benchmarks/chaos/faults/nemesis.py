"""What is done to the server and to its connections, by dice."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from benchmarks.chaos.faults.proxy import Proxy
from benchmarks.chaos.faults.victim import Server
from benchmarks.chaos.oracle.history import History

PAUSE_S = 2.0
_WATCH_S = 0.2


class Nemesis:
    """Hurts until it is told to stop; nothing stays hurt then.

    Args:
        kills: whether sessions outlive the process.
        pause_s: between two faults, in the mean.
    """

    def __init__(
        self,
        victim: Server,
        proxy: Proxy,
        history: History,
        chance: random.Random,
        *,
        kills: bool,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._victim, self._proxy, self._history = victim, proxy, history
        self._chance = chance
        self._pause_s = pause_s
        self._stopping = asyncio.Event()
        self._dice: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "cut": (3, self._cut),
            "delay": (3, lambda: proxy.delay(chance.uniform(0.2, 3.0))),
            "black hole": (2, lambda: proxy.swallow(chance.uniform(0.5, 3.0))),
            "stop": (2, lambda: victim.pause(chance.uniform(0.1, 3.0))),
        }
        if kills:
            self._dice |= {
                "kill": (3, self.kill),
                "terminate": (1, self.terminate),
                "full disk": (1, lambda: victim.fill_disk(chance.uniform(0.5, 3.0))),
            }
        self._lock = asyncio.Lock()  # one fault of the process at a time

    async def run(self) -> None:
        """Throw the dice again and again."""
        names = sorted(self._dice)
        weights = [self._dice[name][0] for name in names]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            while not await self._stops_within(self._chance.expovariate(1 / self._pause_s)):
                (name,) = self._chance.choices(names, weights)
                self._history.faults[name] += 1
                if name in ("cut", "delay", "black hole"):
                    group.create_task(self._run(name))  # beside whatever comes next
                else:
                    async with self._lock:
                        await self._run(name)

    def stop(self) -> None:
        """Hurt nothing any more; `run` ends once all is healed."""
        self._stopping.set()

    async def kill(self) -> None:
        """SIGKILL, and another server on the same store."""
        await self._victim.kill()
        self._history.crashes.append(self._history.tick())
        await self._victim.start()

    async def terminate(self) -> None:
        """SIGTERM, and another server on the same store."""
        await self._victim.terminate()
        await self._victim.start()

    async def _run(self, name: str) -> None:
        await self._dice[name][1]()

    async def _cut(self) -> None:
        self._proxy.cut()

    async def _watch(self) -> None:
        """A server that ends by itself is started again, and that is a finding."""
        while not await self._stops_within(_WATCH_S):
            async with self._lock:
                if self._victim.has_died():
                    self._history.crashes.append(self._history.tick())
                    await self._victim.kill()
                    await self._victim.start()

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()


__all__ = ["PAUSE_S", "Nemesis"]
