"""``make gpu-check``: what a GPU makes of Cellar.

A line per part goes to stderr, one JSON line to stdout. It fails where there is no GPU that Cellar
can use, where a model cannot be run, where numbers are wrong, where a test that needs a card fails,
and where something could not be measured at all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from benchmarks import machine
from benchmarks.errors import UnmeasuredError
from benchmarks.gpu.engine import DeviceError, Place, choose
from benchmarks.gpu.examination import Examined, examine
from benchmarks.gpu.serving import SIZE as SERVED_SIZE
from benchmarks.gpu.serving import serve
from benchmarks.gpu.subjects import Subject
from benchmarks.processes import ROOT

SCHEMA = 2
SIZE = 512
TIMES, QUICK_TIMES = 200, 20
LIMIT_S = 450
"""Of all parts: what cannot begin in time is a fault, and what has begun is let end."""
TESTS_S = 200
MOST_NAMED = 20
"""Of tests that have failed; stderr has them all."""
TESTS = ("tests/gpu", "tests/service/engine/execution/cuda")
"""Not all tests: to collect the others takes packages that a GPU has no use for."""
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
    found = Check(place, quick=given.quick).all()
    print(json.dumps(found))
    for part, reason in found["skipped"].items():
        print(f"gpu-check: not measured: {part}: {reason}", file=sys.stderr)
    if found["faults"]:
        sys.exit(f"gpu-check: at fault: {', '.join(found['faults'])}")


class Check:
    """Every part, one after the other; what is wrong with one does not stop the rest.

    Args:
        place: the GPU.
        quick: fewer models, and fewer runs of each.
        subjects: the models.
        size: the largest batch.
        limit_s: no part begins once so many seconds have passed.
    """

    def __init__(
        self,
        place: Place,
        *,
        quick: bool,
        subjects: Sequence[Subject] | None = None,
        size: int = SIZE,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._place = place
        self._quick = quick
        self._size = size
        self._times = QUICK_TIMES if quick else TIMES
        self._subjects = subjects or (QUICK_SUBJECTS if quick else SUBJECTS)
        self._start = time.monotonic()
        self._limit_s = limit_s
        self._faults: dict[str, list[str]] = {}
        self._skipped: dict[str, str] = {}

    def all(self) -> dict[str, Any]:
        """The whole outcome."""
        models = self.models()
        kernels = self._part("kernels", self._kernels) or {}
        server = self._part("server", self._server) or {}
        tests = self._part("tests", self._tests) or {}
        return {
            "benchmark": "cellar-gpu",
            "schema": SCHEMA,
            "quick": self._quick,
            "device": str(self._place),
            "seconds": round(time.monotonic() - self._start),
            "faults": self._faults,
            "models": models,
            "kernels": kernels,
            "server": server,
            "tests": tests,
            "skipped": self._skipped,
            "machine": machine.describe(),
        }

    def models(self) -> dict[str, dict[str, float]]:
        """Each model's numbers, by its name."""
        found = {}
        for subject in self._subjects:
            name = str(subject)
            examined = self._part(name, partial(self._examined, subject))
            found[name] = {} if examined is None else examined.numbers
            if examined is not None and examined.faults:
                self._faults[name] = examined.faults
            if examined is not None:
                self._skipped |= {f"{name} {key}": why for key, why in examined.skipped.items()}
        return found

    def _part(self, name: str, work: Callable[[], Any]) -> Any:
        """What a part finds, on stderr as well; ``None`` where it is at fault."""
        passed = time.monotonic() - self._start
        if passed > self._limit_s:
            self._faults[name] = [f"not begun: {passed:.0f} s of {self._limit_s:.0f} were used up"]
            return None
        try:
            found = work()
        except Exception as error:  # whatever a runtime or a driver throws is the finding
            reason = next(iter(str(error).strip().splitlines()), "no message")
            self._faults[name] = [f"{type(error).__name__}: {reason}"]
            print(f"{name}: {self._faults[name][0]}", file=sys.stderr, flush=True)
            return None
        told = {**found.numbers, "faults": found.faults} if isinstance(found, Examined) else found
        print(f"{name}: {json.dumps(told)}", file=sys.stderr, flush=True)
        return found

    def _examined(self, subject: Subject) -> Examined:
        return examine(subject, self._place, size=self._size, times=self._times)

    def _kernels(self) -> dict[str, float]:
        """Torch's times beside ours."""
        from benchmarks.gpu.kernels import time_kernels  # which takes a torch

        return time_kernels(HIDDEN, size=self._size, times=self._times)

    def _server(self) -> dict[str, Any]:
        """The whole server: see `serve`."""
        with tempfile.TemporaryDirectory(prefix="cellar-gpu-") as folder:
            found = serve(str(self._place), Path(folder), quick=self._quick)
        return {"model": f"lstm-{SERVED_SIZE}", **found}

    def _tests(self) -> dict[str, Any]:
        """The tests that need a card.

        Raises:
            UnmeasuredError: some have failed, or there were none.
        """
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, "--tb=short", *TESTS],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=TESTS_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnmeasuredError(f"the tests took more than {TESTS_S} s") from None
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        last = lines[-1].strip("= ") if lines else done.stderr.strip()[-200:]
        if done.returncode:
            print(done.stdout[-20_000:], file=sys.stderr)
            failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            raise UnmeasuredError(" | ".join([last, *failed[:MOST_NAMED]]))
        return {"summary": last}


if __name__ == "__main__":
    main()
