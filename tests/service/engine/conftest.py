"""An engine on a fake device."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from service.engine.engine import Engine
from service.engine.served.registry import ServedModel, arena_rows
from service.metrics import Metrics
from service.settings import EngineSettings
from tests.service.engine.fakes import FakeRunner, fake_manifest


@dataclass
class Clock:
    """A clock that stands still until told."""

    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class House:
    """An engine with one fake model."""

    engine: Engine
    served: ServedModel
    runner: FakeRunner
    metrics: Metrics
    clock: Clock = field(default_factory=Clock)


@pytest.fixture(params=["inline", "worker"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """Small limits, so that tests reach them; both ways to run a batch."""
    settings = EngineSettings(
        max_sessions=32,
        host_memory=0,
        spare_slots=16,
        max_paths=16,
        default_paths=8,
        max_batch=8,
        chunk_steps=4,
        max_pending_steps=400,
        max_request_steps=200,
        max_history_bytes=2000,
        inline_run_s=1e9 if request.param == "inline" else 0.0,
    )
    clock = Clock()
    metrics = Metrics()
    engine = Engine(settings, metrics, clock=clock)
    runner = FakeRunner(arena_rows(settings, fake_manifest()))
    served = engine.registry.add(
        name="fake", version=1, manifest=fake_manifest(), fingerprint="f", runners=(runner,)
    )
    served.warm_up()
    runner.batches.clear()
    engine.loading = False
    yield House(engine=engine, served=served, runner=runner, metrics=metrics, clock=clock)
    runner.gate.set()
    await engine.drain()
    engine.stop()
