"""The models examined: untrained, as arithmetic costs the same whatever the weights."""

import string
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.repository import Model, ModelRepository
from training.export.exporter import export
from training.families.char.network import CharNetwork
from training.families.series.network import SeriesNetwork
from training.networks.recurrent import RecurrentNetwork
from training.settings import Cell

LAYERS = 2
SYMBOLS = tuple(string.ascii_lowercase + " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model, and how its products are rounded.

    Attributes:
        kind: what it reads, characters or prices.
        cell: lstm, gru or rnn.
        hidden: units of each layer.
        tf32: products of float32 may round their factors to 10 bits.
    """

    kind: Literal["char", "series"]
    cell: str
    hidden: int
    tf32: bool = False

    def __str__(self) -> str:
        rounding = " tf32" if self.tf32 else ""
        return f"{self.kind} {self.cell} {LAYERS}x{self.hidden}{rounding}"

    def model(self) -> Model:
        """The model as a repository holds it; the last few are kept."""
        return _published(self)

    def inputs(self, rows: int, seed: int, steps: int = 1) -> NDArray[Any]:
        """Valid steps: tokens (rows, steps), or prices (rows, steps, 1)."""
        noise = np.random.default_rng(seed)
        if self.kind == "char":
            return noise.integers(len(SYMBOLS), size=(rows, steps))
        return np.exp(noise.normal(4.6, 0.1, (rows, steps, 1))).astype(np.float32)

    def network(self) -> RecurrentNetwork:
        """The same in torch, with the same weights each time."""
        torch.manual_seed(0)
        cell = Cell(self.cell)
        if self.kind == "char":
            return CharNetwork(
                vocabulary=SYMBOLS, cell=cell, layers=LAYERS, hidden=self.hidden, embedding=64
            )
        network = SeriesNetwork(cell=cell, layers=LAYERS, hidden=self.hidden)
        # As it begins, the head hardly looks at the cells: a wrong state would not show.
        torch.nn.init.normal_(network.head.linear.weight, std=0.3)
        return network


@lru_cache(maxsize=4)
def _published(subject: Subject) -> Model:
    proto, manifest = export(subject.network().eval(), name=subject.kind)
    with tempfile.TemporaryDirectory(prefix="cellar-gpu-") as folder:
        repository = ModelRepository(Path(folder))
        repository.publish(proto, manifest)
        return repository.load(subject.kind)


__all__ = ["LAYERS", "SYMBOLS", "Subject"]
