"""A short restart of a real server: nothing is lost, and every figure is there."""

from __future__ import annotations

import pytest

from benchmarks.restart.course import Plan, measure


@pytest.mark.long
def test_sessions_are_back_after_a_kill_and_after_a_stop() -> None:
    lines: list[str] = []
    outcome = measure(Plan(sessions=600, tail_steps=3), lines.append)
    assert outcome.steps >= 1800
    assert outcome.journal_mb > 0
    for start in (outcome.after_kill, outcome.after_stop):
        assert start.restored_s > 0
        assert start.first_step_s > 0
        assert start.steps > 0
    assert set(outcome.as_json()) >= {"after_kill", "after_stop", "stop_s", "table_mb"}
