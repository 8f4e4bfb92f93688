"""Recurrent networks over characters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.networks.recurrent import Cells, RecurrentNetwork, State
from training.settings import Cell, Nonlinearity


class CharNetwork(RecurrentNetwork):
    """Tokens ``(batch, time)`` int64 -> logits of the next token ``(batch, time, vocabulary)``."""

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        cell: Cell = Cell.LSTM,
        layers: int = 1,
        hidden: int = 256,
        embedding: int = 96,
        dropout: float = 0.0,
        nonlinearity: Nonlinearity = Nonlinearity.TANH,
        learns_initial: bool = False,
        unknown: int | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.unknown = unknown
        self.embed = nn.Embedding(len(self.vocabulary), embedding)
        self.cells = Cells(
            cell=cell,
            inputs=embedding,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            nonlinearity=nonlinearity,
            learns_initial=learns_initial,
        )
        self.head = nn.Linear(hidden, len(self.vocabulary))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map tokens to float32 logits, whatever precision the cells run in."""
        y, state = self.cells(self.embed(x), state)  # (batch, time, hidden)
        with torch.autocast(y.device.type, enabled=False):
            return self.head(y.float()), state
