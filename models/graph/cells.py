"""Recurrent cells as plain products and element-wise operators, one time step at a time.

A layer's work is cut in two: the *projection* of its input, which needs no state and may be done
for many time steps at once, and the *advance* of its state. Both are products with constant
matrices, which ONNX Runtime packs once; a row of a packed product has the same bits whatever rows
stand beside it, so one step, a chunk of steps and any batch agree.

Gates stand in ONNX's order: LSTM i o f c, GRU z r n.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.graph.builder import FLOAT, GraphBuilder

Matrix: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """The weights of one layer, the gates side by side.

    GRU is ``n = tanh(W_n x + b + r (R_n h + b_r))``: the reset gate acts after the product.
    """

    cell: str
    weights: Matrix  # (inputs, gates * hidden)
    recurrent: Matrix  # (hidden, gates * hidden)
    input_bias: Matrix  # (gates * hidden,)
    recurrent_bias: Matrix  # (gates * hidden,)
    is_first: bool = False  # its input is no h of another layer
    activation: str = "Tanh"  # of an RNN: Tanh or Relu

    @property
    def hidden(self) -> int:
        """Units of the layer."""
        return len(self.recurrent)

    @property
    def gates(self) -> int:
        """Products per unit."""
        return int(self.recurrent.shape[1]) // self.hidden

    @property
    def states(self) -> int:
        """State tensors of the layer: h, and c for an LSTM."""
        return 2 if self.cell == "LSTM" else 1

    @property
    def activations(self) -> tuple[str, ...]:
        """What each gate's sum is put through; a GRU's last one is not a plain sum."""
        if self.cell == "LSTM":
            return ("Sigmoid", "Sigmoid", "Sigmoid", "Tanh")
        return (self.activation,) if self.cell == "RNN" else ()

    @property
    def is_bounded(self) -> bool:
        """Whether h lies in [-1, 1], whatever the input."""
        return self.cell != "RNN" or self.activation == "Tanh"

    @property
    def bias(self) -> Matrix:
        """What is added to the input's product: (gates * hidden,)."""
        bias = self.input_bias + self.recurrent_bias
        if self.cell == "GRU":  # the reset gate scales the last gate's own
            bias[2 * self.hidden :] = self.input_bias[2 * self.hidden :]
        return bias

    def gate(self, matrix: Matrix, number: int) -> Matrix:
        """The columns of one gate."""
        start = number * self.hidden
        return np.ascontiguousarray(matrix[..., start : start + self.hidden])

    def table(self, embedding: Matrix) -> Matrix:
        """The projection of every token: (vocabulary, gates * hidden)."""
        product = embedding.astype(np.float64) @ self.weights.astype(np.float64)
        return (product + self.bias).astype(np.float32)


class Arithmetic(ABC):
    """How cells are computed; every method adds nodes and returns tensor names."""

    projected_type: ClassVar[int] = FLOAT
    """The element type of an upper layer's projections; the first layer's are float32."""

    @abstractmethod
    def look_up(
        self, graph: GraphBuilder, layer: Layer, embedding: Matrix, tokens: str
    ) -> list[str]:
        """The first layer's projections of tokens (...): tensors (..., width)."""

    @abstractmethod
    def project(self, graph: GraphBuilder, layer: Layer, x: str) -> list[str]:
        """The projections of x (rows, inputs): tensors (rows, width)."""

    @abstractmethod
    def advance(
        self,
        graph: GraphBuilder,
        layer: Layer,
        projected: Sequence[str],
        before: Sequence[str],
    ) -> list[str]:
        """One time step of a layer: the states (batch, hidden) after it, h first."""

    def head(
        self,
        graph: GraphBuilder,
        weights: Matrix,
        bias: Matrix,
        h: str,
        output: str | None = None,
    ) -> str:
        """A linear map of the top layer's h (rows, hidden): (rows, width)."""
        return graph.node("Gemm", h, graph.constant(weights), graph.constant(bias), output=output)


class Narrow(Arithmetic):
    """A product per gate: nothing is split, and the runtime fuses each with its activation."""

    def look_up(
        self, graph: GraphBuilder, layer: Layer, embedding: Matrix, tokens: str
    ) -> list[str]:
        """See `Arithmetic.look_up`: a tensor (..., hidden) per gate."""
        table = layer.table(embedding)
        return [
            graph.node("Gather", graph.constant(layer.gate(table, gate)), tokens, axis=0)
            for gate in range(layer.gates)
        ]

    def project(self, graph: GraphBuilder, layer: Layer, x: str) -> list[str]:
        """See `Arithmetic.project`: a tensor (rows, hidden) per gate."""
        return [
            graph.node(
                "Gemm",
                x,
                graph.constant(layer.gate(layer.weights, gate)),
                graph.constant(layer.gate(layer.bias, gate)),
            )
            for gate in range(layer.gates)
        ]

    def advance(
        self,
        graph: GraphBuilder,
        layer: Layer,
        projected: Sequence[str],
        before: Sequence[str],
    ) -> list[str]:
        """See `Arithmetic.advance`."""
        h = before[0]

        def product(gate: int, added: str) -> str:
            weights = graph.constant(layer.gate(layer.recurrent, gate))
            return graph.node("Gemm", h, weights, added)

        if layer.cell == "GRU":
            z, r = (graph.node("Sigmoid", product(gate, projected[gate])) for gate in (0, 1))
            own = product(2, graph.constant(layer.gate(layer.recurrent_bias, 2)))
            return [gru(graph, z, r, projected[2], own, h)]
        gates = [
            graph.node(activation, product(gate, projected[gate]))
            for gate, activation in enumerate(layer.activations)
        ]
        return lstm(graph, gates, before[1]) if layer.cell == "LSTM" else gates


class Wide(Arithmetic):
    """One product for all gates: fewer and larger launches, as a GPU wants them.

    A product with something added is two launches there, whatever that is: ONNX Runtime first
    copies what is added, and then has the product added to it. So rows are added by themselves,
    and a layer above the first is one product of its input and its h side by side.
    """

    def look_up(
        self, graph: GraphBuilder, layer: Layer, embedding: Matrix, tokens: str
    ) -> list[str]:
        """See `Arithmetic.look_up`: (..., gates * hidden), and of a GRU `_apart`."""
        tables = self._apart(layer, layer.table(embedding))
        return [graph.node("Gather", graph.constant(table), tokens, axis=0) for table in tables]

    def project(self, graph: GraphBuilder, layer: Layer, x: str) -> list[str]:
        """See `Arithmetic.project`: as `look_up`, or x itself where h can stand beside it."""
        if _is_joined(layer):
            return [x]
        weights = self._apart(layer, layer.weights, is_bias=False)
        return [
            graph.node("Gemm", x, graph.constant(own), graph.constant(bias))
            for own, bias in zip(weights, self._apart(layer, layer.bias), strict=True)
        ]

    def advance(
        self,
        graph: GraphBuilder,
        layer: Layer,
        projected: Sequence[str],
        before: Sequence[str],
    ) -> list[str]:
        """See `Arithmetic.advance`."""
        h = before[0]
        if layer.cell == "GRU":
            if _is_joined(layer):
                z, r, given, own = self._joined_gru(graph, layer, projected[0], h)
            else:
                added, given = projected
                z, r, own = graph.split(self._added(graph, layer, added, h), 3)
                z, r = (graph.node("Sigmoid", gate) for gate in (z, r))
            return [gru(graph, z, r, given, own, h)]
        if _is_joined(layer):
            both = graph.node("Concat", projected[0], h, axis=-1)
            weights = np.concatenate([layer.weights, layer.recurrent])
            sums = graph.node("Gemm", both, graph.constant(weights), graph.constant(layer.bias))
        else:
            sums = self._added(graph, layer, projected[0], h)
        if layer.cell == "RNN":
            return [graph.node(layer.activation, sums)]
        # Of all four gates at once, for the one that is not used costs less than a launch.
        i, o, f, _ = graph.split(graph.node("Sigmoid", sums), 4)
        bounds = [graph.constant([bound]) for bound in (3 * layer.hidden, 4 * layer.hidden, 1)]
        g = graph.node("Tanh", graph.node("Slice", sums, *bounds))
        return lstm(graph, [i, o, f, g], before[1])

    def _apart(self, layer: Layer, matrix: Matrix, *, is_bias: bool = True) -> list[Matrix]:
        """What is added to the recurrent product, and of a GRU what the reset gate does not scale.

        ``matrix`` (..., gates * hidden) is the input's; what a GRU's last gate adds to its
        recurrent product is a bias alone.
        """
        if layer.cell != "GRU":
            return [matrix]
        start = 2 * layer.hidden
        added = matrix.copy()
        added[..., start:] = layer.recurrent_bias[start:] if is_bias else 0.0
        return [added, np.ascontiguousarray(matrix[..., start:])]

    def _added(self, graph: GraphBuilder, layer: Layer, added: str, h: str) -> str:
        """The recurrent product and rows; Sum, as the runtime makes a Gemm of MatMul and Add."""
        product = graph.node("MatMul", h, graph.constant(layer.recurrent))
        return graph.node("Sum", product, added)

    def _joined_gru(self, graph: GraphBuilder, layer: Layer, x: str, h: str) -> tuple[str, ...]:
        """Gates z and r, and both parts of n before the reset gate scales the second."""
        start = 2 * layer.hidden

        def product(x: str, weights: Matrix, bias: Matrix) -> str:
            return graph.node("Gemm", x, graph.constant(weights), graph.constant(bias))

        weights = np.concatenate([layer.weights[:, :start], layer.recurrent[:, :start]])
        both = graph.node("Concat", x, h, axis=-1)
        z, r = graph.split(graph.node("Sigmoid", product(both, weights, layer.bias[:start])), 2)
        given = product(x, layer.weights[:, start:], layer.bias[start:])
        own = product(h, layer.recurrent[:, start:], layer.recurrent_bias[start:])
        return z, r, given, own


def _is_joined(layer: Layer) -> bool:
    """Whether a layer's input and h stand side by side: parts of one width can be recorded."""
    return not layer.is_first and len(layer.weights) == layer.hidden


def lstm(graph: GraphBuilder, gates: Sequence[str], c: str) -> list[str]:
    """H and c after a step: ``c' = f c + i g``, ``h' = o tanh(c')``."""
    i, o, f, g = gates
    c = graph.node("Add", graph.node("Mul", f, c), graph.node("Mul", i, g))
    return [graph.node("Mul", o, graph.node("Tanh", c)), c]


def gru(graph: GraphBuilder, z: str, r: str, given: str, own: str, h: str) -> str:
    """H after a step: ``n = tanh(given + r own)``, ``h' = n + z (h - n)``."""
    n = graph.node("Tanh", graph.node("Add", graph.node("Mul", r, own), given))
    return graph.node("Add", graph.node("Mul", z, graph.node("Sub", h, n)), n)
