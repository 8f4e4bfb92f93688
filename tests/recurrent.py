"""Small untrained networks as served models, and the same networks in torch to compare with."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.manifest import Manifest, fingerprint
from models.repository import Model, ModelRepository
from training.data.series.columns import TimeFeature
from training.export.exporter import export
from training.families.char.network import CharNetwork
from training.families.classify.network import (
    BidirectionalClassifier,
    Measurements,
    StreamedClassifier,
    Symbols,
)
from training.families.series.features import Features, Number
from training.families.series.network import SeriesNetwork
from training.families.series.settings import Transform
from training.networks.recurrent import RecurrentNetwork
from training.settings import Cell, Merge, Nonlinearity

SYMBOLS = string.ascii_lowercase + " "
LABELS = ("Irish", "Czech", "日本", "Greek", "Dutch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network, and the model exported from it."""

    network: RecurrentNetwork
    model: Model

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeCase:
    """A network that reads whole sequences, and the model exported from it."""

    network: BidirectionalClassifier
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
    learned: bool = False,
    seed: int = 0,
    name: str = "letters",
) -> Case:
    """A network over characters with random weights, and maybe a random initial state."""
    torch.manual_seed(seed)
    network = CharNetwork(
        vocabulary=tuple(symbols),
        **_cell(cell),
        layers=layers,
        hidden=hidden,
        embedding=8,
        learns_initial=learned,
    )
    return _case(_with_a_start(network).eval(), name)


def series_case(
    cell: str = "lstm",
    *,
    layers: int = 1,
    hidden: int = 8,
    features: bool = False,
    learned: bool = False,
    seed: int = 0,
    name: str = "prices",
) -> Case:
    """A network over positive values with random weights; maybe with Volume and hour beside."""
    torch.manual_seed(seed)
    volume = Number(
        name="Volume",
        transform=Transform.DIFFERENCE,
        change_scale=1.0,
        mean=0.0,
        deviation=1.0,
        drifts=False,
    )
    beside = Features(numbers=(volume,), times=(TimeFeature.HOUR,)) if features else None
    network = SeriesNetwork(
        feature="Close",
        features=beside,
        **_cell(cell),
        layers=layers,
        hidden=hidden,
        learns_initial=learned,
    )
    torch.nn.init.normal_(network.head.linear.weight, std=0.3)
    return _case(_with_a_start(network).eval(), name)


def label_case(
    cell: str = "lstm",
    *,
    layers: int = 1,
    hidden: int = 16,
    features: int = 0,
    learned: bool = False,
    seed: int = 0,
    name: str = "labels",
) -> Case:
    """A network that labels what it has read so far: letters, or rows of so many features."""
    torch.manual_seed(seed)
    network = StreamedClassifier(
        _encoder(features),
        labels=LABELS,
        cell=Cell(cell),
        layers=layers,
        hidden=hidden,
        learns_initial=learned,
    )
    proto, manifest = export(_with_a_start(network).eval(), name=name)
    return Case(network=network, model=_model(proto, manifest))


def whole_case(
    cell: str = "lstm",
    *,
    layers: int = 1,
    hidden: int = 16,
    features: int = 0,
    merge: str = "concat",
    seed: int = 0,
    name: str = "whole",
) -> WholeCase:
    """A network that reads in both directions, and then labels."""
    torch.manual_seed(seed)
    network = BidirectionalClassifier(
        _encoder(features),
        labels=LABELS,
        cell=Cell(cell),
        layers=layers,
        hidden=hidden,
        merge=Merge(merge),
    )
    proto, manifest = export(network.eval(), name=name)
    return WholeCase(network=network, model=_model(proto, manifest))


def _cell(name: str) -> dict[str, Any]:
    """A cell by name; ``relu`` is the plain RNN with relu for tanh."""
    if name == "relu":
        return {"cell": Cell.RNN, "nonlinearity": Nonlinearity.RELU}
    return {"cell": Cell(name)}


def write_repository(root: Path, *cases: Case | WholeCase) -> Path:
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
    if x.dtype == torch.float32 and x.ndim == 1:
        x = x[:, None]
    with torch.no_grad():
        y, state = case.network(x[None], case.network.initial_state(1))
    return y[0].numpy(), [tensor[0].numpy() for tensor in state]


def _with_a_start(network: RecurrentNetwork) -> RecurrentNetwork:
    """The network, with something where its initial state is learned."""
    for parameter in network.cells.initial.values():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def _case(network: RecurrentNetwork, name: str) -> Case:
    proto, manifest = export(network, name=name)
    return Case(network=network, model=_model(proto, manifest))


def _model(proto: onnx.ModelProto, manifest: Manifest) -> Model:
    return Model(
        name=manifest.name,
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=Path(f"{manifest.name}.onnx"),
    )


def _encoder(features: int) -> Symbols | Measurements:
    if not features:
        return Symbols(SYMBOLS, unknown=None, embedding=8, dropout=0.0)
    names = [f"x{number}" for number in range(features)]
    mean, scale = torch.randn(features), torch.rand(features) + 0.5
    return Measurements(names, mean=mean, scale=scale, noise=0.0)
