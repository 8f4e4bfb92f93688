"""Recurrent networks: stacked cells between an encoder and a head.

Every network maps ``(x, state) -> (y, state)`` over a chunk of time steps, and its state is a tuple
of tensors with the batch first, in the order of `state_shapes`. Running a sequence in chunks with
the state carried equals running it whole. Knows nothing of data, training or ONNX.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.settings import Cell, Nonlinearity

State = tuple[Tensor, ...]
Model = Callable[[Tensor, State], tuple[Tensor, State]]
"""Maps a chunk of steps and a state to outputs and the next state, as every network here does."""


class Cells(nn.Module):
    """Stacked recurrent layers with dropout after each.

    The state is h_0 (and c_0), h_1 (and c_1), … with one tensor ``(batch, hidden)`` each. What a
    sequence starts from is zeros, or with ``learns_initial`` the parameters in ``initial``, one
    ``(hidden,)`` by the name of each.
    """

    def __init__(
        self,
        *,
        cell: Cell,
        inputs: int,
        hidden: int,
        layers: int,
        dropout: float,
        nonlinearity: Nonlinearity = Nonlinearity.TANH,
        learns_initial: bool = False,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden = hidden
        self.nonlinearity = nonlinearity
        self.layers = nn.ModuleList(
            layer_of(cell, nonlinearity, inputs if layer == 0 else hidden, hidden)
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.initial = nn.ParameterDict()  # empty, it leaves no trace in a checkpoint
        if learns_initial:
            for name, shape in self.state_shapes.items():
                self.initial[name] = nn.Parameter(torch.zeros(shape))

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


def layer_of(
    cell: Cell, nonlinearity: Nonlinearity, inputs: int, hidden: int, *, bidirectional: bool = False
) -> nn.LSTM | nn.GRU | nn.RNN:
    """One untrained layer, batch first; the forget gates of an LSTM start open."""
    if cell is Cell.RNN:
        return nn.RNN(
            inputs,
            hidden,
            nonlinearity=nonlinearity.value,
            batch_first=True,
            bidirectional=bidirectional,
        )
    if cell is Cell.GRU:
        return nn.GRU(inputs, hidden, batch_first=True, bidirectional=bidirectional)
    layer = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=bidirectional)
    # A forget bias of 1 at the start (Jozefowicz et al. 2015); torch orders i, f, g, o.
    with torch.no_grad():
        for direction in ("", "_reverse") if bidirectional else ("",):
            layer.get_parameter(f"bias_hh_l0{direction}")[hidden : 2 * hidden].zero_()
            layer.get_parameter(f"bias_ih_l0{direction}")[hidden : 2 * hidden].fill_(1.0)
    return layer


class RecurrentNetwork(nn.Module):
    """A network whose whole memory is an explicit state."""

    cells: Cells

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state tensors, without the batch, in the state's order."""
        return self.cells.state_shapes

    def initial_state(self, batch: int) -> State:
        """The state before the first step: zeros, or what the cells have learned."""
        like, learned = next(self.parameters()), self.cells.initial
        return tuple(
            learned[name].repeat(batch, *[1] * len(shape))  # cuDNN wants each row in memory
            if name in learned
            else torch.zeros(batch, *shape, device=like.device)
            for name, shape in self.state_shapes.items()
        )

    @property
    def learns_initial(self) -> bool:
        """Whether what a sequence starts from is learned."""
        return len(self.cells.initial) > 0

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a chunk of steps ``(batch, time, …)``; see the subclasses for the shapes."""
        raise NotImplementedError
