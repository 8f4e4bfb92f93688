"""What it costs that more sessions live than the device has rows for.

Frames of sessions drawn at random from all of them, nearly each of which is out, beside frames of
sessions that all have rows; and a steady caller, whose sessions stay, beside both. With host memory
for the others, and with a store for most of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import cellar
from benchmarks import vitals
from benchmarks.bench import Bench, Findings, Group
from benchmarks.networks import model_name, state_bytes
from benchmarks.processes import CellarServer, LoadProcess
from benchmarks.rounds import Figure, Loaded, Sample, Series, alternate, cpu, p50, ratio

SIZE = "2x128"
SESSIONS, RESIDENT = 200_000, 10_000
QUICKLY = 4  # times fewer; of fewer rows the steady caller's would go round as well
STREAMS, ROWS = 2, 256
HOT, HOT_RATE = 16, 500.0  # streams, and steps a second: far from what the server can
WITNESSES = 20
TIERS = ("host", "store")
KEYS = tuple(
    f"tiers_{tier}_{figure}"
    for tier in TIERS
    for figure in ("hit_cpu_us", "miss_cpu_us", "misses_per_s", "hot_ratio", "hot_resident_ratio")
)


@dataclass(slots=True, kw_only=True)
class Beside:
    """A steady caller's steps while frames of others go on; counts the former only."""

    series: Series
    hot: Loaded
    others: Loaded

    def round(self, seconds: float) -> Sample:
        """Start the others, measure the steady one, wait for the others."""
        self.others.load.tell("run", case=self.others.name, seconds=seconds)
        sample = self.hot.round(seconds)
        self.others.load.hear()
        return sample


def measure(bench: Bench, findings: Findings) -> None:
    count = SESSIONS // QUICKLY if bench.pace.quick else SESSIONS
    for tier in TIERS:
        _measure_tier(bench, findings, tier, count=count, resident=count * RESIDENT // SESSIONS)
        bench.end_processes()


def _measure_tier(
    bench: Bench, findings: Findings, tier: str, *, count: int, resident: int
) -> None:
    share = 1.2 if tier == "host" else 0.25
    flags = [
        f"--max-sessions={resident}",
        f"--host-memory={int(share * count * state_bytes(SIZE))}",
    ]
    if tier == "store":
        flags.append(f"--store=lmdb:{bench.place('tiers') / 'store'}")
    server, load, hot_load = bench.cellar(SIZE, *flags), bench.load(), bench.load()
    read = _witness(server, before=None)

    def frames(case: str, sessions: int) -> Loaded:
        return bench.case(
            "frames",
            Series(case=f"{case}, {tier}", contestant="Cellar", model=SIZE),
            server,
            load,
            model=model_name(SIZE),
            streams=STREAMS,
            rows=ROWS,
            sessions=sessions // STREAMS,
        )

    everybody = frames(f"{count:,} over {resident:,}", count)
    few = frames("all have rows", max(resident // 4, STREAMS * ROWS))
    findings.series += alternate([few], bench.pace)
    misses = _misses(server)
    findings.series += alternate([everybody], bench.pace)
    samples = everybody.series.samples
    wall_s = sum(own.wall_s for own in samples) + bench.pace.warm_up_s
    share_missed = 1 - resident / count
    hit_us = few.series.figure(cpu).value
    figures = findings.figures
    figures[f"tiers_{tier}_hit_cpu_us"] = few.series.figure(cpu)
    figures[f"tiers_{tier}_miss_cpu_us"] = Figure.of(
        [hit_us + (own.cpu_us - hit_us) / share_missed for own in samples]
    )
    figures[f"tiers_{tier}_misses_per_s"] = Figure.of([(_misses(server) - misses) / wall_s])
    hot = _hot(bench, server, hot_load, tier)
    findings.series += alternate([hot], bench.pace)
    for key, others in (("hot_ratio", everybody), ("hot_resident_ratio", few)):
        series = Series(case=f"… beside {others.series.case}", contestant="Cellar", model=SIZE)
        beside = Beside(series=series, hot=hot, others=others)
        findings.series += alternate([beside], replace(bench.pace, warm_up_s=bench.pace.round_s))
        figures[f"tiers_{tier}_{key}"] = ratio(series, hot.series, p50)
    _witness(server, before=read)


def _hot(bench: Bench, server: CellarServer, load: LoadProcess, tier: str) -> Loaded:
    """Single steps of a few sessions at a steady rate."""
    hot = bench.frames(server, load, SIZE, streams=HOT, rows=1)
    series = Series(case=f"{HOT} streams, steady, {tier}", contestant="Cellar", model=SIZE)
    return replace(hot, series=series, rate=HOT_RATE)


def _misses(server: CellarServer) -> float:
    """How many sessions have come back from where they were."""
    return vitals.total(server.metrics, "cellar_tier_misses_total")


def _witness(
    server: CellarServer, before: list[NDArray[np.float32]] | None
) -> list[NDArray[np.float32]]:
    """Some sessions read a little, and later a little more; they come to what one alone does.

    Raises:
        RuntimeError: one does not.
    """
    found = []
    with cellar.connect(server.address) as client:
        for number in range(WITNESSES):
            first, then = [number + 1, 2, 3], [4, 5]
            if before is None:
                session = client.session(model_name(SIZE), id=f"witness-{number}")
                found.append(np.array(session.feed(first, raw=True).raw))
                continue
            session = client.attach(f"witness-{number}")
            found.append(np.array(session.feed(then, raw=True).raw))
            with client.session(model_name(SIZE)) as alone:
                expected = np.array(alone.feed([*first, *then], raw=True).raw)
            if not np.array_equal(found[-1], expected):
                raise RuntimeError(f"witness-{number} has come back as another one")
    return found


GROUP = Group(name="tiers", keys=KEYS, measure=measure)
