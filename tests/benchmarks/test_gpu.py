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

from benchmarks.errors import UnmeasuredError
from benchmarks.gpu import __main__ as gpu_check
from benchmarks.gpu import examination
from benchmarks.gpu.__main__ import Check
from benchmarks.gpu.engine import CPU, CudaRunner, Outputs
from benchmarks.gpu.examination import DECODE_STEPS, examine
from benchmarks.gpu.serving import serve
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
    *(f"step_{rows}_us" for rows in (1, 2, 4, SIZE)),
    "step_over_replay",
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
    decoded = set() if found.skipped else {f"decode_{DECODE_STEPS}_us"}
    assert set(found.numbers) == ALWAYS | OF_KIND[subject] | decoded
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


def test_what_cannot_be_run_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unserved(*_: Any, **__: Any) -> None:
        raise UnmeasuredError("cellar-serve ended with status 1")

    monkeypatch.setattr(examination, "CudaRunner", Broken)
    monkeypatch.setattr(gpu_check, "serve", unserved)
    monkeypatch.setattr(gpu_check, "TESTS", ("tests/test_reasons.py",))
    found = Check(CPU, quick=True, subjects=[CHAR, SERIES], size=SIZE).all()
    reasons = ["RuntimeError: CUDA failure 700"]
    assert found["faults"][str(CHAR)] == found["faults"][str(SERIES)] == reasons
    assert found["faults"]["server"] == ["UnmeasuredError: cellar-serve ended with status 1"]
    # No test there needs a card, and none at all is no pass.
    assert "deselected" in found["faults"]["tests"][0]
    assert bool(found["kernels"]) != ("kernels" in found["faults"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "CUDA failure 700" in capsys.readouterr().err


def test_what_cannot_begin_in_time_is_a_fault() -> None:
    check = Check(CPU, quick=True, subjects=[CHAR], size=SIZE, limit_s=-1)
    assert check.models() == {str(CHAR): {}}
    assert check.all()["faults"].keys() == {str(CHAR), "kernels", "server", "tests"}


class Decoding(CudaRunner):
    """Decodes as a graph would that feeds back what it draws."""

    can_decode = True

    def decode(self, **given: Any) -> Any:
        drawn, inputs, fresh = [], given["inputs"], given["fresh"]
        for number in range(given["steps"]):
            last = self.step(
                read=given["read"],
                write=given["write"],
                fresh=fresh,
                inputs=inputs[:, None],
                lengths=np.ones(len(inputs), np.int64),
                every_step=False,
            )
            answers = self.answer(
                last, Outputs(sample=True), given["draws"], given["positions"] + number
            )
            name = "sampled_tokens" if inputs.ndim == 1 else "sampled_values"
            drawn.append(answers.columns[name])
            inputs = drawn[-1].reshape(inputs.shape)
            fresh = np.zeros_like(fresh)
        return np.stack(drawn, axis=1)


class Misdrawing(Decoding):
    """Takes the draw of the step before."""

    def decode(self, **given: Any) -> Any:
        return np.roll(super().decode(**given), 1, axis=1)


def test_decode_is_held_against_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for runner, has_faults in ((Decoding, False), (Misdrawing, True)):
        monkeypatch.setattr(examination, "CudaRunner", runner)
        found = examine(CHAR, CPU, size=SIZE, times=TIMES)
        assert found.numbers[f"decode_{DECODE_STEPS}_us"] > 0
        assert any("decode draws" in fault for fault in found.faults) == has_faults
        assert found.skipped == {}


def test_the_whole_server_is_measured(tmp_path: Path) -> None:
    found = serve("cpu", tmp_path, quick=True, size="2x128", rows=(8, 16))
    assert set(found) == {"frames_8", "frames_16", "generate"}
    for case in found.values():
        assert set(case) == {"steps_per_s", "cpu_us_per_step", "p50_ms"}
        assert case["steps_per_s"] > 0


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
    done = bare_check(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_part_of_the_wheels_that_is_not_whole_is_named(tmp_path: Path) -> None:
    (tmp_path / "wheels.tar.000").write_bytes(b"half of it")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  wheels.tar.000\n")
    done = bare_check(str(tmp_path))
    assert done.returncode == 3
    assert "wheels.tar.000: FAILED" in done.stdout + done.stderr
    assert "are not whole" in done.stderr


def bare_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "benchmarks/gpu/bare/check.sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
