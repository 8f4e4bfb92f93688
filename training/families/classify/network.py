"""Networks that label sequences: an encoder, recurrent cells, a linear head on the last of them.

Both kinds take tokens ``(batch, time)`` int64 or raw values ``(batch, time, features)``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.networks.bidirectional import BidirectionalCells
from training.networks.recurrent import Cells, RecurrentNetwork, State
from training.settings import Cell, Merge, Nonlinearity


class Symbols(nn.Module):
    """Tokens -> their embeddings."""

    def __init__(
        self, vocabulary: Sequence[str], *, unknown: int | None, embedding: int, dropout: float
    ) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.unknown = unknown
        self.width = embedding
        self.table = nn.Embedding(len(self.vocabulary), embedding)
        if unknown is not None:  # says nothing, unless training teaches otherwise
            with torch.no_grad():
                self.table.weight[unknown] = 0.0
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time)`` to ``(batch, time, width)``."""
        embedded: Tensor = self.dropout(self.table(x))
        return embedded


class Measurements(nn.Module):
    """Raw values -> values of mean 0 and deviation 1; in training, with noise on them."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Sequence[str], *, mean: Tensor, scale: Tensor, noise: float):
        super().__init__()
        self.features = tuple(features)
        self.width = len(self.features)
        self.noise = noise
        self.register_buffer("mean", mean.float())  # (features,)
        self.register_buffer("scale", scale.float())  # (features,)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, features)`` to as many."""
        scaled = (x - self.mean) / self.scale
        if self.training and self.noise:
            scaled = scaled + self.noise * torch.randn_like(scaled)
        return scaled


Encoder = Symbols | Measurements


class StreamedClassifier(RecurrentNetwork):
    """Steps -> the label so far, ``(batch, time, labels)`` logits."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        labels: Sequence[str],
        cell: Cell = Cell.LSTM,
        layers: int = 1,
        hidden: int = 128,
        dropout: float = 0.0,
        nonlinearity: Nonlinearity = Nonlinearity.TANH,
        learns_initial: bool = False,
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.encoder = encoder
        self.cells = Cells(
            cell=cell,
            inputs=encoder.width,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            nonlinearity=nonlinearity,
            learns_initial=learns_initial,
        )
        self.head = nn.Linear(hidden, len(self.labels))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map a chunk of steps to float32 logits after each."""
        y, state = self.cells(self.encoder(x), state)  # (batch, time, hidden)
        with torch.autocast(y.device.type, enabled=False):
            return self.head(y.float()), state


class BidirectionalClassifier(nn.Module):
    """Whole sequences -> one label each, ``(batch, labels)`` logits.

    The head sees where each direction ends: the way forth at a row's last step, the way back at
    its first.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        labels: Sequence[str],
        cell: Cell = Cell.LSTM,
        layers: int = 1,
        hidden: int = 128,
        dropout: float = 0.0,
        nonlinearity: Nonlinearity = Nonlinearity.TANH,
        merge: Merge = Merge.CONCAT,
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.encoder = encoder
        self.cells = BidirectionalCells(
            cell=cell,
            inputs=encoder.width,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            merge=merge,
            nonlinearity=nonlinearity,
        )
        self.head = nn.Linear(self.cells.width, len(self.labels))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map sequences with ``lengths (batch,)`` valid steps to float32 logits."""
        y = self.cells(self.encoder(x), lengths)  # (batch, width)
        with torch.autocast(y.device.type, enabled=False):
            logits: Tensor = self.head(y.float())
            return logits


Classifier = StreamedClassifier | BidirectionalClassifier
