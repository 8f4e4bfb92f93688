"""Publishing the weights of a run again."""

from pathlib import Path

import onnx
import pytest

from models.manifest import Manifest
from models.repository import ModelRepository
from training.cli import main
from training.errors import RunError
from training.families.parsing import AnyConfig, parse_config
from training.run.ends.republish import export_run
from training.run.fit import train


@pytest.fixture
def config(tmp_path: Path) -> AnyConfig:
    (tmp_path / "text.txt").write_text("the quick brown fox " * 60)
    return parse_config(
        {
            "task": "char",
            "text": [tmp_path / "text.txt"],
            "steps": 24,
            "hidden": 16,
            "batch": 8,
            "window": 16,
            "device": "cpu",
            "publish": True,
            "models": tmp_path / "models",
            "runs": tmp_path / "runs",
        }
    )


def test_a_finished_run_is_published_again_as_it_was(config: AnyConfig, tmp_path: Path) -> None:
    run = train(config)
    path = export_run(run.folder, models=tmp_path / "others")
    first = ModelRepository(config.models).load("char")
    again = ModelRepository(tmp_path / "others").load("char")
    assert path == again.path
    assert again.fingerprint == first.fingerprint
    assert again.manifest.scores == first.manifest.scores
    assert again.manifest.provenance is not None
    assert again.manifest.provenance.steps == 24


def test_a_stopped_run_is_exported_to_a_file(
    config: AnyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(config, stop_after=15)
    target = tmp_path / "so-far.onnx"
    assert main(["export", str(run.folder / "checkpoint.pt"), "--to", str(target)]) == 0
    assert "15 steps" in capsys.readouterr().out
    manifest = Manifest.extract(onnx.load(target))
    assert manifest is not None
    assert manifest.scores["onnx_gap"] < 1e-4
    assert not config.models.exists()
    assert not list(tmp_path.glob(".so-far*"))


def test_what_cannot_be_exported_is_refused(
    config: AnyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(config, stop_after=5)
    assert main(["export", str(run.folder), "--to", "model.txt"]) == 2
    assert "--to model.txt: give a file that ends in .onnx" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("another text now " * 80)
    with pytest.raises(RunError, match=r"text.txt has changed since the run began"):
        export_run(run.folder)
