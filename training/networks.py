"""Recurrent networks: stacked cells between an encoder and a head.

Every network maps ``(x, state) -> (y, state)`` over a chunk of time steps, and its state is a tuple
of tensors with the batch first, in the order of `state_shapes`. Running a sequence in chunks with
the state carried equals running it whole. Knows nothing of data, training or ONNX.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.config import Cell, Transform
from training.heads import JohnsonHead
from training.scaling import Scaling

State = tuple[Tensor, ...]

_MODULES: dict[Cell, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    Cell.LSTM: nn.LSTM,
    Cell.GRU: nn.GRU,
    Cell.RNN: nn.RNN,
}


class Cells(nn.Module):
    """Stacked recurrent layers with dropout after each.

    The state is h_0 (and c_0), h_1 (and c_1), … with one tensor ``(batch, hidden)`` each.
    """

    def __init__(
        self, *, cell: Cell, inputs: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden = hidden
        self.layers = nn.ModuleList(
            _MODULES[cell](inputs if layer == 0 else hidden, hidden, batch_first=True)
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        if cell is Cell.LSTM:
            self._open_forget_gates()

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state tensors, without the batch."""
        kinds = ("h", "c") if self.cell is Cell.LSTM else ("h",)
        return {
            f"{kind}_{layer}": (self.hidden,) for layer in range(len(self.layers)) for kind in kinds
        }

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map x ``(batch, time, inputs)`` to the last layer's ``(batch, time, hidden)``."""
        following: list[Tensor] = []
        width = 2 if self.cell is Cell.LSTM else 1
        for number, layer in enumerate(self.layers):
            own = [part.unsqueeze(0) for part in state[width * number : width * (number + 1)]]
            if width == 2:
                x, (h, c) = layer(x, (own[0], own[1]))  # (batch, time, hidden)
                following += [h.squeeze(0), c.squeeze(0)]  # (batch, hidden) each
            else:
                x, h = layer(x, own[0])
                following.append(h.squeeze(0))
            x = self.dropout(x)
        return x, tuple(part.float() for part in following)

    def _open_forget_gates(self) -> None:
        # A forget bias of 1 at the start (Jozefowicz et al. 2015); torch orders i, f, g, o.
        with torch.no_grad():
            for layer in self.layers:
                layer.get_parameter("bias_hh_l0")[self.hidden : 2 * self.hidden].zero_()
                layer.get_parameter("bias_ih_l0")[self.hidden : 2 * self.hidden].fill_(1.0)


class RecurrentNetwork(nn.Module):
    """A network whose whole memory is an explicit state."""

    cells: Cells

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state tensors, without the batch, in the state's order."""
        return self.cells.state_shapes

    def initial_state(self, batch: int) -> State:
        """The state before the first step: zeros."""
        like = next(self.parameters())
        return tuple(
            torch.zeros(batch, *shape, device=like.device) for shape in self.state_shapes.values()
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a chunk of steps ``(batch, time, …)``; see the subclasses for the shapes."""
        raise NotImplementedError


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
    ) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.embed = nn.Embedding(len(self.vocabulary), embedding)
        self.cells = Cells(
            cell=cell, inputs=embedding, hidden=hidden, layers=layers, dropout=dropout
        )
        self.head = nn.Linear(hidden, len(self.vocabulary))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map tokens to float32 logits, whatever precision the cells run in."""
        y, state = self.cells(self.embed(x), state)  # (batch, time, hidden)
        with torch.autocast(y.device.type, enabled=False):
            return self.head(y.float()), state


class SeriesNetwork(RecurrentNetwork):
    """Raw values ``(batch, time, 1)`` -> the distribution of the next ``(batch, time, 6)``.

    The six are location, scale, skewness and tail of a Johnson SU distribution of the next
    change in units of `spread`, then `anchor` (the last value) and `spread` themselves.
    The state is the cells' state followed by that of the scaling.
    """

    def __init__(
        self,
        *,
        feature: str = "value",
        transform: Transform = Transform.LOG_RETURN,
        change_scale: float = 0.01,
        decay: float = 0.94,
        cell: Cell = Cell.LSTM,
        layers: int = 1,
        hidden: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.feature = feature
        self.scaling = Scaling(transform=transform, change_scale=change_scale, decay=decay)
        self.cells = Cells(
            cell=cell, inputs=self.scaling.width, hidden=hidden, layers=layers, dropout=dropout
        )
        self.head = JohnsonHead(hidden)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The cells' states, then the scaling's."""
        return {**self.cells.state_shapes, **self.scaling.state_shapes}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map raw values to distributions in the values' own units."""
        own = len(self.cells.state_shapes)
        scaled, scaling_state = self.scaling(x, state[own:])
        shape, cells_state = self.shape(scaled.features, state[:own])  # (batch, time, 4)
        y = torch.cat([shape, scaled.anchor, scaled.spread], dim=-1)  # (batch, time, 6)
        return y, cells_state + scaling_state

    def shape(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Map scaled features ``(batch, time, width)`` to Johnson SU shapes ``(batch, time, 4)``.

        ``state`` is the cells' part alone: training scales the series once, beforehand.
        """
        y, state = self.cells(features, state)  # (batch, time, hidden)
        with torch.autocast(y.device.type, enabled=False):
            return self.head(y.float()), state
