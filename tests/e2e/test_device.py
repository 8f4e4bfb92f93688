"""Where a server runs, and that it says so. The machine's GPUs, if it has any, are hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.process import launch, running


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_gpu_that_is_not_there_is_refused(repository: Path) -> None:
    """At once, in one line, with nothing else started."""
    process = launch(f"--models={repository}", "--port=0", "--metrics-port=0", "--device=cuda:0")
    output, errors = process.communicate(timeout=50)
    assert process.returncode == 1
    assert output == ""
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1, errors
    for words in ("--device cuda:0", "--device cpu", "driver", "onnxruntime-gpu", "CUDA 13"):
        assert words in lines[0]


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_it_says_where_it_runs(asked: str, repository: Path) -> None:
    with running(repository, f"--device={asked}") as server:
        assert server.wait_for("serving", 1)["device"] == "cpu"
        assert server.wait_for("model loaded", 1)["device"] == "cpu"
        chosen = server.wait_for("device", 1)
        assert chosen["device"] == "cpu"
        assert chosen["provider"] == "CPUExecutionProvider"
        assert ("no_gpu" in chosen) == (asked == "auto")
        label = 'cellar_device_info{device="cpu",provider="CPUExecutionProvider"}'
        assert server.metric(label) == 1
        assert server.errors() == ""
