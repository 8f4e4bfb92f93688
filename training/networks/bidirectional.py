"""Recurrent layers that read a whole sequence from both ends. They have no state to carry."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from training.networks.recurrent import layer_of
from training.settings import Cell, Merge, Nonlinearity


class BidirectionalCells(nn.Module):
    """Stacked layers; each merges its two directions, and dropout follows."""

    def __init__(
        self,
        *,
        cell: Cell,
        inputs: int,
        hidden: int,
        layers: int,
        dropout: float,
        merge: Merge = Merge.CONCAT,
        nonlinearity: Nonlinearity = Nonlinearity.TANH,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden = hidden
        self.merge = merge
        self.nonlinearity = nonlinearity
        self.layers = nn.ModuleList(
            layer_of(
                cell, nonlinearity, inputs if layer == 0 else self.width, hidden, bidirectional=True
            )
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)

    @property
    def width(self) -> int:
        """Numbers per step that come out: twice ``hidden`` where directions are concatenated."""
        return 2 * self.hidden if self.merge is Merge.CONCAT else self.hidden

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map x ``(batch, time, inputs)`` to where both ways end, ``(batch, width)``.

        ``lengths (batch,)`` says how many steps of each row are valid: the way back starts at the
        last of them.
        """
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        for layer in self.layers:
            y, last = layer(packed)
            both = self.dropout(merged(y.data, self.merge))  # (valid steps, width)
            packed = y._replace(data=both)
        h = last[0] if self.cell is Cell.LSTM else last  # (2, batch, hidden)
        end: Tensor = self.dropout(merged(torch.cat([h[0], h[1]], dim=-1), self.merge))
        return end


def merged(both: Tensor, merge: Merge) -> Tensor:
    """One tensor ``(…, width)`` of the two directions ``(…, 2 * hidden)``, forward first."""
    if merge is Merge.CONCAT:
        return both
    forward, backward = both.chunk(2, dim=-1)
    if merge is Merge.MULTIPLY:
        return forward * backward
    total = forward + backward
    return total if merge is Merge.SUM else total / 2
