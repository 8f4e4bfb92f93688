"""A stack of recurrent layers between an encoder and a linear head, written as a portable model."""

from dataclasses import dataclass

import onnx

from models.compile.recognition import char_network
from models.errors import ModelError
from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.manifest import (
    Manifest,
    Prediction,
    PredictionKind,
    State,
    TokensInput,
    ValuesInput,
)
from training.export.operator import Floats, Operator
from training.importing.options import Reads


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A linear layer."""

    weight: Floats  # (inputs, outputs)
    bias: Floats  # (outputs,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """An embedding or none, recurrent layers, a head or none."""

    embedding: Floats | None  # (vocabulary, inputs)
    layers: tuple[Operator, ...]
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
            for name in layer.state_names(number)
        )


def model_of(
    stack: Stack, inputs: TokensInput | ValuesInput, prediction: Prediction, *, name: str
) -> tuple[onnx.ModelProto, Manifest]:
    """Write a stack with its manifest.

    Its task is ``char`` where the arena compiler knows such networks and writes them anew, and
    ``foreign``, served with its own operators, otherwise.
    """
    proto = write(stack, name=name, output=prediction.output)
    manifest = Manifest(
        name=name,
        task="foreign",
        input=inputs,
        lengths="lengths",
        states=stack.states,
        prediction=prediction,
    )
    if prediction.kind is PredictionKind.LOGITS and manifest.is_streamable:
        as_char = manifest.model_copy(update={"task": "char"})
        try:
            char_network(proto.graph, as_char)
        except ModelError:
            return proto, manifest
        return proto, as_char
    return proto, manifest


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


def _add_input(graph: GraphBuilder, stack: Stack) -> str:
    if stack.embedding is None:
        width = stack.layers[0].inputs
        values = graph.input("values", FLOAT, ["batch", "time", width])
        return graph.node("Transpose", values, perm=[1, 0, 2])
    tokens = graph.input("tokens", INT64, ["batch", "time"])
    by_time = graph.node("Transpose", tokens, perm=[1, 0])  # (time, batch)
    return graph.node("Gather", graph.constant(stack.embedding, "embedding"), by_time)


def _add_layer(
    graph: GraphBuilder, layer: Operator, number: int, x: str, lengths: str, streams: bool
) -> tuple[str, str]:
    """Add one operator; returns its outputs (time, batch, width) and final h (dirs, batch, h).

    What streams is not asked for its end: there is no final h then.
    """
    weights = layer.add_weights(graph, number)
    axes = graph.constant([0]), graph.constant([1])
    if streams:
        return layer.add_streamed(graph, number, x, weights, lengths, axes), ""
    path, after = f"y_{number}", [f"{name}_last" for name in layer.state_names(number)]
    layer.add(graph, x, *weights, lengths, outputs=[path, *after])
    if layer.directions == 1:
        return graph.node("Squeeze", path, axes[1]), after[0]
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
