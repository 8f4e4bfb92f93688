"""int8 against ONNX Runtime running the exported float32 model, and what it costs in quality."""

import subprocess

from benchmarks.bench import Bench, Findings, Group
from benchmarks.errors import UnmeasuredError
from benchmarks.processes import ROOT, module
from benchmarks.rounds import Figure, alternate, cpu, ratio
from models.repository import ModelRepository
from service.settings import ZOO

SIZE = "2x512"
TRAINED = "stdlib-text"
NATS_SCORE = "int8_nats_cost"
FLAG = "--precision"


def measure(bench: Bench, findings: Findings) -> None:
    nats = nats_cost()
    if nats is None:
        reason = f"the manifest of the zoo's {TRAINED} has no score {NATS_SCORE}"
        findings.skip(["int8_nats_cost"], reason)
    else:
        findings.figures["int8_nats_cost"] = Figure.of([nats])
    _measure_speed(bench, findings)


def nats_cost() -> float | None:
    """Nats per character that int8 loses on a trained model; none where nobody has measured it.

    The measurement is made when a model is loaded or published, and kept in its manifest.
    """
    return ModelRepository(ZOO).load(TRAINED).manifest.scores.get(NATS_SCORE)


def _measure_speed(bench: Bench, findings: Findings) -> None:
    usage = subprocess.run(
        module("service.server", "--help"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if FLAG not in usage.stdout:
        raise UnmeasuredError(f"cellar-serve has no {FLAG}")
    server, exact = bench.cellar(SIZE, f"{FLAG}=int8"), bench.cellar(SIZE)
    load, runtime = bench.load(), bench.bare_runtime(SIZE)
    int8 = bench.frames(server, load, SIZE, streams=2, rows=256)
    int8.series.contestant = "Cellar, int8"
    fp32 = bench.frames(exact, load, SIZE, streams=2, rows=256)
    bare = bench.bare(runtime, SIZE, batch=256, sessions=512)
    findings.series += alternate([int8, fp32, bare], bench.pace)
    findings.figures[f"int8_cpu_ratio_{SIZE}"] = ratio(int8.series, bare.series, cpu)


GROUP = Group(
    name="int8",
    keys=(f"int8_cpu_ratio_{SIZE}", "int8_nats_cost"),
    measure=measure,
    beside_cpu=(f"int8_cpu_ratio_{SIZE}",),
)
