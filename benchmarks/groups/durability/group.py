"""CPU per step, latency and room of each durability, beside a server without a store."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench, Findings, Group
from benchmarks.groups.durability.disk import BareSync
from benchmarks.networks import model_name
from benchmarks.processes import CellarServer
from benchmarks.rounds import (
    Figure,
    Loaded,
    Sample,
    Series,
    alternate,
    cpu,
    difference,
    p50,
    p99,
    ratio,
)
from service.store.folder import JOURNAL, TABLE
from service.store.journal.layout import record_bytes
from service.store.journal.snapshot import JournalSnapshot
from service.store.reading import Snapshot

SIZE = "2x128"
STREAMS, ROWS = 2, 256
LEVELS = ("memory", "interval", "commit")
KEEP_ALL = ("--recovery-s=1000000", "--checkpoint-steps=1000000")
"""The journal keeps all that was written."""
CHECKPOINTS = ("--checkpoint-steps=8", "--checkpoint-share=0.25")
"""Some 1,000 a second, beside `BESIDE_FRAMES`."""
BESIDE_FRAMES, BESIDE_SESSIONS = 40.0, 10_000
JOURNAL_LIMIT = 4 << 20
WRITTEN = 4
"""So many times the limit is written: as in an hour of 100,000 steps/s, at the usual limit."""


@dataclass(slots=True, kw_only=True)
class Beside:
    """A lone caller while frames of others run at a steady rate; counts the lone one only."""

    series: Series
    lone: Loaded
    frames: Loaded

    def round(self, seconds: float) -> Sample:
        """Start the frames, measure the lone caller, wait for the frames."""
        self.frames.load.tell("run", case=self.frames.name, seconds=seconds, rate=BESIDE_FRAMES)
        sample = self.lone.round(seconds)
        self.frames.load.hear()
        return sample


def measure(bench: Bench, findings: Findings) -> None:
    _cpu(bench, findings)
    bench.end_processes()
    _latency(bench, findings)
    bench.end_processes()
    _room(bench, findings)


def _cpu(bench: Bench, findings: Findings) -> None:
    """What a step costs, and what it leaves in the journal."""
    load = bench.load()
    servers = {level: _server(bench, f"cpu-{level}", level, *KEEP_ALL) for level in LEVELS}
    frames = {
        level: bench.frames(server, load, SIZE, streams=STREAMS, rows=ROWS)
        for level, (server, _) in servers.items()
    }
    for level, contestant in frames.items():
        contestant.series.contestant = f"Cellar, {level}"
    findings.series += alternate(list(frames.values()), bench.pace)
    for level in ("interval", "commit"):
        found = ratio(frames[level].series, frames["memory"].series, cpu)
        findings.figures[f"durability_{level}_cpu_ratio"] = found
    _, store = servers["commit"]
    before = _held(store, JOURNAL)
    sample = frames["commit"].round(bench.pace.round_s)  # nothing else is in between
    grown = _held(store, JOURNAL) - before
    findings.figures["journal_bytes_per_step"] = Figure.of([grown / sample.steps])


def _latency(bench: Bench, findings: Findings) -> None:
    """What a reply waits for."""
    contestants = {}
    for level in ("memory", "commit"):
        server, _ = _server(bench, f"lone-{level}", level)
        contestants[level] = bench.frames(server, bench.load(), SIZE, streams=1, rows=1)
        contestants[level].series.contestant = f"Cellar, {level}"
    server, _ = _server(bench, "lone-beside", "commit", *CHECKPOINTS)
    lone = bench.frames(server, bench.load(), SIZE, streams=1, rows=1)
    frames = bench.case(
        "frames",
        Series(case="beside", contestant="Cellar", model=SIZE),
        server,
        bench.load(),
        model=model_name(SIZE),
        streams=1,
        rows=ROWS,
        sessions=BESIDE_SESSIONS,
    )
    lone.series.case = "1 stream, beside checkpoints"
    lone.series.contestant = "Cellar, commit"
    beside = Beside(series=lone.series, lone=lone, frames=frames)
    sync = BareSync(bench.place("sync"))
    memory, commit = contestants["memory"].series, contestants["commit"].series
    findings.series += alternate([*contestants.values(), beside, sync], bench.pace)
    for name, metric in (("p50", p50), ("p99", p99)):
        findings.figures[f"durability_sync_{name}_ms"] = sync.series.figure(metric)
        for case, series in (("added", commit), ("checkpoints_added", beside.series)):
            found = difference(series, memory, metric)
            findings.figures[f"durability_{case}_{name}_ms"] = found


def _room(bench: Bench, findings: Findings) -> None:
    """What a long load leaves, with a session that was idle all the while."""
    flags = (f"--journal-bytes={JOURNAL_LIMIT}",)
    server, store = _server(bench, "room", "commit", *flags)
    load = bench.load()
    idle = bench.frames(server, load, SIZE, streams=1, rows=1)
    idle.round(0.01)
    frames = bench.frames(server, load, SIZE, streams=STREAMS, rows=ROWS)
    per_step = findings.figures["journal_bytes_per_step"].value
    wanted = WRITTEN * JOURNAL_LIMIT / per_step / (8 if bench.pace.quick else 1)
    steps, most = 0, 0
    while steps < wanted:
        steps += frames.round(0.5).steps
        most = max(most, _held(store, JOURNAL))
    findings.figures["journal_limit_ratio"] = Figure.of([most / JOURNAL_LIMIT])
    findings.notes["store_mb"] = (_held(store, JOURNAL) + _held(store, TABLE)) / 1e6
    findings.notes["store_steps"] = steps


def _server(bench: Bench, name: str, level: str, *flags: str) -> tuple[CellarServer, Path]:
    store = bench.place(name) / "store"
    if level == "memory":
        return bench.cellar(SIZE), store
    more = (f"--store=lmdb:{store}", f"--durability={level}", *flags)
    return bench.cellar(SIZE, *more), store


def _held(store: Path, name: str) -> int:
    """Bytes of a side of a store that hold something."""
    if name == JOURNAL:
        with JournalSnapshot(store / name) as journal:
            held: list[int] = []
            for group in journal.groups(forget=held.clear):
                held.append(record_bytes(len(group.data)))  # noqa: PERF401 (it may be cleared)
            return sum(held)
    with Snapshot(store / name) as snapshot:
        return snapshot.held_bytes


GROUP = Group(
    name="durability",
    keys=(
        "durability_interval_cpu_ratio",
        "durability_commit_cpu_ratio",
        "journal_bytes_per_step",
        *(
            f"durability_{case}_{name}_ms"
            for name in ("p50", "p99")
            for case in ("sync", "added", "checkpoints_added")
        ),
        "journal_limit_ratio",
    ),
    measure=measure,
)
