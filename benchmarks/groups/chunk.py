"""Single steps at a steady rate, alone and beside a caller that keeps sending long chunks."""

from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.bench import Bench, Findings, Group
from benchmarks.networks import model_name
from benchmarks.rounds import Loaded, Pace, Sample, Series, alternate, p99, ratio, speed

SIZE = "2x128"
SESSIONS = 64
CHUNK_STEPS = 4_000
BUSY = 0.5
"""Of a core, that single steps alone take: the chunks find room, and are in the way."""
_TRIES = 4


@dataclass(slots=True, kw_only=True)
class Beside:
    """Single steps while chunks run; counts the single steps only.

    The server's CPU per step is that of both, and so it is the chunks' doing.
    """

    series: Series
    singles: Loaded
    chunks: Loaded
    chunk_steps_per_s: list[float] = field(default_factory=list)

    def round(self, seconds: float) -> Sample:
        """Start the chunks, measure the single steps, wait for the chunks."""
        self.chunks.load.tell("run", case=self.chunks.name, seconds=seconds)
        sample = self.singles.round(seconds)
        found = self.chunks.load.hear()
        self.chunk_steps_per_s.append(found["steps"] / found["wall_s"])
        return sample


def measure(bench: Bench, findings: Findings) -> None:
    server, load, other_load = bench.cellar(SIZE), bench.load(), bench.load()
    singles = bench.frames(server, load, SIZE, streams=SESSIONS, rows=1)
    singles.series.case = f"{SESSIONS} streams, flat out"
    findings.series += alternate([singles], bench.pace)
    alone = replace(
        singles,
        series=Series(case=f"{SESSIONS} streams, steady", contestant="Cellar", model=SIZE),
        rate=BUSY * singles.series.figure(speed).value,
    )
    settle(alone, bench.pace)
    chunks = bench.case(
        "steps",
        Series(case="chunks", contestant="Cellar", model=SIZE),
        server,
        other_load,
        model=model_name(SIZE),
        sessions=1,
        steps=CHUNK_STEPS,
    )
    beside = Beside(
        series=Series(case="… beside chunks", contestant="Cellar", model=SIZE),
        singles=alone,
        chunks=chunks,
    )
    pace = replace(bench.pace, round_s=2 * bench.pace.round_s)  # a chunk runs for half a second
    findings.series += alternate([alone, beside], pace)
    findings.notes["chunk_steps_per_s"] = median(beside.chunk_steps_per_s)
    findings.figures["chunk_p99_ratio"] = ratio(beside.series, alone.series, p99)


def settle(singles: Loaded, pace: Pace) -> None:
    """Set the rate so that the server is busy for half of a core.

    A message costs the more, the fewer come at once: half of the most messages per second is much
    more than half of a core, and with no room left for chunks the wait would only grow.
    """
    assert singles.rate is not None
    for _ in range(_TRIES):
        sample = singles.round(pace.round_s)
        singles.rate *= min(BUSY * sample.wall_s / sample.server_cpu_s, 1.0)


GROUP = Group(name="chunk", keys=("chunk_p99_ratio",), measure=measure)
