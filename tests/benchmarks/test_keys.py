"""Every figure that a group yields is explained, and held against something or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import GROUPS, _measured
from benchmarks.bench import Bench, Findings, Group
from benchmarks.rounds import QUICK, Figure, Sample, Series, cpu, difference
from benchmarks.targets import TARGETS

README = Path(__file__).parents[2] / "benchmarks" / "README.md"


@pytest.mark.parametrize("group", GROUPS)
def test_a_key_has_a_target_and_a_line_in_the_readme(group: str) -> None:
    readme = README.read_text("utf-8")
    for key in GROUPS[group].keys:
        assert TARGETS[key].meaning
        assert f"`{key}`" in readme, key


def test_without_a_gpu_its_figures_are_null_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = _measured(Bench(QUICK, tmp_path), GROUPS["gpu"])
    assert found.figures == {}
    assert set(found.skipped) == set(GROUPS["gpu"].keys)
    assert all("driver" in reason for reason in found.skipped.values())


@pytest.mark.parametrize("flags", [(), ("--device=cpu",), ("--device=cuda:0",)])
def test_a_server_on_a_gpu_is_not_held_against_the_cpu(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    def measure(_: Bench, findings: Findings) -> None:
        findings.figures |= {key: Figure.of([1.0]) for key in ("frames", "memory")}

    group = Group(name="any", keys=("frames", "memory"), measure=measure, beside_cpu=("frames",))
    found = _measured(Bench(QUICK, tmp_path, flags), group)
    if flags == ("--device=cuda:0",):
        assert set(found.figures) == {"memory"}
        assert "cuda:0" in found.skipped["frames"]
    else:
        assert set(found.figures) == {"frames", "memory"}
        assert found.skipped == {}


def test_what_is_null_on_a_gpu_is_a_key() -> None:
    beside = {key for group in GROUPS.values() for key in group.beside_cpu}
    assert {"frames_cpu_ratio_2x512", "int8_cpu_ratio_2x512", "generate_ratio"} <= beside
    assert all(set(group.beside_cpu) <= set(group.keys) for group in GROUPS.values())


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
