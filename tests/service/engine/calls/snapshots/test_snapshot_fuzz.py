"""Snapshots that somebody has changed are refused, or are sessions that step."""

import pytest

from tests.service.engine.calls.snapshots.snapshot_fuzz import played


@pytest.mark.parametrize("seed", [1])
async def test_changed_snapshots(seed: int) -> None:
    found = await played(seed, 1600)
    assert not found.wrong
    assert found.imported > 50
    assert found.refused["SNAPSHOT_INVALID"] > 1000
    assert found.refused["STATE_MISMATCH"] > 5
    assert len(found.told) > 150  # ways to be refused, not one that hides the others
