"""The models attacked: one of each family, untrained and small."""

import string
from pathlib import Path

import torch

from models.repository import ModelRepository
from training.export.exporter import export
from training.families.char.network import CharNetwork
from training.families.classify.network import BidirectionalClassifier, StreamedClassifier, Symbols
from training.families.series.network import SeriesNetwork
from training.networks.recurrent import RecurrentNetwork
from training.settings import Cell, Merge

SYMBOLS = tuple(string.ascii_lowercase + " ")
LETTERS, PRICES, LABELS, WHOLE = "letters", "prices", "labels", "whole"
NAMES = (LETTERS, PRICES, LABELS, WHOLE)
"""Reads text and writes it; reads prices; labels what it has read; labels whole sequences only."""


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


__all__ = ["LABELS", "LETTERS", "NAMES", "PRICES", "SYMBOLS", "WHOLE", "publish"]
