"""Runs that are killed, and runs that several processes share."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.repository import ModelRepository
from training.errors import ConfigError, RunError
from training.families.parsing import parse_config
from training.run.files.folder import RunFolder
from training.run.fit import resume, train

SETTINGS: dict[str, Any] = {
    "hidden": 24,
    "embedding": 8,
    "batch": 8,
    "window": 16,
    "learning-rate": 0.01,
    "threads": 1,
    "device": "cpu",
}
PATIENCE_S = 60.0
SHARED_PATIENCE_S = 150.0  # three processes that import torch, on whatever else leaves of a core


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


def command(text: Path, home: Path, **more: Any) -> list[str]:
    folders = {"models": home / "models", "runs": home / "runs"}
    options = {"text": text, **SETTINGS, **folders, **more}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["-m", "training.cli", "char", "--publish", *words]


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = RunFolder(folder).load_checkpoint()["network"]
    return found


def uninterrupted(text: Path, home: Path, **more: Any) -> dict[str, Tensor]:
    settings = {name.replace("-", "_"): value for name, value in SETTINGS.items()} | more
    folders = {"models": home / "models", "runs": home / "runs"}
    return weights(
        train(parse_config({"task": "char", "text": [text], **settings, **folders})).folder
    )


@pytest.mark.long
def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, text: Path) -> None:
    steps = 500
    with subprocess.Popen(
        [sys.executable, *command(text, tmp_path / "killed", steps=steps, checkpoint="0.3s")],
        stdout=subprocess.DEVNULL,
    ) as process:
        folder = tmp_path / "killed/runs/char-1"
        deadline = time.monotonic() + PATIENCE_S
        while step_of(folder) < 10:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert step_of(folder) < steps
    run = resume(folder)
    assert run.finished
    assert ModelRepository(tmp_path / "killed/models").load("char").manifest.name == "char"
    expected = uninterrupted(text, tmp_path / "whole", steps=steps)
    found = weights(folder)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_run_can_be_resumed_from_before_its_first_step(tmp_path: Path, text: Path) -> None:
    settings = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
    folders = {"models": tmp_path / "models", "runs": tmp_path / "runs"}
    config = parse_config({"task": "char", "text": [text], "steps": 10, **settings, **folders})
    stopped = train(config, stop_after=0)
    assert not stopped.finished
    assert step_of(stopped.folder) == 0
    assert resume(stopped.folder).finished
    expected = uninterrupted(text, tmp_path / "whole", steps=10)
    assert all(torch.equal(weights(stopped.folder)[name], expected[name]) for name in expected)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_processes_share_a_run_and_end_where_one_does(tmp_path: Path, text: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shared = tmp_path / "shared"
    # Muon's products in bf16 would make much of how a sum of gradients is rounded.
    settings = {"steps": 30, "dropout": 0, "optimiser": "adamw"}
    done = subprocess.run(
        [sys.executable, *launcher, *command(text, shared, **settings)],
        capture_output=True,
        text=True,
        timeout=SHARED_PATIENCE_S,
    )
    assert not done.returncode, done.stdout + done.stderr
    assert [path.name for path in (shared / "runs").iterdir()] == ["char-1"]
    assert ModelRepository(shared / "models").load("char").manifest.name == "char"
    expected = uninterrupted(text, tmp_path / "alone", **settings)
    for name, tensor in weights(shared / "runs/char-1").items():
        assert torch.allclose(tensor, expected[name], atol=1e-4), name

    alone = RunFolder(shared / "runs/char-1")
    (alone.path / "metrics.json").unlink()
    with pytest.raises(RunError, match="trained by 2 processes, these are 1"):
        resume(alone.path)


def test_rows_that_cannot_be_shared_are_refused(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = parse_config({"task": "char", "text": [text], "batch": 7, "runs": tmp_path / "runs"})
    with pytest.raises(ConfigError, match="batch: 7 rows cannot be shared equally by 2 processes"):
        train(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("said", ["two", "0", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(
    said: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", said)
    config = parse_config({"task": "char", "text": [text], "runs": tmp_path / "runs"})
    with pytest.raises(ConfigError, match=f"WORLD_SIZE is '{said}': torchrun sets it"):
        train(config)


def step_of(folder: Path) -> int:
    """The step of a run's checkpoint; -1 while there is none."""
    if not (folder / "checkpoint.pt").is_file():
        return -1
    return int(RunFolder(folder).load_checkpoint()["step"])
