"""Reads the network back from a graph that `cellar-train` exported.

Knows how such a graph is written: real LSTM, GRU and RNN operators with constant weights, a table
of embeddings before them or scaled values, a linear head behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.errors import ModelError
from models.graph.builder import STANDARD_DOMAINS, constants_of
from models.graph.cells import Layer, Matrix
from models.manifest import Manifest

_ACTIVATIONS = {
    "LSTM": ([b"Sigmoid", b"Tanh", b"Tanh"],),
    "GRU": ([b"Sigmoid", b"Tanh"],),
    "RNN": ([b"Tanh"], [b"Relu"]),
}
"""The usual ones first: they are meant where a node names none."""
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_LAYOUT_OPS = ("Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CharNetwork:
    """An embedding, layers and a linear head; ``states`` are each layer's places in the arena."""

    embedding: Matrix  # (vocabulary, inputs)
    layers: tuple[Layer, ...]
    states: tuple[tuple[int, ...], ...]
    head_weights: Matrix  # (hidden, vocabulary)
    head_bias: Matrix  # (vocabulary,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMean:
    """``s_t = kept s_{t-1} + share x_t``."""

    share: float
    kept: float


class Reader:
    """Follows the tensors of one graph back to where they come from."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = constants_of(graph)
        self.producers = {name: node for node in graph.node for name in node.output if name}

    def constant(self, name: str) -> Matrix:
        """A constant float32 tensor."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            raise UnrecognisedError
        return numpy_helper.to_array(tensor).astype(np.float32)

    def origin(self, name: str) -> str:
        """The tensor that this one is another layout of."""
        while (node := self.producers.get(name)) is not None and node.op_type in _LAYOUT_OPS:
            name = node.input[0]
        return name

    def producer(self, name: str, op: str) -> onnx.NodeProto:
        """The node that produces a tensor, whatever its layout."""
        node = self.producers.get(self.origin(name))
        if node is None or node.op_type != op or node.domain not in STANDARD_DOMAINS:
            raise UnrecognisedError
        return node

    def layer(self, node: onnx.NodeProto) -> Layer | None:
        """The layer of a recurrent operator; ``None`` where it is another kind of operator."""
        if node.op_type not in _GATES or node.domain not in STANDARD_DOMAINS:
            return None
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        activations = attributes.get("activations", _ACTIVATIONS[node.op_type][0])
        inputs = [*node.input, *[""] * 8][:8]
        usual = (
            attributes.get("direction", b"forward") == b"forward"
            and attributes.get("layout", 0) == 0
            and attributes.get("clip") is None
            and attributes.get("input_forget", 0) == 0
            and activations in _ACTIVATIONS[node.op_type]
            and (node.op_type != "GRU" or attributes.get("linear_before_reset", 0) == 1)
            and bool(inputs[5])
            and not inputs[7]
        )
        if not usual:
            return None
        try:
            weights, recurrent = (self.constant(name)[0].T for name in inputs[1:3])
            gates = recurrent.shape[1]
            bias = self.constant(inputs[3])[0] if inputs[3] else np.zeros(2 * gates, np.float32)
        except UnrecognisedError:
            return None
        return Layer(
            cell=node.op_type,
            weights=weights,
            recurrent=recurrent,
            input_bias=bias[:gates],
            recurrent_bias=bias[gates:],
            activation=activations[-1].decode(),
        )

    def mean(self, node: onnx.NodeProto) -> RunningMean | None:
        """The running mean of an RNN of one linear unit; ``None`` where it is another operator."""
        if node.op_type != "RNN" or node.domain not in STANDARD_DOMAINS:
            return None
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        linear = (
            attributes.get("activations") == [b"Affine"]
            and attributes.get("activation_alpha") == [1.0]
            and attributes.get("activation_beta") == [0.0]
            and attributes.get("direction", b"forward") == b"forward"
            and len(node.input) == 6
        )
        if not linear:
            return None
        try:
            share, kept, bias = (self.constant(name) for name in node.input[1:4])
        except UnrecognisedError:
            return None
        if share.size != 1 or bias.any():
            return None
        return RunningMean(share=float(share.item()), kept=float(kept.item()))


class UnrecognisedError(Exception):
    """The graph is written in another way."""


def char_network(graph: onnx.GraphProto, manifest: Manifest) -> CharNetwork:
    """Read a character model.

    Raises:
        ModelError: the graph is not what `cellar-train` writes.
    """
    try:
        return _char_network(Reader(graph), manifest)
    except (UnrecognisedError, StopIteration, IndexError) as error:
        raise unrecognised(manifest) from error


def unrecognised(manifest: Manifest) -> ModelError:
    """A model that says it was exported by `cellar-train`, and was not."""
    return ModelError(
        f"its manifest says task '{manifest.task}', but its graph is not as cellar-train writes "
        "them: export it again, or say task 'foreign'"
    )


def _char_network(reader: Reader, manifest: Manifest) -> CharNetwork:
    add = reader.producer(manifest.prediction.output, "Add")
    product = reader.producer(add.input[0], "MatMul")
    layers: list[Layer] = []
    states: list[tuple[int, ...]] = []
    x = product.input[0]
    while (node := reader.producers.get(reader.origin(x))) is not None and (
        layer := reader.layer(node)
    ) is not None:
        if reader.origin(x) != node.output[0]:
            raise UnrecognisedError
        layers.insert(0, layer)
        states.insert(0, _states_of(reader, manifest, node, layer))
        x = node.input[0]
    if not layers or len(manifest.states) != sum(map(len, states)):
        raise UnrecognisedError
    gather = reader.producer(x, "Gather")
    if reader.origin(gather.input[1]) != manifest.input.name:
        raise UnrecognisedError
    layers[0] = replace(layers[0], is_first=True)
    return CharNetwork(
        embedding=reader.constant(gather.input[0]),
        layers=tuple(layers),
        states=tuple(states),
        head_weights=reader.constant(product.input[1]),
        head_bias=reader.constant(add.input[1]),
    )


def _states_of(
    reader: Reader,
    manifest: Manifest,
    node: onnx.NodeProto,
    layer: Layer,
) -> tuple[int, ...]:
    """The places of a layer's h (and c) among the manifest's states."""
    inputs: Mapping[str, int] = {state.input: i for i, state in enumerate(manifest.states)}
    found = []
    for number in range(layer.states):
        place = inputs.get(reader.origin(node.input[5 + number]))
        if place is None:
            raise UnrecognisedError
        state = manifest.states[place]
        if (
            reader.origin(state.output) != node.output[1 + number]
            or state.shape != (layer.hidden,)
            or state.batch_axis != 0
        ):
            raise UnrecognisedError
        found.append(place)
    return tuple(found)
