"""Processes one after the other on one store: what one has told, the next one has to know."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from unittest.mock import patch

from structlog.testing import capture_logs

from benchmarks.crash.clients import Clients
from benchmarks.crash.dying import DyingStore, Point, Stage
from benchmarks.crash.past import Past, WrongError
from service.engine.log.recovery import folding
from service.errors import CellarError
from service.store.store import StoreError, StoreFailedError
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on

NAMES = "abcdefgh"
MOST_CALLS = 24  # of a store: points beyond that are rarely reached
LIVES = 30  # processes on one store, then a new one begins
FAULTY = 0.15  # of all processes: runs fail in them
BOTH = 2e-4  # of inline_run_s: small runs on the event loop, others on the worker
_UNFORESEEN = {"turn failed", "request failed", "reply could not be made", "store damaged"}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        points: how many processes ended where.
        counts: what was asked and answered.
        findings: what was wrong.
    """

    points: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[WrongError] = field(default_factory=list)

    def of_kind(self, kind: str) -> int:
        """Findings of one kind."""
        return sum(found.kind == kind for found in self.findings)


def points() -> Iterator[Point]:
    """Every call in turn, each at every stage."""
    for number in count():
        for stage in Stage:
            yield Point(call=1 + number % MOST_CALLS, stage=stage)


async def run(
    wanted: int,
    *,
    seed: int,
    new_store: Callable[[], DyingStore] = DyingStore,
    most_findings: int = 20,
    looked_for: Collection[str] = (),
    told: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Let so many processes end, and hold each against what was told before.

    Args:
        wanted: how many.
        seed: of all dice; how threads take turns is not among them.
        new_store: what a chain of processes begins with.
        most_findings: it ends when there are so many.
        looked_for: kinds of findings; where there are some, only those count for that.
        told: is called after each process.
    """
    outcome, dice, where = Outcome(), Random(seed), points()
    store, pasts = new_store(), [Past(name=name) for name in NAMES]
    # What ends these processes is no session that is folded.
    with patch.object(folding, "_MOST_ENDS", wanted):
        for life in range(wanted):
            if life % LIVES == 0:
                store, pasts = new_store(), [Past(name=name) for name in NAMES]
            store = await _live(store, pasts, dice, next(where), outcome)
            told(outcome)
            found = [own for own in outcome.findings if not looked_for or own.kind in looked_for]
            if len(found) >= most_findings:
                break
    return outcome


async def _live(
    store: DyingStore, pasts: list[Past], dice: Random, point: Point, outcome: Outcome
) -> DyingStore:
    """One process, from its start to its end."""
    ends = dice.choices(["call", "time", "fails", "stop"], [70, 15, 10, 5])[0]
    store.dice = Random(dice.random())
    if ends == "call":
        store.point = point
    elif ends == "fails":
        store.fails_at = point.call
    noise = dice.random()
    died, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_death() -> None:
        loop.call_soon_threadsafe(died.set)

    store.on_death = on_death

    def device(slots: int) -> DecodingRunner:
        runner = DecodingRunner(slots)
        runner.dice = Random(dice.random())
        return runner

    clients: Clients | None = None
    with capture_logs() as logs:
        # A start writes, too, and may be the end.
        with suppress(StoreFailedError):
            async with fakes_on(
                device,
                dice.choice([1, 1, 2]),
                store=store,
                inline_run_s=dice.choice([INLINE, WORKER, BOTH]),
                checkpoint_steps=dice.choice([1, 5, 1000]),
                recovery_s=dice.choice([1e-6, 30.0]),
                store_timeout_s=0.01,
            ) as house:
                clients = Clients(house, dice, has_faults=noise < FAULTY)
                for runner in house.runners:
                    assert isinstance(runner, DecodingRunner)
                    runner.fault_rate = 0.02 if noise < FAULTY else 0.0
                for past in pasts:
                    past.in_doubt = True
                _no_others(house, pasts, outcome)
                tasks = _tasks(clients, house, store, pasts, dice, ends)
                await _until_the_end(tasks, died, house, ends=ends)
                if ends == "stop" and not died.is_set():
                    _all_answered(pasts, outcome)
                else:
                    store.die(ends if ends != "call" else "the end")
        if store.left is None:
            store.die("stop" if ends == "stop" else "the start")
    outcome.points[store.died_at] += 1
    if clients is not None:
        outcome.counts += clients.counts
        outcome.findings += clients.findings
    outcome.findings += [
        WrongError("other", str(log)) for log in logs if log["event"] in _UNFORESEEN
    ]
    assert store.left is not None, "it has died"
    return store.left


def _tasks(
    clients: Clients,
    house: Fakes,
    store: DyingStore,
    pasts: list[Past],
    dice: Random,
    ends: str,
) -> list[asyncio.Task[None]]:
    """What goes on in a process; the first of them end by themselves."""
    shuffled = dice.sample(pasts, len(pasts))
    cuts = sorted(dice.sample(range(1, len(pasts)), dice.randint(1, 4)))
    shares = [
        shuffled[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(pasts)], strict=True)
    ]
    calls = dice.choice([3, 8, 15])
    jobs = [clients.write(share, calls) for share in shares]
    background = [clients.read(pasts), _look_after(house, dice)]
    if dice.random() < 0.1:
        background.append(_disturb(store, dice))
    if ends == "time":
        background.append(_die(store, dice))
    tasks = [asyncio.create_task(job) for job in jobs]
    return tasks + [asyncio.create_task(job, name="background") for job in background]


async def _until_the_end(
    tasks: list[asyncio.Task[None]], died: asyncio.Event, house: Fakes, *, ends: str
) -> None:
    own = [task for task in tasks if task.get_name() != "background"]
    work = asyncio.gather(*own)
    death = asyncio.create_task(died.wait())
    failure = asyncio.create_task(house.engine.failed.wait())
    done, _ = await asyncio.wait(
        (work, death, failure), timeout=20, return_when=asyncio.FIRST_COMPLETED
    )
    if death not in done and failure in done:  # nothing is told any more
        for _ in range(20):
            await asyncio.sleep(0)
    others = [death, failure, *tasks]
    hung = not done and [task.get_stack()[-1:] for task in own if not task.done()]
    for task in others:
        task.cancel()
    results = await asyncio.gather(*others, return_exceptions=True)
    with suppress(asyncio.CancelledError, CellarError, StoreError):
        await work
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, CellarError | StoreError):
            raise result
    if hung:
        raise TimeoutError(f"a client hangs in {hung} ({ends})")


async def _look_after(house: Fakes, dice: Random) -> None:
    """Checkpoints, and the journal let go, much more often than is needed."""
    upkeep = house.engine._upkeep
    assert upkeep is not None
    while True:
        for _ in range(dice.choice([1, 5, 20])):
            await asyncio.sleep(0)
        with suppress(StoreError, CellarError):  # it has crashed, or is full
            await upkeep.look_after()
        await asyncio.sleep(0.0005)


async def _die(store: DyingStore, dice: Random) -> None:
    for _ in range(dice.randrange(400)):
        await asyncio.sleep(0)
    store.die("time")


async def _disturb(store: DyingStore, dice: Random) -> None:
    """The store is full, or does not answer, for a while."""
    for _ in range(dice.randrange(50)):
        await asyncio.sleep(0)
    if dice.random() < 0.3:
        store.full = True
        await asyncio.sleep(0.005)
        store.full = False
        return
    gate = store.gate = threading.Event()
    try:
        await asyncio.sleep(0.02)
    finally:
        store.gate = None
        gate.set()


def _no_others(house: Fakes, pasts: list[Past], outcome: Outcome) -> None:
    """Sessions that are open, and those that may be."""
    may = {past.name for past in pasts if any(way.is_open for way in past.ways())}
    for name in set(house.engine.directory.sessions) - may:
        outcome.findings.append(WrongError("doubled", f"{name} is open, and was closed"))


def _all_answered(pasts: list[Past], outcome: Outcome) -> None:
    for past in pasts:
        if past.sent:
            outcome.findings.append(WrongError("lost", f"{past.name}: {past.sent} not answered"))
