"""Every figure that a group yields is explained, and held against something or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import GROUPS
from benchmarks.rounds import Sample, Series, cpu, difference
from benchmarks.targets import TARGETS

README = Path(__file__).parents[2] / "benchmarks" / "README.md"


@pytest.mark.parametrize("group", GROUPS)
def test_a_key_has_a_target_and_a_line_in_the_readme(group: str) -> None:
    readme = README.read_text("utf-8")
    for key in GROUPS[group].keys:
        assert TARGETS[key].meaning
        assert f"`{key}`" in readme, key


def series(*cpu_us: float) -> Series:
    return Series(
        case="",
        contestant="",
        model="",
        samples=[
            Sample(
                steps=10,
                messages=10,
                wall_s=1.0,
                p50_ms=1.0,
                p99_ms=1.0,
                server_cpu_s=each * 10 / 1e6,
                load_cpu_s=0.0,
            )
            for each in cpu_us
        ],
    )


def test_what_is_added_is_counted_round_by_round() -> None:
    """The median of the differences, which is not the difference of the medians."""
    found = difference(series(100, 300, 500), series(90, 100, 460), cpu)
    assert found.value == pytest.approx(40)
    assert found.low == pytest.approx(10)
    assert found.high == pytest.approx(200)
