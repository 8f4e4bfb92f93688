"""Initial states that are learned: trained, resumed, published, and left alone where not asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.manifest import Manifest
from models.repository import ModelRepository
from training.errors import ConfigError
from training.export.onnx_model import OnnxModel
from training.families.parsing import AnyConfig, parse_config
from training.networks.recurrent import RecurrentNetwork
from training.run.files.folder import RunFolder
from training.run.fit import resume, train

SOURCES: dict[str, dict[str, Any]] = {
    "char": {"embedding": 8, "window": 16},
    "series": {"synthetic": 400, "window": 16},
    "classify": {"embedding": 8},
}


def config_of(tmp_path: Path, task: str, where: str = "a", **settings: Any) -> AnyConfig:
    source: dict[str, Any] = {}
    if task == "char":
        text = tmp_path / "hello.txt"
        text.write_text("hello" * 300)
        source = {"text": [text]}
    if task == "classify":
        data = tmp_path / "data.tsv"
        rows = [f"{'ab'[n % 2]}{n:06b}\t{'xy'[n % 2]}" for n in range(60)]
        data.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
        source = {"data": data}
    return parse_config(
        {
            "task": task,
            "hidden": 12,
            "batch": 8,
            "models": tmp_path / where / "models",
            "runs": tmp_path / where / "runs",
            "device": "cpu",
            "publish": True,
            "learn_initial_state": True,
            **SOURCES[task],
            **source,
            **settings,
        }
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = RunFolder(folder).load_checkpoint()["network"]
    return found


@pytest.mark.parametrize("task", SOURCES)
def test_it_is_learned_and_published(tmp_path: Path, task: str) -> None:
    run = train(config_of(tmp_path, task, steps=30, cell="lstm", layers=2))
    loaded = ModelRepository(tmp_path / "a/models").load(task)
    network = run.task.network
    assert isinstance(network, RecurrentNetwork)
    cells = network.cells.initial
    assert set(cells) == {"h_0", "c_0", "h_1", "c_1"}
    assert all(bool(parameter.any()) for parameter in cells.values()), "some are not learned"
    for state in loaded.manifest.states:
        learned = cells[state.input].detach().cpu() if state.input in cells else torch.zeros(1)
        assert np.array_equal(state.start, np.broadcast_to(learned.numpy(), state.shape))
    held_out = run.task.held_out()
    with torch.no_grad():
        expected, _ = network.eval()(held_out.steps[:1], network.initial_state(1))
    model = OnnxModel(loaded.proto, loaded.manifest)
    found = model.step_by_step(held_out.steps[:1].numpy())
    np.testing.assert_allclose(found[0], expected[0].numpy(), rtol=1e-4, atol=1e-4)
    provenance = loaded.manifest.provenance
    assert provenance is not None
    assert provenance.config["learn_initial_state"] is True
    assert "an initial state that is learned" in (run.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("task", "cell"), [("char", "gru"), pytest.param("series", "rnn", marks=pytest.mark.long)]
)
def test_a_resumed_run_learns_the_same_one(tmp_path: Path, task: str, cell: str) -> None:
    whole = train(config_of(tmp_path, task, "whole", steps=23, cell=cell))
    part = train(config_of(tmp_path, task, "parts", steps=23, cell=cell), stop_after=9)
    resumed = resume(part.folder)
    expected, found = weights(whole.folder), weights(resumed.folder)
    assert any(name.startswith("cells.initial.") for name in expected)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.scores == whole.scores


def test_runs_of_before_go_on_without(tmp_path: Path) -> None:
    """Neither their settings nor their checkpoints know of it."""
    part = train(config_of(tmp_path, "char", steps=12, learn_initial_state=False), stop_after=5)
    assert not any("initial" in name for name in weights(part.folder))
    settings = json.loads((part.folder / "config.json").read_text())
    assert settings.pop("learn_initial_state") is False
    (part.folder / "config.json").write_text(json.dumps(settings))
    assert resume(part.folder).finished
    manifest: Manifest = ModelRepository(tmp_path / "a/models").load("char").manifest
    assert {state.initial for state in manifest.states} == {0.0}


@pytest.mark.long
def test_weights_bring_theirs(tmp_path: Path) -> None:
    first = train(config_of(tmp_path, "char", steps=12))
    settings: dict[str, Any] = {
        "name": "second",
        "from_run": first.folder,
        "steps": 1,
        "learning_rate": 1e-9,
    }
    config = config_of(tmp_path, "char", **settings)
    second = train(config.model_copy(update={"learn_initial_state": True}))
    own, found = weights(first.folder), weights(second.folder)
    for name in ("cells.initial.h_0", "cells.initial.c_0"):
        torch.testing.assert_close(found[name], own[name], rtol=0, atol=1e-6)
    plain = train(config_of(tmp_path, "char", "b", steps=2, learn_initial_state=False))
    with pytest.raises(ConfigError, match=r"learn-initial-state: it is True, but .* has False"):
        train(config_of(tmp_path, "char", from_run=plain.folder, steps=1))


def test_models_that_read_both_ways_have_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learn-initial-state is for models with sessions"):
        config_of(tmp_path, "classify", bidirectional=True)
