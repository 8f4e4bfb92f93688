"""From recognised weights to a torch module, to compare with, and to a stack, to export."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.export.operator import Floats, Operator, as_array
from training.importing.from_torch.weights import Direction, FoundLayer, FoundMatrix, FoundNetwork
from training.importing.options import Reads
from training.importing.stack import Head, Stack
from training.settings import Cell, Nonlinearity

_MODULES: dict[Cell, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    Cell.LSTM: nn.LSTM,
    Cell.GRU: nn.GRU,
    Cell.RNN: nn.RNN,
}


def stack_of(found: FoundNetwork, *, one_hot: bool, nonlinearity: str, reads: Reads) -> Stack:
    """The network as ONNX's operators take it; one-hot symbols are rows of the unit matrix."""
    first = found.layers[0]
    embedding = None if found.embedding is None else as_array(found.embedding.weight)
    if one_hot:
        embedding = np.eye(first.inputs, dtype=np.float32)
    return Stack(
        embedding=embedding,
        layers=tuple(_operator(layer, nonlinearity) for layer in found.layers),
        head=None if found.head is None else _head(found.head),
        reads=reads,
    )


class Rebuilt(nn.Module):
    """The network made again from torch's own modules; it reads whole sequences.

    Args:
        found: its weights.
        starts: what each layer's h (and c) start from, (hidden,); empty: from zeros.
        one_hot: whether it takes symbols where its first layer takes values.
        nonlinearity: what a plain RNN applies.
        reads: what its head looks at.
    """

    def __init__(
        self,
        found: FoundNetwork,
        starts: Sequence[Floats] = (),
        *,
        one_hot: bool,
        nonlinearity: str,
        reads: Reads,
    ) -> None:
        super().__init__()
        self.embedding = None if found.embedding is None else found.embedding.weight
        self.symbols = found.layers[0].inputs if one_hot else None
        self.layers = nn.ModuleList(_module(layer, nonlinearity) for layer in found.layers)
        self.head = None if found.head is None else _linear(found.head)
        self.reads = reads
        self.starts = [torch.from_numpy(start) for start in starts]

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(batch, time)`` or values ``(batch, time, width)`` to predictions."""
        if self.embedding is not None:
            x = nn.functional.embedding(x, self.embedding)
        elif self.symbols is not None:
            x = nn.functional.one_hot(x, self.symbols).float()
        final: Tensor | None = None
        starts = [start.expand(1, len(x), -1).contiguous() for start in self.starts]
        for layer in self.layers:
            own: Tensor | tuple[Tensor, Tensor] | None = None
            if starts and isinstance(layer, nn.LSTM):
                own = starts.pop(0), starts.pop(0)
            elif starts:
                own = starts.pop(0)
            x, state = layer(x, own)
            final = state[0] if isinstance(state, tuple) else state  # (directions, batch, hidden)
        if self.reads is Reads.LAST:
            x = x[:, -1]
        elif self.reads is Reads.MEAN:
            x = x.mean(dim=1)
        elif self.reads is Reads.FINAL and final is not None:
            x = torch.cat(tuple(final), dim=-1)
        return x if self.head is None else self.head(x)

    @torch.no_grad()
    def run(self, x: NDArray[np.generic]) -> Floats:
        """`forward` on arrays."""
        found: Floats = self.eval()(torch.from_numpy(x)).numpy()
        return found


def _operator(layer: FoundLayer, nonlinearity: str) -> Operator:
    weights = [partial(getattr, part) for part in layer.directions]
    return Operator.of(layer.cell, weights, Nonlinearity(nonlinearity))


def _module(layer: FoundLayer, nonlinearity: str) -> nn.Module:
    """One layer of torch's own."""
    extra = {"nonlinearity": nonlinearity} if layer.cell is Cell.RNN else {}
    module = _MODULES[layer.cell](
        layer.inputs,
        layer.hidden,
        batch_first=True,
        bidirectional=len(layer.directions) == 2,
        **extra,
    )
    module.load_state_dict(
        {
            f"{kind}_l0{suffix}": getattr(part, kind)
            for part, suffix in zip(layer.directions, ("", "_reverse"), strict=False)
            for kind in Direction.__dataclass_fields__
        }
    )
    return module


def _linear(found: FoundMatrix) -> nn.Linear:
    outputs, inputs = found.weight.shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(found.weight)
        linear.bias.copy_(torch.zeros(outputs) if found.bias is None else found.bias)
    return linear


def _head(found: FoundMatrix) -> Head:
    bias = torch.zeros(len(found.weight)) if found.bias is None else found.bias
    return Head(weight=as_array(found.weight.T), bias=as_array(bias))
