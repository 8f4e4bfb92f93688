"""Layers that read from both ends, and relu RNNs: the network and its graph are their equations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from training.export.exporter import export
from training.export.onnx_model import OnnxModel
from training.families.classify.network import (
    BidirectionalClassifier,
    Classifier,
    Measurements,
    StreamedClassifier,
)
from training.networks.bidirectional import BidirectionalCells
from training.networks.equations import Floats, State, Step, Weights, gru, lstm, rnn, unrolled
from training.networks.recurrent import layer_of
from training.settings import Cell, Merge, Nonlinearity

INPUTS, HIDDEN, LENGTHS = 3, 4, (5, 2, 1)


def rectified(weights: Weights, x: Floats, state: State) -> State:
    """Le, Jaitly & Hinton 2015."""
    (h,) = state
    return (np.maximum(weights.W @ x + weights.b_w + weights.R @ h + weights.b_r, 0),)


CELLS = [
    pytest.param(Cell.LSTM, Nonlinearity.TANH, lstm, id="lstm"),
    pytest.param(Cell.GRU, Nonlinearity.TANH, gru, id="gru"),
    pytest.param(Cell.RNN, Nonlinearity.TANH, rnn, id="rnn"),
    pytest.param(Cell.RNN, Nonlinearity.RELU, rectified, id="relu"),
]
MERGES: dict[Merge, Callable[[Floats, Floats], Floats]] = {
    Merge.CONCAT: lambda forth, back: np.concatenate([forth, back], axis=-1),
    Merge.SUM: lambda forth, back: forth + back,
    Merge.AVERAGE: lambda forth, back: (forth + back) / 2,
    Merge.MULTIPLY: lambda forth, back: forth * back,
}


def measurements() -> Measurements:
    torch.manual_seed(1)
    return Measurements("abc", mean=torch.zeros(INPUTS), scale=torch.ones(INPUTS), noise=0.0)


def values() -> np.ndarray:
    rows = np.random.default_rng(2).normal(size=(len(LENGTHS), max(LENGTHS), INPUTS))
    return rows.astype(np.float32)


def way(network: Classifier, layer: int, step: Step, xs: Floats, suffix: str = "") -> Floats:
    """One direction of a layer over a sequence (steps, inputs): (steps, hidden)."""
    cell = network.cells.layers[layer]
    names = {"W": "weight_ih", "R": "weight_hh", "b_w": "bias_ih", "b_r": "bias_hh"}
    weights = Weights(
        **{
            short: cell.get_parameter(f"{name}_l0{suffix}").detach().double().numpy()
            for short, name in names.items()
        }
    )
    zeros = np.zeros(HIDDEN)
    return unrolled(step, weights, xs, (zeros, zeros) if step is lstm else (zeros,))[0]


def headed(network: Classifier, y: Floats) -> Floats:
    weight, bias = network.head.weight.detach().double(), network.head.bias.detach().double()
    return np.asarray(y @ weight.numpy().T + bias.numpy())


@pytest.mark.parametrize("merge", Merge)
@pytest.mark.parametrize(("cell", "nonlinearity", "step"), CELLS)
def test_both_ways_follow_the_equations(
    cell: Cell, nonlinearity: Nonlinearity, step: Step, merge: Merge
) -> None:
    network = BidirectionalClassifier(
        measurements(),
        labels="xy",
        cell=cell,
        nonlinearity=nonlinearity,
        layers=2,
        hidden=HIDDEN,
        merge=merge,
    ).eval()
    x = values()
    expected = []
    for row, length in enumerate(LENGTHS):
        xs = x[row, :length].astype(np.float64)
        for layer in range(2):
            forth = way(network, layer, step, xs)
            back = way(network, layer, step, xs[::-1], "_reverse")
            xs = MERGES[merge](forth, back[::-1])
        expected.append(headed(network, MERGES[merge](forth[-1], back[-1])))
    with torch.no_grad():
        found = network(torch.from_numpy(x), torch.tensor(LENGTHS))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = np.nan  # what follows the end is never read
    exported, _ = OnnxModel(*export(network)).run(x, {}, lengths=np.array(LENGTHS, np.int32))
    np.testing.assert_allclose(exported["label_scores"], expected, atol=1e-6)


@pytest.mark.parametrize(("cell", "nonlinearity", "step"), CELLS)
def test_one_way_follows_the_equations(cell: Cell, nonlinearity: Nonlinearity, step: Step) -> None:
    network = StreamedClassifier(
        measurements(),
        labels="xy",
        cell=cell,
        nonlinearity=nonlinearity,
        layers=2,
        hidden=HIDDEN,
    ).eval()
    x = values()[:1]
    lower = way(network, 0, step, x[0].astype(np.float64))
    expected = headed(network, way(network, 1, step, lower))
    with torch.no_grad():
        found, _ = network(torch.from_numpy(x), network.initial_state(1))
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    model = OnnxModel(*export(network))
    exported, _ = model.run(x, model.initial_state(1))
    np.testing.assert_allclose(exported["label_scores"][0], expected, atol=1e-6)


def test_dropout_lies_between_layers_and_before_the_head() -> None:
    torch.manual_seed(0)
    cells = BidirectionalCells(cell=Cell.GRU, inputs=3, hidden=200, layers=2, dropout=0.5)
    ends = cells(torch.randn(2, 6, 3), torch.tensor([6, 4]))
    assert ends.shape == (2, 400)
    assert 0.4 < float((ends == 0).float().mean()) < 0.6
    assert not (cells.eval()(torch.randn(2, 6, 3), torch.tensor([6, 4])) == 0).any()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_forget_gates_start_open(bidirectional: bool) -> None:
    layer = layer_of(Cell.LSTM, Nonlinearity.TANH, 3, 5, bidirectional=bidirectional)
    for suffix in ("", "_reverse")[: 1 + bidirectional]:
        bias = [layer.get_parameter(f"bias_{kind}_l0{suffix}") for kind in ("ih", "hh")]
        assert torch.equal((bias[0] + bias[1])[5:10], torch.ones(5))
