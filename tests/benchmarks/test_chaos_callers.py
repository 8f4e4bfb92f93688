"""The callers of ``make chaos`` and a stand-in: what is planted is found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.callers.calls import HAS_BRANCHES
from benchmarks.chaos.run import Outcome, Plan, run
from tests.benchmarks.standin import FAULTS, StandIn

pytestmark = pytest.mark.skipif(not HAS_BRANCHES, reason="the wire has no branches yet")


async def hurt(folder: Path, server: StandIn, durability: str, *, seconds: float) -> Outcome:
    plan = Plan(
        folder=folder,
        store=None,
        durability=durability,
        kills=True,
        seconds=seconds,
        scale=0.25,
        pause_s=0.3,
        only=("frames", "single"),
    )
    return await run(plan, lambda text: None, server)


@pytest.mark.timeout(120)
@pytest.mark.long
@pytest.mark.parametrize("durability", ["commit", "interval"])
async def test_a_good_server_is_not_accused(durability: str, tmp_path: Path) -> None:
    server = StandIn(loses_tails=durability == "interval")
    outcome = await hurt(tmp_path, server, durability, seconds=4.0)
    assert outcome.is_clean, (outcome.verdict.findings, outcome.failures)
    assert outcome.history.faults["kill"]
    assert outcome.history.stale_refused
    assert outcome.history.acknowledged > 1000
    came_back = [era for era in outcome.history.eras if era.parent is not None]
    assert bool(came_back) == (durability == "interval")


@pytest.mark.timeout(120)
@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
async def test_planted_faults_are_found(fault: str, tmp_path: Path) -> None:
    outcome = await hurt(tmp_path, StandIn(fault), "commit", seconds=6.0)
    assert not outcome.failures
    assert outcome.verdict.counts[FAULTS[fault]], outcome.verdict.findings
