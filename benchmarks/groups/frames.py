"""Frames of many sessions, against ONNX Runtime running the exported model without a server."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.rounds import alternate, cpu, ratio

SIZES = ("2x128", "2x512")
STREAMS = (1, 2, 4)
ROWS = (64, 256)


def measure(bench: Bench, findings: Findings) -> None:
    for size in SIZES:
        server, runtime, load = bench.cellar(size), bench.bare_runtime(size), bench.load()
        cellar = {
            (streams, rows): bench.frames(server, load, size, streams=streams, rows=rows)
            for streams in STREAMS
            for rows in ROWS
        }
        # As many sessions as two streams of frames have: the same memory is walked through.
        bare = {rows: bench.bare(runtime, size, batch=rows, sessions=2 * rows) for rows in ROWS}
        graph = bench.bare(bench.graph_runtime(size), size, batch=256, sessions=512)
        findings.series += alternate([*cellar.values(), graph, *bare.values()], bench.pace)
        for key, contestant in (("frames_cpu", cellar[2, 256]), ("graph_cpu", graph)):
            found = ratio(contestant.series, bare[256].series, cpu)
            findings.figures[f"{key}_ratio_{size}"] = found
        bench.end_processes()


GROUP = Group(
    name="frames",
    keys=tuple(f"{key}_ratio_{size}" for size in SIZES for key in ("frames_cpu", "graph_cpu")),
    measure=measure,
    beside_cpu=tuple(f"frames_cpu_ratio_{size}" for size in SIZES),
)
