"""What a step costs around the model: a tiny one, in frames as large as a GPU is given.

Where a card runs the model, this is what is left for the CPU, and the next limit.
"""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.rounds import alternate, cpu, difference
from benchmarks.targets import AROUND_ROWS

SIZE = "1x16"
STREAMS = 2
KEYS = {rows: f"around_{rows}_cpu_us" for rows in AROUND_ROWS}


def measure(bench: Bench, findings: Findings) -> None:
    server = bench.cellar(SIZE, f"--max-batch={max(AROUND_ROWS)}")
    load, runtime = bench.load(), bench.graph_runtime(SIZE)
    whole = {
        rows: bench.frames(server, load, SIZE, streams=STREAMS, rows=rows) for rows in AROUND_ROWS
    }
    graph = {
        rows: bench.bare(runtime, SIZE, batch=rows, sessions=STREAMS * rows) for rows in AROUND_ROWS
    }
    findings.series += alternate([*whole.values(), *graph.values()], bench.pace)
    for rows, key in KEYS.items():
        findings.figures[key] = difference(whole[rows].series, graph[rows].series, cpu)


GROUP = Group(
    name="around", keys=tuple(KEYS.values()), measure=measure, beside_cpu=[*KEYS.values()]
)
