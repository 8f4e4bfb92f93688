"""What a step and a session cost with few and with very many sessions open.

Frames of sessions drawn at random from all that are open. The arena is written in place, so the
cost of a step should hardly depend on how many there are; a copy of the arena would make it about
a thousand times dearer.
"""

from dataclasses import dataclass

from benchmarks import procfs
from benchmarks.bench import Bench, Findings, Group
from benchmarks.networks import model_name, state_bytes
from benchmarks.processes import BareRuntime, LoadProcess
from benchmarks.rounds import Figure, Loaded, Series, alternate, cpu, ratio

SIZE = "2x128"
FEW, MANY, MILLION = 1_000, 100_000, 1_000_000
STREAMS, ROWS = 2, 256
MEMORY_BYTES = 8_000
"""Per session in server, load and bare runtime, assumed before anything is started."""
KEYS = (
    "million_sessions_cost_ratio",
    "million_sessions_memory_ratio",
    "million_sessions_bare_cost_ratio",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A server with sessions open that have stepped."""

    frames: Loaded
    bytes_per_session: float


def measure(bench: Bench, findings: Findings) -> None:
    counts = [FEW, MANY]
    needed = (MILLION + MANY) * MEMORY_BYTES
    if bench.pace.quick:
        findings.skip(KEYS, f"a quick run opens {MANY:,} sessions at most")
    elif procfs.available_bytes() < needed:
        free = procfs.available_bytes() / 1e9
        findings.skip(KEYS, f"{free:.1f} GB of memory are free, {needed / 1e9:.1f} GB wanted")
    else:
        counts.append(MILLION)
    load, runtime = bench.load(), bench.bare_runtime(SIZE)
    opened = {count: open_sessions(bench, load, count, most=counts[-1]) for count in counts}
    bare = {count: bare_sessions(bench, runtime, count) for count in counts}
    contestants = [*(found.frames for found in opened.values()), *bare.values()]
    findings.series = alternate(contestants, bench.pace)
    for count, found in opened.items():
        findings.notes[f"bytes_per_session_{count}"] = found.bytes_per_session
    if MILLION in opened:
        findings.figures["million_sessions_cost_ratio"] = ratio(
            opened[MILLION].frames.series, opened[FEW].frames.series, cpu
        )
        findings.figures["million_sessions_memory_ratio"] = Figure.of(
            [opened[MILLION].bytes_per_session / state_bytes(SIZE)]
        )
        findings.figures["million_sessions_bare_cost_ratio"] = ratio(
            bare[MILLION].series, bare[FEW].series, cpu
        )


def open_sessions(bench: Bench, load: LoadProcess, count: int, *, most: int) -> Opened:
    """Open so many sessions on a server with room for the most, and step each once."""
    server = bench.cellar(SIZE, f"--max-sessions={most}")
    before = server.rss_bytes()
    frames = bench.case(
        "frames",
        Series(case=f"{count:,} open", contestant="Cellar", model=SIZE),
        server,
        load,
        model=model_name(SIZE),
        streams=STREAMS,
        rows=ROWS,
        sessions=count // STREAMS,
    )
    return Opened(frames=frames, bytes_per_session=(server.rss_bytes() - before) / count)


def bare_sessions(bench: Bench, runtime: BareRuntime, count: int) -> Loaded:
    """The same rows in the bare runtime: what the memory itself costs."""
    bare = bench.bare(runtime, SIZE, batch=ROWS, sessions=count, drawn=True)
    bare.series.case = f"{count:,} rows"
    return bare


GROUP = Group(name="sessions", keys=KEYS, measure=measure)
