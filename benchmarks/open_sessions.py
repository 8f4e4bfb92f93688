"""What a step costs with few and with many sessions open.

Two engines hold the same 2x128 LSTM, one with 1,000 sessions open and one with 100,000. Frames
of 64 sessions, drawn at random from all that are open, run on the one and on the other in turn,
so that a slow moment of the machine hits both. The arena is written in place: the ratio should
be near 1. A copy of the arena would make it about 100.

Run it with ``make bench``.
"""

import asyncio
import json
import platform
import string
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from models.arena import compile_model
from models.manifest import fingerprint
from models.repository import Model
from service.engine.batch import Ints, Outputs
from service.engine.engine import Engine
from service.engine.runner import OrtRunner
from service.engine.shard import Shard
from service.engine.stream import Reply, SessionStream
from service.metrics import Metrics
from service.settings import EngineSettings
from training.config import Cell
from training.export import export
from training.networks import CharNetwork

FEW, MANY = 1_000, 100_000
ROWS = 64
FRAMES_PER_ROUND = 200
ROUNDS = 15
ATTACHED_AT_ONCE = 10_000


@dataclass
class Contestant:
    """An engine with its sessions open, and the stream they are attached to."""

    engine: Engine
    stream: SessionStream
    sessions: int
    answered: asyncio.Event
    noise: np.random.Generator

    async def frame(self, channels: Ints) -> None:
        """Step some sessions and wait for the replies."""
        reader = self.stream.served.reader
        self.answered.clear()
        self.stream.submit(channels, None, None, reader.tokens(channels % 26))
        await self.answered.wait()

    async def round(self) -> tuple[float, float]:
        """Microseconds per step of one round: wall time, and CPU time of the process."""
        frames = [
            self.noise.choice(self.sessions, ROWS, replace=False) for _ in range(FRAMES_PER_ROUND)
        ]
        wall, cpu = time.perf_counter(), time.process_time()
        for channels in frames:
            await self.frame(channels)
        steps = FRAMES_PER_ROUND * ROWS
        return (time.perf_counter() - wall) / steps * 1e6, (time.process_time() - cpu) / steps * 1e6


async def contestant(model: Model, sessions: int) -> Contestant:
    """Open so many sessions."""
    settings = EngineSettings(max_sessions=MANY)
    engine = Engine(settings, Metrics())
    runner = OrtRunner(
        compile_model(model), slots=Shard.rows(settings), max_batch=settings.max_batch
    )
    served = engine.catalog.add(
        name=model.name,
        version=1,
        manifest=model.manifest,
        fingerprint=model.fingerprint,
        runner=runner,
    )
    served.shard.warm_up()
    engine.loading = False
    answered = asyncio.Event()
    missing = ROWS

    def count(reply: Reply) -> None:
        nonlocal missing
        missing -= len(reply.channels)
        if missing == 0:
            missing = ROWS
            answered.set()

    stream = SessionStream(engine, served, outputs=Outputs(argmax=True), sampling=None, send=count)
    for first in range(0, sessions, ATTACHED_AT_ONCE):
        channels = np.arange(first, min(first + ATTACHED_AT_ONCE, sessions))
        names = [f"session {n}" for n in channels]
        attached = await stream.attach(names, channels, open_sessions=True)
        assert len(attached.channels) == len(channels), attached.refusals[:1]
    found = Contestant(engine, stream, sessions, answered, np.random.default_rng(0))
    reader = served.reader
    for first in range(0, sessions, ROWS):  # every session has stepped: its memory is in use
        channels = np.arange(first, min(first + ROWS, sessions))
        missing = len(channels)
        answered.clear()
        stream.submit(channels, None, None, reader.tokens(channels % 26))
        await answered.wait()
    missing = ROWS
    return found


def lstm(hidden: int, layers: int) -> Model:
    """An untrained character model: arithmetic costs the same, whatever the weights."""
    torch.manual_seed(0)
    network = CharNetwork(
        vocabulary=tuple(string.ascii_lowercase),
        cell=Cell.LSTM,
        hidden=hidden,
        layers=layers,
        embedding=64,
    )
    proto, manifest = export(network.eval(), name="bench")
    return Model(
        name="bench",
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=Path("bench.onnx"),
    )


async def measure() -> dict[str, object]:
    """Run both contestants in turn and compare them round by round."""
    model = lstm(hidden=128, layers=2)
    few, many = await contestant(model, FEW), await contestant(model, MANY)
    for warm in (few, many):
        await warm.round()
    rounds = [(await few.round(), await many.round()) for _ in range(ROUNDS)]
    for used in (few, many):
        await used.engine.drain()
        used.engine.stop()
    walls = [(a[0], b[0]) for a, b in rounds]
    cpus = [(a[1], b[1]) for a, b in rounds]
    ratios = sorted(b / a for a, b in cpus)
    table = Table("open sessions", "µs a step, wall", "µs a step, CPU")
    for index, sessions in enumerate((FEW, MANY)):
        wall, cpu = (median(pair[index] for pair in kind) for kind in (walls, cpus))
        table.add_row(f"{sessions:,}", f"{wall:.2f}", f"{cpu:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"cost with {MANY:,} over cost with {FEW:,} open sessions: {median(ratios):.2f} "
        f"(rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    return {
        "benchmark": "open_sessions",
        "model": "lstm 2x128",
        "rows": ROWS,
        "sessions": [FEW, MANY],
        "cpu_us_per_step": [round(median(pair[i] for pair in cpus), 3) for i in (0, 1)],
        "open_sessions_cost_ratio": round(median(ratios), 3),
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
