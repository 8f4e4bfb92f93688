"""Small untrained networks as served models, and the same networks in torch to compare with."""

import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.manifest import Manifest, fingerprint
from models.repository import Model, ModelRepository
from training.config import Cell
from training.export import export
from training.networks import CharNetwork, RecurrentNetwork, SeriesNetwork

SYMBOLS = string.ascii_lowercase + " "


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network, and the model exported from it."""

    network: RecurrentNetwork
    model: Model

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest


def char_case(
    cell: str = "lstm",
    *,
    layers: int = 1,
    hidden: int = 16,
    symbols: str = SYMBOLS,
    seed: int = 0,
    name: str = "letters",
) -> Case:
    """A network over characters with random weights."""
    torch.manual_seed(seed)
    network = CharNetwork(
        vocabulary=tuple(symbols), cell=Cell(cell), layers=layers, hidden=hidden, embedding=8
    )
    return _case(network.eval(), name)


def series_case(
    cell: str = "lstm", *, layers: int = 1, hidden: int = 8, seed: int = 0, name: str = "prices"
) -> Case:
    """A network over positive values with random weights."""
    torch.manual_seed(seed)
    network = SeriesNetwork(feature="Close", cell=Cell(cell), layers=layers, hidden=hidden)
    torch.nn.init.normal_(network.head.linear.weight, std=0.3)
    return _case(network.eval(), name)


def write_repository(root: Path, *cases: Case) -> Path:
    """Publish the models into a repository."""
    repository = ModelRepository(root)
    for case in cases:
        repository.publish(case.model.proto, case.manifest)
    return root


def torch_predictions(
    case: Case, inputs: NDArray[np.int64] | NDArray[np.float32]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Run one sequence (steps,) through torch: predictions (steps, width) and final states."""
    x = torch.from_numpy(inputs)
    if x.dtype == torch.float32:
        x = x[:, None]
    with torch.no_grad():
        y, state = case.network(x[None], case.network.initial_state(1))
    return y[0].numpy(), [tensor[0].numpy() for tensor in state]


def _case(network: RecurrentNetwork, name: str) -> Case:
    proto, manifest = export(network, name=name)
    model = Model(
        name=name,
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=Path(f"{name}.onnx"),
    )
    return Case(network=network, model=model)
