"""One run: a server, its callers, what hurts them, and the verdict."""

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.chaos.callers.calls import Subject, World
from benchmarks.chaos.callers.frames import FrameCaller
from benchmarks.chaos.callers.library import CopyingCaller, LibraryCaller, LibraryStreamCaller
from benchmarks.chaos.callers.reader import Reader
from benchmarks.chaos.callers.single import SingleCaller
from benchmarks.chaos.faults.nemesis import PAUSE_S, Nemesis
from benchmarks.chaos.faults.proxy import Proxy
from benchmarks.chaos.faults.victim import Server, Victim
from benchmarks.chaos.oracle.history import History
from benchmarks.chaos.oracle.judge import Verdict, judge
from benchmarks.processes import ROOT
from models.manifest import TokensInput
from models.repository import ModelRepository

ZOO = ROOT / "models" / "zoo"
TEXT, PRICES = "stdlib-text", "synthetic-prices"
_SAY_EVERY_S = 10.0
_END_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        folder: for the store, and for what a failure leaves.
        store: the store's folder; ``None`` without one.
        durability: of the store; none without one.
        kills: end the server's process, too; without a store that loses all.
        seconds: of faults.
        seed: of all dice.
        scale: callers, as a multiple of the usual number.
        pause_s: between two faults, in the mean.
        only: callers of these kinds; all of them if none is named.
        flags: of the server, besides its own.
    """

    folder: Path
    store: Path | None
    durability: str
    kills: bool
    seconds: float
    seed: int = 1
    scale: float = 1.0
    pause_s: float = PAUSE_S
    only: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        history: what callers saw.
        verdict: what the oracle says.
        reads: positions told.
        seconds: of faults, without the oracle.
        judged_s: what the oracle took.
        failures: whatever else was not as it should be.
        left_at: where a failure has left its history.
    """

    history: History
    verdict: Verdict
    reads: int
    seconds: float
    judged_s: float
    failures: list[str]
    left_at: Path | None

    @property
    def is_clean(self) -> bool:
        """Whether all is as it should be."""
        return self.verdict.is_clean and not self.failures


class _Caller(Protocol):
    async def run(self) -> None:
        """Go on until it is time to stop."""


async def run(plan: Plan, say: Callable[[str], None], victim: Server | None = None) -> Outcome:
    """Carry out a plan; ``say`` is told how it goes. Without a ``victim`` it is a process."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    chance, history = random.Random(plan.seed), History()
    victim = victim or Victim(ZOO, store=plan.store, durability=plan.durability, flags=plan.flags)
    proxy = Proxy(random.Random(plan.seed + 1))
    failures: list[str] = []
    start = time.monotonic()
    try:
        await victim.start()
        await proxy.start(victim.port)
        world = World(proxy.address, history, chance, may_lose_tails=plan.durability == "interval")
        nemesis = Nemesis(
            victim,
            proxy,
            history,
            random.Random(plan.seed + 2),
            kills=plan.kills,
            pause_s=plan.pause_s,
        )
        reader = Reader(world)
        try:
            await _hurt(plan, world, nemesis, reader, say)
        except* Exception as errors:
            failures += [f"{type(each).__name__}: {each}" for each in _leaves(errors)]
        else:
            if plan.kills:
                history.faults["kill"] += 1
                await nemesis.kill()  # what was acknowledged last is there, too
            await asyncio.wait_for(reader.read_all(), _END_S)
        finally:
            await reader.close()
        failures += victim.deaths
    finally:
        await proxy.close()
        await victim.close()
    seconds = time.monotonic() - start
    say(f"{history.acknowledged:,} steps were acknowledged in {seconds:.0f} s; now the oracle")
    models = {name: ModelRepository(ZOO).load(name) for name in (TEXT, PRICES)}
    verdict = judge(history, models, may_lose_tails=world.may_lose_tails, seed=plan.seed)
    clean = verdict.is_clean and not failures
    if clean:
        shutil.rmtree(plan.folder, ignore_errors=True)
    else:
        history.save(plan.folder / "history")
    return Outcome(
        history=history,
        verdict=verdict,
        reads=len(history.reads()),
        seconds=seconds,
        judged_s=time.monotonic() - start - seconds,
        failures=failures,
        left_at=None if clean else plan.folder,
    )


def _callers(world: World, plan: Plan) -> list[_Caller]:
    """All of them: most steps come in frames, most ways from single callers."""
    text, prices = _subject(TEXT), _subject(PRICES)

    def frames(number: int) -> _Caller:
        subject = prices if number % 4 == 3 else text
        return FrameCaller(world, subject, rows=128, every_step=number % 4 == 1, pause_s=0.02)

    makers: dict[str, tuple[int, Callable[[int], _Caller]]] = {
        "frames": (4, frames),
        "single": (8, lambda number: SingleCaller(world, prices if number % 3 == 2 else text)),
        "library": (4, lambda number: LibraryCaller(world, prices if number % 3 == 2 else text)),
        "copies": (6, lambda number: CopyingCaller(world, prices if number % 3 == 2 else text)),
        "library stream": (2, lambda _: LibraryStreamCaller(world, text, rows=32)),
    }
    return [
        make(number)
        for kind, (count, make) in makers.items()
        if kind in (plan.only or makers)
        for number in range(max(1, round(count * plan.scale)))
    ]


async def _hurt(
    plan: Plan, world: World, nemesis: Nemesis, reader: Reader, say: Callable[[str], None]
) -> None:
    """Let everybody go on for as long as planned, and then come to an end."""
    callers = _callers(world, plan)
    async with asyncio.TaskGroup() as group:
        for caller in (*callers, reader):
            group.create_task(caller.run())
        hurting = group.create_task(nemesis.run())
        start = time.monotonic()
        while (passed := time.monotonic() - start) < plan.seconds:
            await asyncio.sleep(min(_SAY_EVERY_S, plan.seconds - passed))
            history = world.history
            rate = history.acknowledged / (time.monotonic() - start)
            say(
                f"{time.monotonic() - start:.0f} s: {history.acknowledged:,} steps acknowledged, "
                f"{rate:,.0f} a second, {len(history.eras):,} eras, "
                f"{history.faults.total():,} faults and retries"
            )
        nemesis.stop()
        await hurting
        world.stopping.set()


def _subject(name: str) -> Subject:
    found = ModelRepository(ZOO).load(name).manifest.input
    tokens = len(found.vocabulary) if isinstance(found, TokensInput) else 0
    return Subject(name=name, tokens=tokens)


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in errors.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


CALLERS = ("frames", "single", "library", "copies", "library stream")

__all__ = ["CALLERS", "PRICES", "TEXT", "ZOO", "Outcome", "Plan", "run"]
