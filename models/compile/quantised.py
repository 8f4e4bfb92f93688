"""Cells whose recurrent products are sums of 8-bit integers."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from models.compile.serving import Device, Precision
from models.errors import ModelError
from models.graph.builder import CONTRIB, UINT8, GraphBuilder
from models.graph.cells import Arithmetic, Layer, Matrix, Narrow, Wide, gru, lstm


def arithmetic(precision: Precision, device: Device) -> Arithmetic:
    """The arithmetic to serve with."""
    if device is Device.CUDA:
        return Wide()
    return Quantised() if precision is Precision.INT8 else Narrow()


class Quantised(Narrow):
    """Products of 8-bit integers with fixed scales; everything else in float32.

    h lies in [-1, 1] (a tanh times a sigmoid, or a mean of such), so it is quantised with the
    constant scale `H_STEPS`, whatever its neighbours are; weights with a scale per column.
    Integer sums are exact: bits depend neither on the batch nor on the order of summing. The
    first layer's input stays in float32.
    """

    projected_type: ClassVar[int] = UINT8

    H_STEPS: ClassVar[int] = 63
    """h = +1 is 64 + 63. x86 CPUs without VNNI add pairs of unsigned * signed products in 16 bits
    and saturate in silence: 2 * 127 * 127 fits, 2 * 255 * 127 would not. Seven bits for h cost
    less than seven for the weights."""

    def head(
        self,
        graph: GraphBuilder,
        weights: Matrix,
        bias: Matrix,
        h: str,
        output: str | None = None,
    ) -> str:
        """See `Arithmetic.head`."""
        return self._product(graph, self._quantise(graph, h), weights, bias, output)

    def project(self, graph: GraphBuilder, layer: Layer, x: str) -> list[str]:
        """See `Arithmetic.project`: an upper layer's is x itself, quantised."""
        if layer.is_first:
            return super().project(graph, layer, x)
        return [self._quantise(graph, x)]

    def advance(
        self,
        graph: GraphBuilder,
        layer: Layer,
        projected: Sequence[str],
        before: Sequence[str],
    ) -> list[str]:
        """See `Arithmetic.advance`.

        Raises:
            ModelError: the layer's h has no bound, so no scale would fit it.
        """
        if not layer.is_bounded:
            raise ModelError(
                "--precision int8 needs an h between -1 and 1, and that of a relu RNN has no "
                "bound: serve it with --precision fp32"
            )
        own = self._quantise(graph, before[0])
        both = own if layer.is_first else graph.node("Concat", projected[0], own, axis=-1)

        def product(gate: int) -> str:
            recurrent = layer.gate(layer.recurrent, gate)
            if layer.is_first:
                return graph.node("Add", self._product(graph, own, recurrent), projected[gate])
            weights = np.concatenate([layer.gate(layer.weights, gate), recurrent])
            return self._product(graph, both, weights, layer.gate(layer.bias, gate))

        if layer.cell == "GRU":
            z, r = (graph.node("Sigmoid", product(gate)) for gate in (0, 1))
            reset = self._product(
                graph,
                own,
                layer.gate(layer.recurrent, 2),
                layer.gate(layer.recurrent_bias, 2),
            )
            given = (
                projected[2]
                if layer.is_first
                else self._product(
                    graph, projected[0], layer.gate(layer.weights, 2), layer.gate(layer.bias, 2)
                )
            )
            return [gru(graph, z, r, given, reset, before[0])]
        gates = [
            graph.node(activation, product(gate))
            for gate, activation in enumerate(layer.activations)
        ]
        return lstm(graph, gates, before[1]) if layer.cell == "LSTM" else gates

    def _quantise(self, graph: GraphBuilder, h: str) -> str:
        return graph.node("QuantizeLinear", h, *self._h_scale(graph))

    def _product(
        self,
        graph: GraphBuilder,
        quantised: str,
        weights: Matrix,
        bias: Matrix | None = None,
        output: str | None = None,
    ) -> str:
        """The product of quantised h (rows, inputs), and bias: float32 (rows, outputs)."""
        scale = np.maximum(np.abs(weights).max(axis=0), 1e-12) / np.float32(127)
        integers = np.rint(weights / scale).astype(np.int8)  # (inputs, outputs)
        h_scale, h_zero = self._h_scale(graph)
        return graph.node(
            "MatMulIntegerToFloat",
            quantised,
            graph.constant(integers),
            h_scale,
            graph.constant(scale.astype(np.float32)),
            h_zero,
            "",
            *([] if bias is None else [graph.constant(bias)]),
            output=output,
            domain=CONTRIB,
        )

    def _h_scale(self, graph: GraphBuilder) -> tuple[str, str]:
        """Scale and zero point of h."""
        zero = np.array(self.H_STEPS + 1, np.uint8)
        return graph.constant(1 / self.H_STEPS), graph.constant(zero)
