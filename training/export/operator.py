"""The recurrent operators of ONNX, LSTM, GRU and RNN, with weights that come from torch.

One op gives the same bits however many steps or rows run together, but for the plain ``RNN``, which
is only close.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.graph.builder import GraphBuilder
from training.settings import Cell, Nonlinearity

Floats = NDArray[np.float32]
Weights = Callable[[str], torch.Tensor]
"""Maps weight_ih, weight_hh, bias_ih or bias_hh to the tensor of that name."""

# Gate order, torch -> ONNX: LSTM i f g o -> i o f c, GRU r z n -> z r h.
_GATES = {Cell.LSTM: (0, 3, 1, 2), Cell.GRU: (1, 0, 2), Cell.RNN: (0,)}
_ACTIVATIONS = {Nonlinearity.TANH: "Tanh", Nonlinearity.RELU: "Relu"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operator:
    """One recurrent operator of ONNX: its name and its weights, in its own order of gates."""

    op: str
    w: Floats  # (directions, gates * hidden, inputs)
    r: Floats  # (directions, gates * hidden, hidden)
    b: Floats  # (directions, 2 * gates * hidden)
    activation: str = "Tanh"
    """Of a plain RNN."""

    @classmethod
    def of(
        cls, cell: Cell, directions: Sequence[Weights], nonlinearity: Nonlinearity
    ) -> "Operator":
        """The operator that has the weights of a torch layer, by their names for each direction."""

        def stacked(kind: str) -> Floats:
            return np.stack([_in_onnx_order(weights(kind), cell) for weights in directions])

        return cls(
            op=cell.name,
            w=stacked("weight_ih"),
            r=stacked("weight_hh"),
            b=np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=-1),
            activation=_ACTIVATIONS[nonlinearity],
        )

    @property
    def directions(self) -> int:
        """1, or 2 for a bidirectional layer."""
        return len(self.w)

    @property
    def inputs(self) -> int:
        """Numbers per step that it reads."""
        return int(self.w.shape[2])

    @property
    def hidden(self) -> int:
        """Units per direction."""
        return int(self.r.shape[2])

    @property
    def width(self) -> int:
        """Numbers per step that it gives."""
        return self.directions * self.hidden

    def state_names(self, number: int) -> list[str]:
        """What the states of layer ``number`` are called."""
        return [f"{kind}_{number}" for kind in (("h", "c") if self.op == "LSTM" else ("h",))]

    def add_weights(self, graph: GraphBuilder, number: int) -> list[str]:
        """Add W, R and B as constants of layer ``number``."""
        arrays = {"w": self.w, "r": self.r, "b": self.b}
        return [graph.constant(array, f"{kind}_{number}") for kind, array in arrays.items()]

    def add(self, graph: GraphBuilder, *inputs: str, outputs: Sequence[str]) -> None:
        """Add the operator itself; inputs and outputs are those that ONNX gives it."""
        attributes: dict[str, Any] = {"hidden_size": self.hidden}
        if self.op == "GRU":
            attributes["linear_before_reset"] = 1
        if self.op == "RNN":
            attributes["activations"] = [self.activation] * self.directions
        if self.directions == 2:
            attributes["direction"] = "bidirectional"
        graph.nodes_with(self.op, *inputs, outputs=outputs, **attributes)

    def add_streamed(
        self,
        graph: GraphBuilder,
        number: int,
        x: str,
        weights: Sequence[str],
        lengths: str,
        axes: tuple[str, str],
    ) -> str:
        """Add one forward layer, from its states to ``<state>_next``.

        Maps x ``(time, batch, inputs)`` to ``(time, batch, hidden)``; ``axes`` are the constants
        ``[0]`` and ``[1]``.
        """
        first, second = axes
        names = self.state_names(number)
        before = [graph.node("Unsqueeze", name, first) for name in names]  # (1, batch, hidden) each
        path, after = f"y_{number}", [f"{name}_last" for name in names]
        self.add(graph, x, *weights, lengths, *before, outputs=[path, *after])
        for name, last in zip(names, after, strict=True):
            graph.node("Squeeze", last, first, output=f"{name}_next")
        return graph.node("Squeeze", path, second)  # (time, 1, batch, hidden) -> without the 1


def _in_onnx_order(parameter: torch.Tensor, cell: Cell) -> Floats:
    """A weight or bias of torch's, its gates in the order that ONNX has them."""
    blocks = np.split(as_array(parameter), len(_GATES[cell]))
    return np.concatenate([blocks[gate] for gate in _GATES[cell]])


def as_array(parameter: torch.Tensor) -> NDArray[np.float32]:
    """The numbers of a parameter, float32."""
    return np.ascontiguousarray(parameter.detach().cpu().numpy(), dtype=np.float32)
