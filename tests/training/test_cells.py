"""LSTM and GRU written out from their equations, equal to the network and to the exported graph."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.config import Cell
from training.export import export
from training.networks import CharNetwork
from training.parity import OnnxModel

Floats = NDArray[np.float64]
Step = Callable[..., tuple[Floats, Floats]]


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(
    x: Floats, h: Floats, c: Floats, w: Floats, r: Floats, bw: Floats, br: Floats
) -> tuple[Floats, Floats]:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    i, f, g, o = np.split(w @ x + bw + r @ h + br, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(
    x: Floats, h: Floats, c: Floats, w: Floats, r: Floats, bw: Floats, br: Floats
) -> tuple[Floats, Floats]:
    """Cho et al. 2014, with the reset gate after the product (as cuDNN and torch have it)."""
    input_part, recurrent_part = np.split(w @ x + bw, 3), np.split(r @ h + br, 3)
    reset = sigmoid(input_part[0] + recurrent_part[0])
    keep = sigmoid(input_part[1] + recurrent_part[1])
    new = np.tanh(input_part[2] + reset * recurrent_part[2])
    return (1 - keep) * new + keep * h, c


def elman(
    x: Floats, h: Floats, c: Floats, w: Floats, r: Floats, bw: Floats, br: Floats
) -> tuple[Floats, Floats]:
    """Elman 1990."""
    return np.asarray(np.tanh(w @ x + bw + r @ h + br)), c


@pytest.mark.parametrize(
    ("cell", "step"), [(Cell.LSTM, lstm), (Cell.GRU, gru), (Cell.RNN, elman)], ids=str
)
def test_network_and_graph_follow_the_equations(cell: Cell, step: Step) -> None:
    torch.manual_seed(1)
    network = CharNetwork(vocabulary="FAME", cell=cell, hidden=6, embedding=3).eval()
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    layer = [
        weights[f"cells.layers.0.{name}"]
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ]
    tokens: NDArray[np.int64] = np.array([[0, 1, 2, 3, 0, 1, 1]])
    h, c, expected = np.zeros(6), np.zeros(6), []
    for token in tokens[0]:
        h, c = step(weights["embed.weight"][token], h, c, *layer)
        expected.append(weights["head.weight"] @ h + weights["head.bias"])

    with torch.no_grad():
        found, _ = network(torch.from_numpy(tokens), network.initial_state(1))
    model = OnnxModel(*export(network))
    exported, _ = model.run(tokens, model.initial_state(1))
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    np.testing.assert_allclose(exported["logits"][0], expected, atol=1e-6)


def test_forget_gates_start_open() -> None:
    network = CharNetwork(vocabulary="ab", cell=Cell.LSTM, hidden=5)
    bias = network.state_dict()
    total = bias["cells.layers.0.bias_ih_l0"] + bias["cells.layers.0.bias_hh_l0"]
    assert torch.equal(total[5:10], torch.ones(5))
