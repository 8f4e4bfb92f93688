"""Runs that go on after their end, and models that are kept back."""

import json
import shutil
from pathlib import Path

import pytest

from models.repository import ModelRepository
from training.cli import main
from training.run.files.folder import RunFolder

SMALL = ["--hidden", "16", "--embedding", "8", "--batch", "8", "--window", "16", "--threads", "1"]
BEGIN = ["char", "--text", "text.txt", *SMALL]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return tmp_path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a finished run and its model."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
        assert main([*BEGIN, "--steps", "60", "--publish"]) == 0
    return home


@pytest.fixture
def finished(home: Path, folder: Path) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(home, folder, dirs_exist_ok=True)
    config = folder / "runs/char-1/config.json"
    config.write_text(config.read_text().replace(str(home), str(folder)))
    return folder


def versions(folder: Path) -> list[int]:
    repository = ModelRepository(folder / "model-repository")
    return repository.versions("char") if repository.names() else []


def test_a_model_worse_than_counting_is_kept_and_can_be_trained_further(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BEGIN, "--steps", "3"]) == 3
    shown = capsys.readouterr().out
    assert "NOT published: it needs " in shown
    assert "counting pairs of characters" in shown
    assert "it is kept as runs/char-1/model.onnx" in shown
    assert "cellar-train export runs/char-1" in shown
    assert "cellar-serve" not in shown
    assert versions(folder) == []
    assert (folder / "runs/char-1/model.onnx").is_file()

    assert main(["resume", "runs/char-1"]) == 2
    assert "its model was kept back; train it further with: " in capsys.readouterr().err
    assert main(["export", "runs/char-1"]) == 0
    assert versions(folder) == [1]

    assert main(["resume", "runs/char-1", "--steps", "300"]) == 0
    assert not (folder / "runs/char-1/model.onnx").exists()
    manifest = ModelRepository(folder / "model-repository").load("char", 2).manifest
    assert manifest.provenance is not None
    assert manifest.provenance.steps == 303
    assert manifest.provenance.command.endswith("; cellar-train resume RUN --steps 300")
    rates = {
        record["step"]: record["learning_rate"]
        for record in RunFolder(folder / "runs/char-1").history()
        if "learning_rate" in record
    }
    assert rates[50] == max(rates.values())  # it has risen to its peak once more
    assert rates[303] < 0.02 * rates[50]


def test_a_finished_run_takes_a_further_budget(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "runs/char-1"]) == 2
    said = capsys.readouterr().err
    assert "this run is finished; it published char/1; train it further with: " in said
    assert main(["resume", "runs/char-1", "--budget", "0.2s"]) == 0
    checkpoint = RunFolder(finished / "runs/char-1").load_checkpoint()
    assert checkpoint["plan"]["first"] == 60
    assert checkpoint["step"] > 60
    assert checkpoint["further"] == ["--budget 0.2"]


def test_weights_that_are_no_better_are_not_published_twice(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(finished / "runs/char-1")
    checkpoint = run.load_checkpoint()
    checkpoint["best"]["loss"] = 0.0  # nothing will do better
    run.save_checkpoint(checkpoint)
    capsys.readouterr()
    assert main(["resume", "runs/char-1", "--steps", "2"]) == 0
    assert "nothing new was published: no weights validate better" in capsys.readouterr().out
    assert versions(finished) == [1]
    assert json.loads((run.path / "metrics.json").read_text())["model"] == "char/1"


def test_further_training_that_was_stopped_goes_on(finished: Path) -> None:
    from training.run.fit import resume
    from training.settings import Further

    part = resume(finished / "runs/char-1", further=Further(steps=40), stop_after=70)
    assert not part.finished
    assert main(["resume", "runs/char-1"]) == 0
    assert RunFolder(finished / "runs/char-1").load_checkpoint()["step"] == 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "1x"], "budget: '1x' is no duration"),
        (["--budget", "1s", "--steps", "3"], "give one of budget, steps and epochs, not 2"),
        (["--steps", "0"], "steps: "),
    ],
)
def test_lengths_are_checked_before_anything_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["resume", "nowhere", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_series_that_is_worse_than_its_last_value_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.families.series.report import shortfall

    scores = {"mean_wQuantileLoss": 0.02, "last_value.mean_wQuantileLoss": 0.01}
    assert shortfall(scores) is not None
    assert shortfall({**scores, "mean_wQuantileLoss": 0.01}) is None
    seasonal = {**scores, "mean_wQuantileLoss": 0.009, "seasonal_naive.mean_wQuantileLoss": 0.008}
    assert "seasonal naive 0.008" in str(shortfall(seasonal))
    ahead = {
        **scores,
        "mean_wQuantileLoss": 0.009,
        "backtest.mean_wQuantileLoss": 0.03,
        "backtest.last_value.mean_wQuantileLoss": 0.02,
        "backtest.horizon": 30.0,
    }
    assert shortfall({**ahead, "backtest.windows": 1.0}) is None  # one window is chance
    assert "30 steps ahead" in str(shortfall({**ahead, "backtest.windows": 20.0}))
