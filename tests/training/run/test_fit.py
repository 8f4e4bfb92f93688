"""Training runs from settings to a published model; stopping and resuming."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.manifest import TokensInput
from models.repository import ModelRepository
from training.errors import ParityError, RunError, TrainingError
from training.export.onnx_model import OnnxModel
from training.families.char.network import CharNetwork
from training.families.parsing import AnyConfig, parse_config
from training.run.files.folder import RunFolder, TrainedRun
from training.run.fit import resume, train


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.txt"
    path.write_text("hello" * 300)
    return path


def config_of(tmp_path: Path, where: str = "a", **settings: Any) -> AnyConfig:
    return parse_config(
        {
            "hidden": 24,
            "batch": 8,
            "window": 16,
            "models": tmp_path / where / "models",
            "runs": tmp_path / where / "runs",
            "device": "cpu",
            "publish": True,
            **settings,
        }
    )


def char(tmp_path: Path, text: Path, where: str = "a", **settings: Any) -> AnyConfig:
    settings = {"embedding": 8, "dropout": 0.2, **settings}
    return config_of(tmp_path, where, task="char", text=[text], **settings)


def series(tmp_path: Path, where: str = "a", **settings: Any) -> AnyConfig:
    return config_of(tmp_path, where, task="series", synthetic=400, **settings)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_hello_is_learnt_only_with_memory(tmp_path: Path, hello: Path, cell: str) -> None:
    run = train(char(tmp_path, hello, cell=cell, steps=120, learning_rate=0.02))
    loaded = ModelRepository(tmp_path / "a/models").load("char")
    assert isinstance(loaded.manifest.input, TokensInput)
    vocabulary = loaded.manifest.input.vocabulary
    model = OnnxModel(loaded.proto, loaded.manifest)
    tokens = np.array([[vocabulary.index(letter) for letter in "hell"]])
    found, _ = model.run(tokens, model.initial_state(1))
    following = [vocabulary[place] for place in found["logits"][0].argmax(-1)]
    assert following == ["e", "l", "l", "o"]
    assert run.scores["carried"] < 0.05


def weights_of(run: TrainedRun) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = RunFolder(run.folder).load_checkpoint()["network"]
    return weights


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("char", {"cell": "lstm", "layers": 2}),
        ("char", {"cell": "gru", "precision": "bf16"}),
        ("series", {"cell": "lstm"}),
        pytest.param("series", {"cell": "rnn", "layers": 2}, marks=pytest.mark.long),
    ],
)
def test_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, hello: Path, task: str, settings: dict[str, Any]
) -> None:
    def config(where: str) -> AnyConfig:
        settings_here = {"steps": 43, **settings}
        if task == "char":
            return char(tmp_path, hello, where, **settings_here)
        return series(tmp_path, where, **settings_here)

    whole = train(config("whole"))
    part = train(config("parts"), stop_after=13)
    assert not part.finished
    assert part.steps == 13
    assert part.model is None
    assert not (tmp_path / "parts/models").exists()
    part = resume(part.folder, stop_after=31)
    resumed = resume(part.folder)
    assert resumed.finished

    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.scores == whole.scores
    records = [
        [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, resumed)
    ]
    for record in records[0] + records[1]:
        record.pop("seconds", None)
    assert records[0] == records[1]


def test_budget_is_planned_before_the_learning_rate_has_to_fall(tmp_path: Path) -> None:
    # The clock stands still: what ends the run is that it has read the data often enough.
    run = train(series(tmp_path, budget_s=60.0, window=8), clock=lambda: 0.0)
    assert run.total_steps == run.steps
    records = (run.folder / "metrics.jsonl").read_text().splitlines()
    rates = [rate for line in records if (rate := json.loads(line).get("learning_rate"))]
    peak = run.task.config.learning_rate
    assert max(rates) > 0.9 * peak
    assert peak * 0.3 < rates[len(rates) // 2] < peak * 0.7
    assert rates[-1] < peak * 0.02


def test_run_leaves_its_folder_and_one_model(tmp_path: Path, hello: Path) -> None:
    config = char(tmp_path, hello, steps=20, name="greeting")
    run = train(config)
    left = {path.name for path in run.folder.iterdir()}
    assert left == {
        "config.json",
        "metrics.json",
        "metrics.jsonl",
        "report.html",
        "sample.txt",
        "checkpoint.pt",
    }
    assert RunFolder(run.folder).config() == config
    manifest = ModelRepository(config.models).load("greeting", 1).manifest
    assert manifest.scores == run.scores
    assert {"cold256", "carried", "onnx_gap", "int8_nats_cost"} <= manifest.scores.keys()
    assert abs(manifest.scores["int8_nats_cost"]) < 0.01
    provenance = manifest.provenance
    assert provenance is not None
    assert provenance.steps == 20
    assert provenance.data == "hello.txt"
    assert provenance.command.startswith("cellar-train char --name greeting --hidden 24")
    assert "--text hello.txt" in provenance.command
    assert str(tmp_path) not in manifest.model_dump_json()
    again = train(config).model
    assert again is not None
    assert again.parent.name == "2"


def test_series_run_prints_baselines_and_forecasts(tmp_path: Path) -> None:
    run = train(series(tmp_path, steps=20, horizon=7))
    baselines = {"fitted_walk", "gaussian_walk", "last_value"}
    assert {f"{name}.mean_wQuantileLoss" for name in baselines} <= run.scores.keys()
    assert run.scores["mean_wQuantileLoss"] < run.scores["last_value.mean_wQuantileLoss"]
    assert 0.6 < run.scores["coverage80"] < 0.95
    rows = (run.folder / "forecast.csv").read_text().splitlines()
    assert rows[0] == "series,step,date,q10,q50,q90"
    assert len(rows) == 8
    low, middle, high = map(float, rows[-1].split(",")[3:])
    assert 0 < low < middle < high
    manifest = ModelRepository(tmp_path / "a/models").load("series").manifest
    assert manifest.provenance is not None
    assert "synthetic" in manifest.provenance.data


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path: Path, hello: Path) -> None:
    config = char(tmp_path, hello, steps=200, learning_rate=1e30, warmup=0)
    with pytest.raises(TrainingError, match="smaller --learning-rate"):
        train(config)
    assert not (tmp_path / "a/models").exists()


def test_resume_refuses_what_it_cannot_continue(tmp_path: Path, hello: Path) -> None:
    finished = train(char(tmp_path, hello, steps=3))
    with pytest.raises(RunError, match="this run is finished; it published char/1"):
        resume(finished.folder)
    with pytest.raises(RunError, match="no run folder"):
        resume(tmp_path)
    part = train(char(tmp_path, hello, steps=20), stop_after=5)
    hello.write_text("jello" * 300)
    with pytest.raises(RunError, match="has changed since the run began"):
        resume(part.folder)
    (part.folder / "checkpoint.pt").write_bytes(b"torn")
    hello.write_text("hello" * 300)
    with pytest.raises(RunError, match="not a readable checkpoint"):
        resume(part.folder)


def test_a_graph_that_is_not_the_network_is_not_published(
    tmp_path: Path, hello: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: CharNetwork, **settings: Any) -> tuple[Any, Any]:
        from training.export.exporter import export

        with torch.no_grad():
            network.head.bias[0] += 0.5
            made = export(network, **settings)
            network.head.bias[0] -= 0.5
        return made

    monkeypatch.setattr("training.run.ends.product.export", wrong)
    with pytest.raises(ParityError, match="not published"):
        train(char(tmp_path, hello, steps=5))
    assert not (tmp_path / "a/models").exists()
