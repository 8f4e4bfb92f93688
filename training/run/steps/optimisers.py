"""What takes the steps: AdamW for everything, or Muon for the cells' matrices beside it.

Muon (Jordan et al. 2024) makes every direction of a matrix' momentum equally long before it
steps. An LSTM learns about as much from one such step as from two or three of AdamW's, and the
products that it takes cost a tenth of the step where bf16 is fast; elsewhere they cost too much.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from training.run.steps.devices import has_fast_bf16
from training.settings import Optimiser, TrainingConfig

Groups = list[dict[str, Any]]


def optimisers_of(network: nn.Module, config: TrainingConfig) -> list[Optimizer]:
    """The optimisers of a network's parameters; each group's ``peak`` is its peak learning rate."""
    matrices = _matrices_of_cells(network) if uses_muon(config) else []
    taken = {id(matrix) for matrix in matrices}
    rest = [each for each in network.parameters() if id(each) not in taken]
    groups: Groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        _with_peak(groups, config.learning_rate),
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        _with_peak([{"params": matrices}], config.matrix_rate),
        lr=config.matrix_rate,
        weight_decay=config.weight_decay,
    )
    return [adamw, muon]


def uses_muon(config: TrainingConfig) -> bool:
    """Whether a run with these settings takes Muon's steps."""
    if config.optimiser is Optimiser.AUTO:
        return has_fast_bf16(config.device)
    return config.optimiser is Optimiser.MUON


def _matrices_of_cells(network: nn.Module) -> list[nn.Parameter]:
    cells = (module for module in network.modules() if isinstance(module, nn.RNNBase))
    return [parameter for cell in cells for parameter in cell.parameters() if parameter.ndim == 2]


def _with_peak(groups: Iterable[dict[str, Any]], rate: float) -> Groups:
    return [{**group, "peak": rate} for group in groups]
