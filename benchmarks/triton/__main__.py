"""Cellar beside Triton, the same exported model in both. One JSON line to stdout."""

import argparse
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.bench import Bench, Findings
from benchmarks.errors import UnmeasuredError
from benchmarks.report import keep, name_of_result, print_cases, print_figures, result
from benchmarks.rounds import FULL, QUICK, Figure, Loaded, Series, alternate, cpu, ratio, speed
from benchmarks.triton import analyzer
from benchmarks.triton.install import SERVER_VERSION, Triton, install
from benchmarks.triton.server import MODEL, TritonLoad, TritonServer

SIZE = "1x256"
SEQUENCES = (1, 16, 64)
TRIES = 5
KEYS = (
    "triton_steps_ratio",
    "triton_cpu_ratio",
    "triton_streams_steps_ratio",
    "triton_streams_cpu_ratio",
    "triton_perf_analyzer_ratio",
)
ONNX_BACKEND = {
    "steps_per_s": {"1": 2200, "16": 9500, "64": 14_200},
    "server_cpu_us_per_step": {"64": 100},
    "source": (
        "Triton 2.44 with its ONNX Runtime backend, which no wheel holds: built separately and "
        "measured once with perf_analyzer on two cores in November 2026. Another load tool and "
        "another day: for orientation, no contestant."
    ),
}


class CrashedError(UnmeasuredError):
    """Triton has ended by itself."""


def measured(bench: Bench, folder: Path) -> Findings:
    """The findings of the first time that Triton holds out.

    2.44 crashes now and then, in its Python backend, when 64 sequences set in at once.
    """
    findings = Findings()
    try:
        triton = install()
        for crashes in range(TRIES):
            findings = Findings(notes={"triton_crashes": crashes})
            try:
                measure(bench, findings, triton, folder / f"triton{crashes}")
            except CrashedError:
                if crashes == TRIES - 1:
                    raise
                continue
            finally:
                bench.end_processes()
            break
    except UnmeasuredError as error:
        findings.skip(KEYS, str(error))
    return findings


def measure(bench: Bench, findings: Findings, triton: Triton, folder: Path) -> None:
    server = bench.run(TritonServer(triton, bench.model(SIZE), folder))
    try:
        _measure(bench, findings, triton, server)
    except UnmeasuredError:
        if server.crashed():
            raise CrashedError(f"Triton crashed, {TRIES} times in a row") from None
        raise


def _measure(bench: Bench, findings: Findings, triton: Triton, server: TritonServer) -> None:
    cellar, load, runtime = bench.cellar(SIZE), bench.load(), bench.bare_runtime(SIZE)
    triton_load = bench.run(TritonLoad(triton))
    server.wait_until_ready(triton_load)
    sequences = {count: _sequences(server, triton_load, count) for count in SEQUENCES}
    streams = {
        count: bench.frames(cellar, load, SIZE, streams=count, rows=1) for count in SEQUENCES
    }
    frames = bench.frames(cellar, load, SIZE, streams=1, rows=64)
    bare = bench.bare(runtime, SIZE, batch=64)
    pairs = [case for count in SEQUENCES for case in (sequences[count], streams[count])]
    findings.series = alternate([*pairs, frames, bare], bench.pace)
    theirs = sequences[64].series
    for name, ours in (("triton", frames.series), ("triton_streams", streams[64].series)):
        findings.figures[f"{name}_steps_ratio"] = ratio(ours, theirs, speed)
        findings.figures[f"{name}_cpu_ratio"] = ratio(ours, theirs, cpu)
    program = analyzer.install()
    found = analyzer.steps_per_s(program, server.address, sequences=64)
    findings.notes["triton_perf_analyzer_steps_per_s"] = found
    findings.figures["triton_perf_analyzer_ratio"] = Figure.of(
        [speed(sample) / found for sample in theirs.samples]
    )


def _sequences(server: TritonServer, load: TritonLoad, count: int) -> Loaded:
    name = f"sequences{count}"
    load.ask("sequences", case=name, address=server.address, model=MODEL, sequences=count)
    many = "sequence" if count == 1 else "sequences"
    series = Series(case=f"{count} {many}", contestant="Triton", model=SIZE)
    return Loaded(series=series, server=server, load=load, name=name, tree=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.triton", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shows that it works")
    parser.add_argument("--save", metavar="NAME", type=name_of_result, help="keep the result")
    given = parser.parse_args()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cellar-bench-") as folder:
        bench = Bench(QUICK if given.quick else FULL, Path(folder))
        findings = measured(bench, Path(folder))
    print_cases(console, f"Cellar and Triton {SERVER_VERSION}, Python backend", findings)
    print_figures(console, {"triton": findings})
    outcome = result(
        benchmark="triton",
        findings={"triton": findings},
        machine=machine.describe(),
        quick=given.quick,
        triton=f"{SERVER_VERSION}, Python backend",
        onnx_backend_elsewhere=ONNX_BACKEND,
        seconds=round(time.monotonic() - start),
    )
    if given.save is not None:
        keep(outcome, given.save, console)
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
