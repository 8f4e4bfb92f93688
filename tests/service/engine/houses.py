"""Engines made to measure: as many shards as wanted, on fake devices or on real ones."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.compile.arena import compile_model
from models.compile.stateless import compile_stateless
from models.manifest import Manifest
from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.probe import SHARED, Findings
from service.engine.execution.stateless import StatelessRunner
from service.engine.served.registry import ServedModel, arena_rows
from service.errors import StoreUnavailableError
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import Store, StoreFailedError
from tests.recurrent import Case, WholeCase
from tests.service.engine.fakes import FakeRunner, fake_manifest, initial_rows

SMALL = {
    "max_sessions": 32,
    "host_memory": 0,  # no more sessions than rows
    "max_open_sessions": 1,
    "spare_slots": 16,
    "max_paths": 16,
    "default_paths": 8,
    "max_batch": 8,
    "chunk_steps": 4,
    "max_pending_steps": 400,
    "max_request_steps": 200,
    "inline_run_s": 1e9,
}
INLINE, WORKER = 1e9, 0.0  # settings of inline_run_s
PLAYS = int(os.environ.get("PLAYS", "1"))  # times as many as `make test-long` has


def promised_steps(served: ServedModel) -> int:
    """By how many steps sessions will have moved on once what is queued has run."""
    tables = [shard.table for shard in served.shards]
    return int(sum((table.accepted - table.position).sum() for table in tables))


def leftovers(served: ServedModel) -> dict[str, int]:
    """What is still counted, queued, borrowed or doubled: nothing, once all was answered.

    Some of it shows inside only; it is gathered here, so that no test need look there.
    """
    found: dict[str, int] = {
        "pending steps": served.usage.pending_steps,
        "promised steps": promised_steps(served),
        "spares": served.usage.spares,
        "flows that wait": sum(shard._flows.active for shard in served.shards),
    }
    for number, shard in enumerate(served.shards):
        scheduler, feedback, slots = shard._scheduler, shard.feedback, shard.slots
        rows, freed = feedback._free, (slots.sessions._freed, slots.spares._freed)
        own = {
            "runs of the worker": len(shard._runs),
            "busy slots": int((shard.table.tickets != shard.table.serving).sum()),
            "slots that wait to be free": len(slots.leaving),
            "slots that are free twice": sum(len(some) - len(set(some)) for some in freed),
            "spares of chunks": scheduler._chunk_spares.used,
            "queued work": scheduler.waiting,
            "queued rows": scheduler.ready_rows,
            "parked work": len(scheduler.parked),
            "work that is remembered": len(scheduler._left),
            "chunks that want a spare": len(scheduler._spareless),
            "flows that have spares": len(scheduler._borrowed),
            "steps in flight": feedback.in_flight,
            "rows that feed back": sum(call is not None for call in feedback._calls),
            "ready rows that feed back": feedback.ready_rows,
            "rows that nobody has": len(feedback._calls) - len(set(rows)),
            "rows that are free twice": len(rows) - len(set(rows)),
        }
        found |= {f"{name} of shard {number}": count for name, count in own.items()}
    return {name: count for name, count in found.items() if count}


def set_worth_a_batch(served: ServedModel, rows: int) -> None:
    """Let so many rows of single steps be enough for a run of their own."""
    for shard in served.shards:
        shard._policy.worth_a_batch = rows


@dataclass(kw_only=True)
class Clocks:
    """What an engine takes for the time."""

    served_s: float = 1000.0
    wall_s: float = 1.8e9


@dataclass(kw_only=True)
class House:
    """An engine with one model on several shards."""

    engine: Engine
    served: ServedModel

    def find(self, name: str) -> Session:
        return self.engine.directory.find(name)

    def row(self, name: str) -> int:
        """The row of the arena that a session has."""
        session = self.find(name)
        return int(session.shard.table.row[session.slot])

    def promised_steps(self) -> int:
        """By how many steps sessions will have moved on once what is queued has run."""
        return promised_steps(self.served)

    def position(self, name: str) -> int:
        """Where a session stands."""
        return self.engine.directory.describe(name).position


@dataclass(kw_only=True)
class Fakes(House):
    """A house with a fake model.

    Attributes:
        others: the same engine as seen by further versions of the model.
    """

    runners: list[FakeRunner]
    others: "list[Fakes]" = field(default_factory=list)

    def open(self, name: str, *, initial: int = 0) -> str:
        """Open a session; with ``initial`` that is the state that a `DecodingRunner` has for it."""
        rows = initial_rows(initial) if initial else None
        return self.engine.open(self.served, name, initial=rows).id

    def state(self, name: str) -> int:
        """What the device holds for a session."""
        session = self.find(name)
        return int(self.runners[self.served.shards.index(session.shard)].state[self.row(name)])

    async def settle(self) -> None:
        """Wait until all that was submitted is answered."""
        for house in (self, *self.others):
            await house.served.drained()
        for _ in range(3):  # refusals go out behind the tick
            await asyncio.sleep(0)


@dataclass(kw_only=True)
class Reals(House):
    """A house with a real model."""

    runners: list[CpuRunner]

    def state(self, name: str) -> list[NDArray[np.float32]]:
        """What the device holds for a session."""
        session = self.find(name)
        arena = self.runners[self.served.shards.index(session.shard)].arena
        return [array[self.row(name)].copy() for array in arena]


@asynccontextmanager
async def fakes(shards: int = 1, **settings: float) -> AsyncIterator[Fakes]:
    """A house of fakes with small limits, where others are not wanted."""
    async with fakes_on(
        FakeRunner,
        shards,
        store=None,
        arithmetic="",
        clocks=None,
        clock=time.monotonic,
        fingerprint="f",
        versions=1,
        **settings,
    ) as house:
        yield house


@asynccontextmanager
async def fakes_on(
    device: Callable[[int], FakeRunner],
    shards: int = 1,
    /,
    *,
    store: Store | None = None,
    arithmetic: str = "",
    clocks: Clocks | None = None,
    clock: Callable[[], float] = time.monotonic,
    fingerprint: str = "f",
    versions: int = 1,
    **settings: float | str,
) -> AsyncIterator[Fakes]:
    """The same, on devices that ``device`` makes, each with so many slots, and on a store.

    The model may have several versions, which differ in nothing but their fingerprints.
    """
    limits = EngineSettings.model_validate({**SMALL, **settings})
    runners: list[FakeRunner] = []

    def runner(number: int) -> FakeRunner:
        runners.append(device(arena_rows(limits, fake_manifest(), number, shards)))
        return runners[-1]

    devices = [[runner(n) for n in range(shards)] for _ in range(versions)]
    async with _serving(
        limits,
        fake_manifest(),
        devices[0],
        store=store,
        arithmetic=arithmetic,
        clocks=clocks,
        clock=clock,
        fingerprint=fingerprint,
        others=devices[1:],
    ) as (engine, served):
        for fake in runners:
            fake.batches.clear()
        others = [
            Fakes(engine=engine, served=engine.registry.find(served.name, number), runners=own)
            for number, own in enumerate(devices[1:], 2)
        ]
        try:
            yield Fakes(engine=engine, served=served, runners=devices[0], others=others)
        finally:
            for fake in runners:
                fake.gate.set()


@asynccontextmanager
async def reals(
    case: Case,
    shards: int = 1,
    *,
    findings: Findings = SHARED,
    store: Store | None = None,
    **settings: float | str,
) -> AsyncIterator[Reals]:
    """A house with the model of a case, on a store if there is one."""
    limits = EngineSettings.model_validate(
        {"max_sessions": 512, "spare_slots": 1024, "max_batch": 64, "chunk_steps": 8, **settings}
    )
    graph = compile_model(case.model)
    runners = [
        CpuRunner(
            graph,
            slots=arena_rows(limits, case.manifest, number, shards),
            max_batch=limits.max_batch,
        )
        for number in range(shards)
    ]
    for runner in runners:
        runner.rows_run_alone = findings.rows_run_alone
    async with _serving(limits, case.manifest, runners, findings, store) as (engine, served):
        yield Reals(engine=engine, served=served, runners=runners)


@asynccontextmanager
async def wholes(
    case: WholeCase, *, runner: StatelessRunner | None = None, workers: int = 1, **settings: float
) -> AsyncIterator[tuple[Engine, ServedModel]]:
    """A house with a model that reads whole sequences."""
    engine = Engine(EngineSettings.model_validate(settings), Metrics())
    served = engine.registry.add(
        name=case.manifest.name,
        version=1,
        manifest=case.manifest,
        fingerprint="f",
        stateless=[runner or StatelessRunner(compile_stateless(case.model))] * workers,
    )
    engine.loading = False
    try:
        yield engine, served
    finally:
        await asyncio.wait_for(engine.drain(), 20)
        engine.stop()


@asynccontextmanager
async def _serving(
    limits: EngineSettings,
    manifest: Manifest,
    runners: list[FakeRunner] | list[CpuRunner],
    findings: Findings = SHARED,
    store: Store | None = None,
    arithmetic: str = "",
    clocks: Clocks | None = None,
    clock: Callable[[], float] = time.monotonic,
    fingerprint: str = "f",
    others: Sequence[list[FakeRunner]] = (),
) -> AsyncIterator[tuple[Engine, ServedModel]]:
    if clocks is None:
        engine = Engine(limits, Metrics(), clock=clock, store=store)
    else:
        engine = Engine(
            limits,
            Metrics(),
            store=store,
            clock=lambda: clocks.served_s,
            wall_clock=lambda: clocks.wall_s,
        )
    served = engine.registry.add(
        name=manifest.name,
        version=1,
        manifest=manifest,
        fingerprint=fingerprint,
        runners=runners,
        findings=findings,
        arithmetic=arithmetic,
    )
    served.warm_up()
    for version, own in enumerate(others, 2):
        engine.registry.add(
            name=manifest.name,
            version=version,
            manifest=manifest,
            fingerprint=f"{fingerprint}{version}",
            runners=own,
            findings=findings,
            arithmetic=arithmetic,
        ).warm_up()
    engine.restore_sessions()
    engine.loading = False
    try:
        yield engine, served
    finally:
        with suppress(StoreFailedError, StoreUnavailableError):  # it has crashed, for a test
            await _drained(engine)
            await engine.settle_store(20)
        engine.stop()


async def _drained(engine: Engine) -> None:
    """What waits for a store that has failed would wait for ever, and is left behind."""
    lost, drained = (asyncio.ensure_future(own) for own in (engine.failed.wait(), engine.drain()))
    try:
        await asyncio.wait((lost, drained), timeout=20, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait_for(drained, 0.2)
    except TimeoutError:
        if not lost.done():
            raise
    finally:
        lost.cancel()
