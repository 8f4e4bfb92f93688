"""``make hops``: which files of ``service/`` one call goes through, and how often it changes file.

Whoever reads what a call does opens these files and follows these moves. One server and one
client run in this process; a call that is warm is traced. The same call is traced several times
and the shortest route counts: a timer that fires meanwhile only ever makes a route longer.

Knows nothing of what the functions do, and measures no time.
"""

import argparse
import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import cellar
import cellar.aio
import service
from service.logs import configure_logs
from service.server import Server
from service.settings import Settings

WARM_UP = 3
TRACED = 5
SETTLE_S = 0.02
"""What a call leaves to be done after its answer is done by then, and is part of its route."""
TEXT, SERIES = "stdlib-text", "synthetic-prices"

_FOLDER = f"{Path(service.__file__).parent}/"

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Hop:
    """A function that was entered, or entered again where it had waited."""

    file: str  # below service/
    function: str


@dataclass(frozen=True, slots=True)
class Route:
    """The functions of ``service/`` that one call entered, in order."""

    hops: tuple[Hop, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Each file once, in the order in which they were first entered."""
        return tuple(dict.fromkeys(hop.file for hop in self.hops))

    @property
    def moves(self) -> int:
        """How often the next function lies in another file than the last."""
        pairs = zip(self.hops, self.hops[1:], strict=False)
        return sum(before.file != after.file for before, after in pairs)

    @property
    def length(self) -> tuple[int, int]:
        """What makes one route shorter than another: files, then moves."""
        return len(self.files), self.moves

    def __str__(self) -> str:
        """In numbers."""
        files, moves = self.length
        functions = len(set(self.hops))
        return (
            f"{files} files, {moves} moves between them, {functions} functions, "
            f"{len(self.hops)} calls"
        )

    def listing(self) -> str:
        """A line for each stay in a file: its name, and the functions entered there."""
        lines: list[str] = []
        last = ""
        for hop in self.hops:
            if hop.file != last:
                lines.append(f"  {hop.file}:")
                last = hop.file
            lines[-1] += f" {hop.function}"
        return "\n".join(lines)


class Tracer:
    """Notes which functions of ``service/`` are entered, on any thread, while it is told to.

    Threads that are started while it is installed are watched as well as the one that installs
    it: work that is handed to a worker does not drop out of the route.
    """

    def __init__(self) -> None:
        self._hops: list[Hop] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch threads that are started from here on."""
        before = threading.getprofile()
        threading.setprofile(self._note)
        try:
            yield
        finally:
            threading.setprofile(before)

    async def trace(self, call: Call) -> Route:
        """The route of one call, with what it leaves to be done after its answer."""
        await asyncio.sleep(SETTLE_S)  # until nothing of the call before is left
        before = sys.getprofile()
        hops = self._hops = []
        sys.setprofile(self._note)
        try:
            await call()
            await asyncio.sleep(SETTLE_S)
        finally:
            sys.setprofile(before)
            self._hops = None
        return Route(tuple(hops))

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        hops = self._hops
        if hops is None or event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(_FOLDER):
            name = code.co_qualname.rpartition("<locals>.")[2]
            hops.append(Hop(code.co_filename.removeprefix(_FOLDER), name))


class Prepare(Protocol):
    """Makes a call ready to be repeated: opens what it needs, and closes that at the end."""

    def __call__(self, client: cellar.aio.Client) -> "AsyncIterator[Call]":
        """Yield the call once."""


async def _step(client: cellar.aio.Client) -> AsyncIterator[Call]:
    async with await client.session(TEXT) as session:
        await session.step("hello")
        yield lambda: session.step("a")


async def _frame(client: cellar.aio.Client) -> AsyncIterator[Call]:
    async with await client.stream(TEXT, argmax=True) as stream:
        channels = await stream.open(3)
        yield lambda: stream.step(channels, "abc")


async def _row(client: cellar.aio.Client) -> AsyncIterator[Call]:
    async with await client.stream(TEXT, argmax=True) as stream:
        channels = await stream.open(1)
        yield lambda: stream.step(channels, "a")


async def _generate(client: cellar.aio.Client) -> AsyncIterator[Call]:
    async with await client.session(TEXT) as session:
        await session.step("hello")

        async def generate() -> None:
            async for _ in session.generate(max_steps=4, seed=1):
                pass

        yield generate


async def _forecast(client: cellar.aio.Client) -> AsyncIterator[Call]:
    async with await client.session(SERIES) as session:
        await session.feed([100.0, 101.0, 102.0])
        yield lambda: session.forecast(4, paths=10)


CALLS: dict[str, Prepare] = {
    "step": _step,
    "frame": _frame,
    "row": _row,
    "generate": _generate,
    "forecast": _forecast,
}
"""A unary step; a frame of 3 rows, and of one; 4 tokens; 4 steps ahead on 10 paths."""


async def trace(names: Sequence[str] = tuple(CALLS)) -> dict[str, Route]:
    """The routes of some calls, on a server of the zoo's models."""
    tracer = Tracer()
    with tracer.installed():
        async with _serving() as client:
            return {name: await _route(tracer, CALLS[name], client) for name in names}


async def _route(tracer: Tracer, prepare: Prepare, client: cellar.aio.Client) -> Route:
    async with asynccontextmanager(prepare)(client) as call:
        for _ in range(WARM_UP):
            await call()
        routes = [await tracer.trace(call) for _ in range(TRACED)]
    return min(routes, key=lambda route: route.length)


@asynccontextmanager
async def _serving() -> AsyncIterator[cellar.aio.Client]:
    # However long a run takes on a busy machine, it stays on the event loop, as these do: its
    # route is not that of a large one.
    settings = Settings(port=0, metrics_port=None, device="cpu", shards=1, inline_run_s=1)
    server = Server(settings)
    await server.start()
    try:
        async with cellar.aio.connect(f"127.0.0.1:{server.port}") as client:
            yield client
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.hops", description=__doc__)
    parser.add_argument("--only", action="append", choices=CALLS, help="may be repeated")
    parser.add_argument(
        "--show", action="append", default=[], choices=CALLS, help="with the whole route"
    )
    given = parser.parse_args()
    configure_logs(Settings(log_level="error"))
    names = given.only or given.show or tuple(CALLS)
    for name, route in asyncio.run(trace(names)).items():
        print(f"{name}: {route}")
        if name in given.show:
            print(route.listing())


if __name__ == "__main__":
    main()
