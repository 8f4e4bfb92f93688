"""A short ``make soak``: too short for the slope of memory, long enough for all else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import ROOT


@pytest.mark.long
@pytest.mark.timeout(180)
def test_callers_that_come_and_vanish_leave_nothing_behind(tmp_path: Path) -> None:
    picture = tmp_path / "soak.png"
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes=0.4", f"--plot={picture}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    # Every path is taken for the first time, and sessions that were left have not expired yet.
    warming = {"resident memory grows", "sessions grows"}
    assert set(outcome["failures"]) <= warming, done.stderr
    lives = outcome["lives"]
    assert {end.partition(":")[0] for end in lives if end.endswith(": ok")} >= {
        "steps", "prices", "chunks", "frames", "generations", "predictions", "cancelled",
        "deadlines", "refusals",
    }  # fmt: skip
    assert picture.stat().st_size > 1000
