"""The whole server on a device: frames of many sessions, and generations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.networks import model_name
from benchmarks.report import rounded
from benchmarks.rounds import Loaded, Pace, Series, alternate, cpu, p50, speed
from benchmarks.targets import GPU_ROWS

SIZE = "2x1024"
GENERATIONS, TOKENS = 256, 200
STREAMS = 2
QUICK = Pace(rounds=2, round_s=0.3, warm_up_s=0.2, quick=True)
FULL = Pace(rounds=3, round_s=1.2, warm_up_s=0.5, quick=False)


def cases(
    bench: Bench, device: str, *, size: str = SIZE, rows: Sequence[int] = GPU_ROWS
) -> dict[str, Loaded]:
    """A server on a device, and who calls it: ``frames_<rows>`` of ``STREAMS`` each, ``generate``.

    Raises:
        UnmeasuredError: the server does not start there.
    """
    server = bench.cellar(size, f"--device={device}", f"--max-batch={max(rows)}")
    load = bench.load()
    found = {
        f"frames_{count}": bench.frames(server, load, size, streams=STREAMS, rows=count)
        for count in rows
    }
    found["generate"] = bench.case(
        "generations",
        Series(case=f"generate {GENERATIONS} at once", contestant="Cellar", model=size),
        server,
        load,
        model=model_name(size),
        sessions=min(GENERATIONS, max(rows)),
        steps=TOKENS // 8 if bench.pace.quick else TOKENS,
    )
    return found


def serve(
    device: str,
    folder: Path,
    *,
    quick: bool,
    size: str = SIZE,
    rows: Sequence[int] = GPU_ROWS,
) -> dict[str, Any]:
    """By case, medians: ``steps_per_s``, ``cpu_us_per_step`` of the server, ``p50_ms`` a message.

    Raises:
        UnmeasuredError: the server does not start there, or has refused something.
    """
    bench = Bench(QUICK if quick else FULL, folder)
    try:
        found = cases(bench, device, size=size, rows=rows)
        alternate(list(found.values()), bench.pace)
    finally:
        bench.end_processes()
    return {
        name: {
            "steps_per_s": rounded(each.series.figure(speed).value),
            "cpu_us_per_step": rounded(each.series.figure(cpu).value),
            "p50_ms": rounded(each.series.figure(p50).value),
        }
        for name, each in found.items()
    }


__all__ = ["SIZE", "STREAMS", "cases", "serve"]
