"""The models attacked: one of each family, untrained and small."""

from pathlib import Path

import torch

from benchmarks.fuzz.messages.names import LABELS, LETTERS, PRICES, SYMBOLS, WHOLE
from models.repository import ModelRepository
from training.export.exporter import export
from training.families.char.network import CharNetwork
from training.families.classify.network import BidirectionalClassifier, StreamedClassifier, Symbols
from training.families.series.network import SeriesNetwork
from training.networks.recurrent import RecurrentNetwork
from training.settings import Cell, Merge


def publish(root: Path) -> Path:
    """Export all of them into a repository; returns its folder."""
    torch.manual_seed(0)
    for name, network in _networks().items():
        proto, manifest = export(network.eval(), name=name)
        ModelRepository(root).publish(proto, manifest)
    return root


def _networks() -> dict[str, RecurrentNetwork | BidirectionalClassifier]:
    def encoder() -> Symbols:
        return Symbols("".join(SYMBOLS), unknown=None, embedding=8, dropout=0.0)

    classes = ("Irish", "Czech", "日本")
    return {
        LETTERS: CharNetwork(vocabulary=SYMBOLS, cell=Cell.LSTM, layers=1, hidden=16, embedding=8),
        PRICES: SeriesNetwork(feature="Close", cell=Cell.GRU, layers=1, hidden=8),
        LABELS: StreamedClassifier(encoder(), labels=classes, cell=Cell.LSTM, layers=1, hidden=16),
        WHOLE: BidirectionalClassifier(
            encoder(), labels=classes, cell=Cell.GRU, layers=1, hidden=16, merge=Merge.CONCAT
        ),
    }


__all__ = ["publish"]
