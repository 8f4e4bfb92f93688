"""The examination of a GPU, on the CPU: the device's runner works there, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import examination
from benchmarks.gpu.__main__ import check
from benchmarks.gpu.engine import CPU, CudaRunner
from benchmarks.gpu.examination import examine
from benchmarks.gpu.subjects import Subject

ROOT = Path(__file__).parents[2]
SIZE, TIMES = 8, 2
CHAR = Subject(kind="char", cell="lstm", hidden=16)
SERIES = Subject(kind="series", cell="gru", hidden=16)
ALWAYS = {
    "open_s",
    "record_s",
    "error_to_cpu",
    "rows_that_differ_in_other_lanes",
    "step_1_us",
    f"step_{SIZE}_us",
    "steps_per_s",
    "place_us",
    "replay_only_us",
    "eager_us",
    f"chunk_1x{SIZE}_us",
    "raw_us",
}
OF_KIND = {
    CHAR: {"argmax_us", "sample_us", "filtered_sample_us"},
    SERIES: {"quantiles_us"},
}


@pytest.mark.parametrize("subject", [CHAR, SERIES], ids=str)
def test_a_runner_that_is_right_has_no_faults(subject: Subject) -> None:
    found = examine(subject, CPU, size=SIZE, times=TIMES)
    assert found.faults == []
    assert set(found.numbers) == ALWAYS | OF_KIND[subject]
    assert all(number > 0 for name, number in found.numbers.items() if name.endswith("_us"))
    assert found.numbers["error_to_cpu"] < 1e-5
    assert found.numbers["rows_that_differ_in_other_lanes"] == 0


class Skewed(CudaRunner):
    """Adds to one lane of each batch, whoever is in it."""

    by = 0.01

    def step(self, **given: Any) -> Any:
        found = super().step(**given).copy()
        found[0] += self.by
        return found


class Undefined(Skewed):
    by = np.nan


@pytest.mark.parametrize("runner", [Skewed, Undefined])
def test_wrong_numbers_are_a_fault(
    runner: type[CudaRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "CudaRunner", runner)
    found = examine(CHAR, CPU, size=SIZE, times=TIMES)
    assert any("predictions are off by" in fault for fault in found.faults), found.faults
    assert any("bits in another lane" in fault for fault in found.faults), found.faults
    assert json.loads(json.dumps(found.numbers, allow_nan=False)) == found.numbers


class Lost(CudaRunner):
    """Reads another session's state than it should."""

    def step(self, **given: Any) -> Any:
        return super().step(**{**given, "read": np.roll(given["read"], 1)})


def test_a_state_that_is_mixed_up_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "CudaRunner", Lost)
    for subject in (CHAR, SERIES):
        assert examine(subject, CPU, size=SIZE, times=TIMES).faults, str(subject)


class Broken(CudaRunner):
    def step(self, **_: Any) -> Any:
        raise RuntimeError("CUDA failure 700\nat some line")


def test_a_model_that_cannot_be_run_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examination, "CudaRunner", Broken)
    found = check(CPU, quick=True, subjects=[CHAR, SERIES], size=SIZE)
    reasons = ["RuntimeError: CUDA failure 700"]
    assert found["faults"] == {str(CHAR): reasons, str(SERIES): reasons}
    assert found["kernels"] or found["skipped"]["kernels"]
    assert "CUDA failure 700" in capsys.readouterr().err


def test_without_a_card_it_fails_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--quick"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu-check: --device cuda:0")
    assert "driver" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "the folder with the wheels"), (("nowhere",), "no wheels in nowhere")],
)
def test_a_bare_machine_is_told_what_is_missing(arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run(
        ["bash", "benchmarks/gpu/bare.sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line
