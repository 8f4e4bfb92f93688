"""``make gpu-check``: what a GPU makes of Cellar.

A line per model goes to stderr, one JSON line to stdout. It fails where there is no GPU that Cellar
can use, where a model cannot be run, and where numbers are wrong.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog

from benchmarks import machine
from benchmarks.errors import UnmeasuredError
from benchmarks.gpu.engine import DeviceError, Place, choose
from benchmarks.gpu.examination import Examined, examine
from benchmarks.gpu.subjects import Subject

SCHEMA = 1
SIZE = 512
TIMES, QUICK_TIMES = 200, 20
SUBJECTS = (
    Subject(kind="char", cell="lstm", hidden=512),
    Subject(kind="char", cell="lstm", hidden=1024),
    Subject(kind="char", cell="gru", hidden=1024),
    Subject(kind="series", cell="lstm", hidden=512),
    Subject(kind="char", cell="lstm", hidden=1024, tf32=True),
)
QUICK_SUBJECTS = (SUBJECTS[0], SUBJECTS[3])
HIDDEN = 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two models, few runs of each")
    parser.add_argument("--device", default="cuda:0", help="cuda, or cuda:N; default cuda:0")
    given = parser.parse_args()
    if not given.device.startswith("cuda") or "," in given.device:
        parser.error("--device is one GPU: cuda or cuda:N")
    # What the runner logs is for people, and stdout is for the result.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        (place,) = choose(given.device).places
    except DeviceError as error:
        sys.exit(f"gpu-check: {error}")
    found = check(place, quick=given.quick)
    print(json.dumps(found))
    if found["faults"]:
        sys.exit(f"gpu-check: {len(found['faults'])} of {len(found['models'])} models at fault")


def check(
    place: Place, *, quick: bool, subjects: Sequence[Subject] | None = None, size: int = SIZE
) -> dict[str, Any]:
    """Examine all models, one after the other; what is wrong with one does not stop the rest."""
    start = time.monotonic()
    times = QUICK_TIMES if quick else TIMES
    if subjects is None:
        subjects = QUICK_SUBJECTS if quick else SUBJECTS
    models: dict[str, dict[str, float]] = {}
    faults: dict[str, list[str]] = {}
    for subject in subjects:
        name = str(subject)
        examined = _examined(subject, place, size=size, times=times)
        models[name] = examined.numbers
        if examined.faults:
            faults[name] = examined.faults
        told = {**examined.numbers, "faults": examined.faults}
        print(f"{name}: {json.dumps(told)}", file=sys.stderr, flush=True)
    kernels, skipped = _kernels(size=size, times=times)
    return {
        "benchmark": "cellar-gpu",
        "schema": SCHEMA,
        "quick": quick,
        "device": str(place),
        "seconds": round(time.monotonic() - start),
        "faults": faults,
        "models": models,
        "kernels": kernels,
        "skipped": skipped,
        "machine": machine.describe(),
    }


def _examined(subject: Subject, place: Place, *, size: int, times: int) -> Examined:
    try:
        return examine(subject, place, size=size, times=times)
    except Exception as error:  # whatever a runtime or a driver throws is the finding
        reason = next(iter(str(error).strip().splitlines()), "no message")
        return Examined(faults=[f"{type(error).__name__}: {reason}"])


def _kernels(*, size: int, times: int) -> tuple[dict[str, float], dict[str, str]]:
    """Torch's times beside ours, or why there are none: they are not what is checked."""
    try:
        from benchmarks.gpu.kernels import time_kernels

        return time_kernels(HIDDEN, size=size, times=times), {}
    except (UnmeasuredError, ImportError, RuntimeError) as error:
        return {}, {"kernels": str(error)}


if __name__ == "__main__":
    main()
