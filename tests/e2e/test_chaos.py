"""A short ``make chaos``: a server that is hurt, and every reply held against an oracle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos.faults.victim import has_store
from benchmarks.chaos.run import Plan, run
from tests.e2e.process import ROOT

COPIES = {"fork", "rewind", "import"}
# Some hundred sessions live, most of them where there is no row.
FEW_ROWS = ["--serve=--max-sessions=40", "--serve=--host-memory=128KiB"]
FAULTS = {"cut", "delay", "black hole", "stop"}


DURABILITIES = ("commit", pytest.param("interval", marks=pytest.mark.long))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("durability", DURABILITIES if has_store() else ["none"])
def test_nothing_is_lost_doubled_or_different(durability: str, tmp_path: Path) -> None:
    arguments = ["--minutes=0.1", "--scale=0.5", "--pause-s=0.7", f"--folder={tmp_path}"]
    if durability != "none":
        arguments += [f"--durability={durability}", *FEW_ROWS]
    command = [sys.executable, "-m", "benchmarks.chaos", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert outcome["durability"] == durability
    assert [outcome[kind] for kind in ("lost", "doubled", "different")] == [0, 0, 0]
    assert outcome["acknowledged"] > 1500
    assert outcome["compared"] > 1500
    assert outcome["reads"] > 50
    assert outcome["one_by_one"] > 500
    # Dice choose among the faults; some of them come in any run.
    assert len(FAULTS & outcome["faults"].keys()) >= 2
    assert COPIES & outcome["faults"].keys()
    if durability != "none":
        assert outcome["faults"]["kill"]
        assert outcome["stale_refused"]


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_server_that_loses_its_sessions_is_found_out(tmp_path: Path) -> None:
    plan = Plan(
        folder=tmp_path / "left",
        store=None,
        durability="none",
        kills=True,
        seconds=5.0,
        scale=0.25,
        pause_s=0.3,
    )
    outcome = await run(plan, lambda text: None)
    assert not outcome.is_clean
    assert outcome.verdict.counts["lost"]
    assert outcome.left_at == plan.folder
    history = json.loads((plan.folder / "history" / "history.json").read_text("utf-8"))
    assert len(history["eras"]) == len(outcome.history.eras)
