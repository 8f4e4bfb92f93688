"""The exported classifiers: one arithmetic for chunks, single steps and batches."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.repository import ModelRepository, check_fit
from training.export.exporter import export
from training.export.onnx_model import OnnxModel
from training.families.classify.network import (
    BidirectionalClassifier,
    Encoder,
    Measurements,
    StreamedClassifier,
    Symbols,
)
from training.settings import Cell, Merge

LENGTHS = np.array([1, 24, 3, 9, 23], np.int32)
ROWS, STEPS = len(LENGTHS), 24
LABELS = tuple("pqrstuv")


def encoder(kind: str) -> Encoder:
    torch.manual_seed(7)
    if kind == "text":
        return Symbols("abcd", unknown=3, embedding=12, dropout=0.0)
    mean = torch.tensor([1e3, 0.0, -2.0])
    return Measurements("xyz", mean=mean, scale=torch.tensor([5.0, 0.1, 1.0]), noise=1.0)


def inputs(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    if kind == "text":
        return rng.integers(0, 4, (ROWS, STEPS))
    return (rng.normal(size=(ROWS, STEPS, 3)) * [5, 0.1, 1] + [1e3, 0, -2]).astype(np.float32)


def padded(kind: str, x: np.ndarray) -> np.ndarray:
    x = x.copy()
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 0 if kind == "text" else np.nan
    return x


@pytest.mark.parametrize("kind", ["text", "values"])
@pytest.mark.parametrize("cell", [Cell.LSTM, Cell.GRU])
def test_streamed_steps_chunks_and_ragged_batches_have_the_same_bits(kind: str, cell: Cell) -> None:
    network = StreamedClassifier(encoder(kind), labels=LABELS, cell=cell, layers=2, hidden=33)
    proto, manifest = export(network.eval())
    onnx.checker.check_model(proto, full_check=True)
    check_fit(proto, manifest, where="here")
    model = OnnxModel(proto, manifest)
    x = inputs(kind)
    whole, _ = model.run(x, model.initial_state(ROWS))
    with torch.no_grad():
        expected, _ = network(torch.from_numpy(x), network.initial_state(ROWS))
    np.testing.assert_allclose(whole["label_scores"], expected, rtol=1e-4, atol=1e-5)
    ragged, end = model.run(padded(kind, x), model.initial_state(ROWS), lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        state = model.initial_state(1)
        for step in range(length):
            found, state = model.run(x[[row], step : step + 1], state)
            for batch in (whole, ragged):
                np.testing.assert_array_equal(
                    found["label_scores"][0, 0], batch["label_scores"][row, step]
                )
        for name, part in state.items():
            np.testing.assert_array_equal(part[0], end[name][row])


@pytest.mark.parametrize("kind", ["text", "values"])
@pytest.mark.parametrize("cell", [Cell.LSTM, Cell.GRU])
@pytest.mark.parametrize("merge", Merge)
def test_a_whole_sequence_has_the_same_bits_alone_and_beside_longer_ones(
    kind: str, cell: Cell, merge: Merge
) -> None:
    network = BidirectionalClassifier(
        encoder(kind), labels=LABELS, cell=cell, layers=2, hidden=33, merge=merge
    ).eval()
    proto, manifest = export(network)
    onnx.checker.check_model(proto, full_check=True)
    check_fit(proto, manifest, where="here")
    model = OnnxModel(proto, manifest)
    x = inputs(kind)
    ragged, _ = model.run(padded(kind, x), {}, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone, _ = model.run(x[[row], :length], {})
        np.testing.assert_array_equal(alone["label_scores"][0], ragged["label_scores"][row])
    with torch.no_grad():
        expected = network(torch.from_numpy(x), torch.from_numpy(LENGTHS))
    np.testing.assert_allclose(ragged["label_scores"], expected, rtol=1e-4, atol=1e-5)


def test_published_models_can_be_loaded(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    for name, network in (
        ("streamed", StreamedClassifier(encoder("text"), labels=LABELS)),
        ("whole", BidirectionalClassifier(encoder("values"), labels=LABELS)),
    ):
        proto, manifest = export(network.eval(), name=name)
        repository.publish(proto, manifest)
        assert repository.load(name).manifest == manifest
