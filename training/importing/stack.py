"""A stack of recurrent layers between an encoder and a linear head, written as a portable graph."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.manifest import State
from training.importing.options import Reads

Floats = NDArray[np.float32]

_ATTRIBUTES: dict[str, dict[str, Any]] = {"LSTM": {}, "GRU": {"linear_before_reset": 1}, "RNN": {}}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StackLayer:
    """One recurrent operator of ONNX: its name and its weights, in its own order of gates."""

    op: str
    w: Floats  # (directions, gates * hidden, inputs)
    r: Floats  # (directions, gates * hidden, hidden)
    b: Floats  # (directions, 2 * gates * hidden)
    activation: str = "Tanh"
    """Of a plain RNN."""

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A linear layer."""

    weight: Floats  # (inputs, outputs)
    bias: Floats  # (outputs,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """An embedding or none, recurrent layers, a head or none."""

    embedding: Floats | None  # (vocabulary, inputs)
    layers: tuple[StackLayer, ...]
    head: Head | None
    reads: Reads = Reads.EVERY

    @property
    def is_streamable(self) -> bool:
        """Whether it can continue a sequence: nothing runs backwards or waits for the end."""
        return self.reads is Reads.EVERY and all(layer.directions == 1 for layer in self.layers)

    @property
    def width(self) -> int:
        """Columns of the prediction."""
        return self.layers[-1].width if self.head is None else len(self.head.bias)

    @property
    def states(self) -> tuple[State, ...]:
        """Each layer's h (and c); none where it reads whole sequences."""
        if not self.is_streamable:
            return ()
        return tuple(
            State(input=name, output=f"{name}_next", shape=(layer.hidden,))
            for number, layer in enumerate(self.layers)
            for name in _state_names(layer, number)
        )


def write(stack: Stack, *, name: str, output: str) -> onnx.ModelProto:
    """Write a stack as a portable graph.

    Inputs are ``tokens (batch, time)`` or ``values (batch, time, width)``, ``lengths (batch,)`` and
    the states; ``output`` is ``(batch, time, width)``, or ``(batch, width)`` where the head reads
    whole sequences.
    """
    graph = GraphBuilder()
    x = _add_input(graph, stack)  # (time, batch, inputs)
    lengths = graph.input("lengths", INT32, ["batch"])
    for state in stack.states:
        graph.input(state.input, FLOAT, ["batch", *state.shape])
    finals = ""
    for number, layer in enumerate(stack.layers):
        x, finals = _add_layer(graph, layer, number, x, lengths, stack.is_streamable)
    x = _add_reading(graph, stack.reads, x, finals, lengths)
    if stack.head is not None:
        weight = graph.constant(stack.head.weight, "head_weight")
        bias = graph.constant(stack.head.bias, "head_bias")
        x = graph.node("Add", graph.node("MatMul", x, weight), bias)
    if stack.reads is Reads.EVERY:
        graph.node("Transpose", x, output=output, perm=[1, 0, 2])
        graph.output(output, FLOAT, ["batch", "time", stack.width])
    else:
        graph.node("Identity", x, output=output)
        graph.output(output, FLOAT, ["batch", stack.width])
    for state in stack.states:
        graph.output(state.output, FLOAT, ["batch", *state.shape])
    return graph.model(name)


def _state_names(layer: StackLayer, number: int) -> list[str]:
    return [f"{kind}_{number}" for kind in (("h", "c") if layer.op == "LSTM" else ("h",))]


def _add_input(graph: GraphBuilder, stack: Stack) -> str:
    if stack.embedding is None:
        width = stack.layers[0].inputs
        values = graph.input("values", FLOAT, ["batch", "time", width])
        return graph.node("Transpose", values, perm=[1, 0, 2])
    tokens = graph.input("tokens", INT64, ["batch", "time"])
    by_time = graph.node("Transpose", tokens, perm=[1, 0])  # (time, batch)
    return graph.node("Gather", graph.constant(stack.embedding, "embedding"), by_time)


def _add_layer(
    graph: GraphBuilder, layer: StackLayer, number: int, x: str, lengths: str, streams: bool
) -> tuple[str, str]:
    """Add one operator; returns its outputs (time, batch, width) and final h (dirs, batch, h)."""
    attributes = dict(_ATTRIBUTES[layer.op], hidden_size=layer.hidden)
    if layer.op == "RNN":
        attributes["activations"] = [layer.activation] * layer.directions
    if layer.directions == 2:
        attributes["direction"] = "bidirectional"
    weights = [
        graph.constant(array, f"{kind}_{number}")
        for kind, array in (("w", layer.w), ("r", layer.r), ("b", layer.b))
    ]
    first, second = graph.constant([0]), graph.constant([1])
    names = _state_names(layer, number)
    before = [graph.node("Unsqueeze", name, first) for name in names] if streams else []
    path, after = f"y_{number}", [f"{name}_last" for name in names]
    graph.nodes_with(layer.op, x, *weights, lengths, *before, outputs=[path, *after], **attributes)
    if streams:
        for name, last in zip(names, after, strict=True):
            graph.node("Squeeze", last, first, output=f"{name}_next")
    if layer.directions == 1:
        return graph.node("Squeeze", path, second), after[0]
    by_batch = graph.node("Transpose", path, perm=[0, 2, 1, 3])  # (time, batch, directions, hidden)
    return graph.node("Reshape", by_batch, graph.constant([0, 0, -1])), after[0]


def _add_reading(graph: GraphBuilder, reads: Reads, x: str, finals: str, lengths: str) -> str:
    """What the head looks at: x (time, batch, width) itself, or (batch, width) of the whole."""
    if reads is Reads.EVERY:
        return x
    if reads is Reads.FINAL:
        by_batch = graph.node("Transpose", finals, perm=[1, 0, 2])  # (batch, directions, hidden)
        return graph.node("Reshape", by_batch, graph.constant([0, -1]))
    second = graph.constant([1])
    if reads is Reads.MEAN:  # past a row's end the operator gives zeros
        total = graph.node("ReduceSum", x, graph.constant([0]), keepdims=0)
        count = graph.node("Unsqueeze", graph.node("Cast", lengths, to=FLOAT), second)
        return graph.node("Div", total, count)
    steps = graph.node("Transpose", x, perm=[1, 0, 2])  # (batch, time, width)
    last = graph.node("Sub", graph.node("Cast", lengths, to=INT64), second)
    return graph.node("GatherND", steps, graph.node("Unsqueeze", last, second), batch_dims=1)
