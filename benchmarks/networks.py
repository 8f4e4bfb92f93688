"""The models measured: untrained, as arithmetic costs the same whatever the weights."""

import string
from pathlib import Path

import torch

from models.repository import ModelRepository
from training.export.exporter import export
from training.families.char.network import CharNetwork
from training.settings import Cell

VOCABULARY = tuple(string.ascii_letters + string.digits + " .,")
EMBEDDING = 64
SIZES = {
    "2x128": (2, 128),
    "2x512": (2, 512),
    "2x1024": (2, 1024),
    "1x256": (1, 256),
    "1x16": (1, 16),
}
"""Layers and hidden units of each."""


def publish(root: Path, size: str) -> Path:
    """Export one of ``SIZES`` as ``lstm-<size>`` into a repository; returns the file."""
    layers, hidden = SIZES[size]
    torch.manual_seed(0)
    network = CharNetwork(
        vocabulary=VOCABULARY, cell=Cell.LSTM, hidden=hidden, layers=layers, embedding=EMBEDDING
    )
    proto, manifest = export(network.eval(), name=model_name(size))
    return ModelRepository(root).publish(proto, manifest)


def model_name(size: str) -> str:
    """What it is called in the repository."""
    return f"lstm-{size}"


def state_bytes(size: str) -> int:
    """Bytes of one session's state: h and c of each layer, float32."""
    layers, hidden = SIZES[size]
    return layers * 2 * hidden * 4


__all__ = ["EMBEDDING", "SIZES", "VOCABULARY", "model_name", "publish", "state_bytes"]
