"""What it takes to hold a session's state: one session, by the client, call by call.

Here: a rewind by 1,000 steps, of one that has read twice as many beyond its last base, and an
upgrade of one that has read 10,000, in memory and with a store.
"""

import shutil
import time
from pathlib import Path

import cellar
from benchmarks.bench import Bench, Findings, Group
from benchmarks.networks import model_name
from benchmarks.rounds import Figure

SIZE = "2x128"
STEPS = 1000
UPGRADED_STEPS = 10_000


def measure(bench: Bench, findings: Findings) -> None:
    place = bench.place("state")
    for key, flags in (
        ("rewind_1000_ms", ()),
        ("rewind_1000_durable_ms", (f"--store=lmdb:{place / 'store'}",)),
    ):
        server = bench.cellar(SIZE, *flags)
        with cellar.connect(server.address) as client:
            times = rewinds(client, rounds=3 if bench.pace.quick else 20)
        findings.figures[key] = Figure.of(times)
        bench.end_processes()
    models = two_versions(bench, place)
    for key, flags in (
        ("upgrade_10000_ms", ()),
        ("upgrade_10000_durable_ms", (f"--store=lmdb:{place / 'upgraded'}",)),
    ):
        server = bench.cellar_of(models, *flags)
        with cellar.connect(server.address) as client:
            times = upgrades(client, rounds=3 if bench.pace.quick else 20)
        findings.figures[key] = Figure.of(times)
        bench.end_processes()


def two_versions(bench: Bench, place: Path) -> Path:
    """A repository of the model in two versions, which are equal."""
    for version in "12":
        shutil.copytree(bench.model(SIZE).parent, place / "models" / model_name(SIZE) / version)
    return place / "models"


def upgrades(client: cellar.Client, rounds: int) -> list[float]:
    """Milliseconds of each."""
    found = []
    for _ in range(rounds):
        with client.session(model_name(SIZE), version=1, history_steps="all") as session:
            session.feed([1] * UPGRADED_STEPS)
            began_s = time.perf_counter()
            session.upgrade()
            found.append(1e3 * (time.perf_counter() - began_s))
    return found


def rewinds(client: cellar.Client, rounds: int) -> list[float]:
    """Milliseconds of each."""
    found = []
    with client.session(model_name(SIZE), history_steps="all") as session:
        session.feed([1] * 2 * STEPS)
        for _ in range(rounds):
            began_s = time.perf_counter()
            session.rewind(steps=STEPS)
            found.append(1e3 * (time.perf_counter() - began_s))
            session.feed([1] * STEPS)
            if session.position > 3 * STEPS:
                session.rewind(position=2 * STEPS)
    return found


KEYS = (
    "rewind_1000_ms",
    "rewind_1000_durable_ms",
    "upgrade_10000_ms",
    "upgrade_10000_durable_ms",
)
GROUP = Group(name="state", keys=KEYS, measure=measure)
