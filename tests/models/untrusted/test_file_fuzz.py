"""Bad model files, some of every kind; `make file-fuzz` tries thousands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.models.untrusted.playing import LIMIT_S, play


def test_bad_files_are_served_or_refused_in_one_line(tmp_path: Path) -> None:
    """Within bounds of time and memory, and none takes a sound one along."""
    found = play(tmp_path / "files", seed=0, first=0, count=40)
    assert found.wrong == []
    assert found.served + found.refused.total() == 40
    assert len(found.refused) > 5, "files of nearly every kind"
    assert found.slowest_s < 3 * LIMIT_S


@pytest.mark.long
def test_a_thousand_bad_files(tmp_path: Path) -> None:
    """Of a seed of this day's own."""
    seed = int(os.environ.get("FILE_FUZZ_SEED", os.getpid()))
    for first in range(0, 1000, 50):
        found = play(tmp_path / str(first), seed=seed, first=first, count=50)
        assert found.wrong == [], seed
