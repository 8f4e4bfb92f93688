"""How the cells start."""

import torch

from training.families.char.network import CharNetwork
from training.settings import Cell


def test_forget_gates_start_open() -> None:
    network = CharNetwork(vocabulary="ab", cell=Cell.LSTM, hidden=5)
    bias = network.state_dict()
    total = bias["cells.layers.0.bias_ih_l0"] + bias["cells.layers.0.bias_hh_l0"]
    assert torch.equal(total[5:10], torch.ones(5))
