"""The server on a GPU: large frames and generations, beside the same server on the CPU."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.errors import UnmeasuredError
from benchmarks.gpu.engine import DeviceError, choose
from benchmarks.gpu.serving import SIZE, STREAMS, cases
from benchmarks.rounds import alternate, ratio, speed
from benchmarks.targets import GPU_ROWS

DEVICE = "cuda:0"
BESIDE = GPU_ROWS[0]
"""Rows of the frames that the CPU has, too."""
FRAMES = {rows: f"gpu_frames_{rows}_steps_per_s" for rows in GPU_ROWS}
GENERATE, RATIO = "gpu_generate_steps_per_s", "gpu_cpu_ratio"


def measure(bench: Bench, findings: Findings) -> None:
    device = bench.device if bench.device.startswith("cuda") else DEVICE
    try:
        choose(device)
    except DeviceError as error:
        reason, _, _ = str(error).partition(": serve with")  # it says at length what to do
        raise UnmeasuredError(reason) from error
    found = cases(bench, device)
    for each in found.values():
        each.series.contestant = f"Cellar, {device}"
    server = bench.cellar(SIZE, "--device=cpu", f"--max-batch={max(GPU_ROWS)}")
    cpu = bench.frames(server, bench.load(), SIZE, streams=STREAMS, rows=BESIDE)
    cpu.series.contestant = "Cellar, CPU"
    findings.series += alternate([*found.values(), cpu], bench.pace)
    for rows, key in FRAMES.items():
        findings.figures[key] = found[f"frames_{rows}"].series.figure(speed)
    findings.figures[GENERATE] = found["generate"].series.figure(speed)
    on_gpu = found[f"frames_{BESIDE}"].series
    findings.figures[RATIO] = ratio(on_gpu, cpu.series, speed)


GROUP = Group(name="gpu", keys=(*FRAMES.values(), GENERATE, RATIO), measure=measure)
