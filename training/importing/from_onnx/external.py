"""Reads an external ONNX graph: its recurrent operators, and how their states come and go."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.compile.portable import normalised
from models.graph.builder import STANDARD_DOMAINS, constants_of
from models.manifest import METADATA_KEY
from models.repository import MODEL_FILE
from training.errors import DataError

_STATES_OF = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}
_LAYOUT_OPS = ("Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Reshape")
_PARTS_OPS = (*_LAYOUT_OPS, "Slice", "Gather", "Split")
_FILLED_OPS = (*_PARTS_OPS, "Expand", "Tile")
_NAME_NOISE = re.compile(
    r"(in|out|input|output|prev|previous|next|new|init|initial|final|last|n|0|t|x|y|old|to|from)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One state of one recurrent operator: the n-th of its states."""

    node: int
    """The operator's index in the graph."""
    kind: int

    @property
    def start(self) -> int:
        """Which of the operator's inputs is the initial state."""
        return 5 + self.kind

    @property
    def end(self) -> int:
        """Which of its outputs is the final state."""
        return 1 + self.kind


class ExternalGraph:
    """A graph of another origin, without local functions and in an opset that can be extended."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        graph = proto.graph
        self.constants = constants_of(graph)
        initializers = {tensor.name for tensor in graph.initializer}
        self.inputs = {v.name: v for v in graph.input if v.name not in initializers}
        self.outputs = {value.name: value for value in graph.output}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.recurrent = [index for index, node in enumerate(graph.node) if is_recurrent(node)]

    @property
    def places(self) -> Iterator[Place]:
        """Every state of every recurrent operator, in the graph's order."""
        for index in self.recurrent:
            for kind in range(len(_STATES_OF[self.node(index).op_type])):
                yield Place(node=index, kind=kind)

    @property
    def runs_forwards(self) -> bool:
        """Whether no operator reads its sequence from the end."""
        directions = (self._attribute(index, "direction", b"forward") for index in self.recurrent)
        return all(direction == b"forward" for direction in directions)

    def node(self, index: int) -> onnx.NodeProto:
        """A node by its index."""
        return self.proto.graph.node[index]

    def name_of(self, place: Place) -> str:
        """A name for a state: h or c, and the number of its operator."""
        kind = _STATES_OF[self.node(place.node).op_type][place.kind]
        return f"{kind}_{self.recurrent.index(place.node)}"

    def hidden(self, index: int) -> int | None:
        """Units of a recurrent operator."""
        size = self._attribute(index, "hidden_size", None)
        if isinstance(size, int):
            return size
        recurrent = self.constants.get(self.node(index).input[2])
        return None if recurrent is None else int(recurrent.dims[2])

    def initial(self, place: Place) -> str:
        """The tensor that an operator starts from; empty where it starts from zeros."""
        inputs = self.node(place.node).input
        return inputs[place.start] if len(inputs) > place.start else ""

    def origin(self, name: str) -> str:
        """The tensor that this one is a part or another layout of."""
        while (node := self.producers.get(name)) is not None and node.op_type in _PARTS_OPS:
            name = node.input[0]
        return name

    def reached(self, name: str) -> set[str]:
        """The graph's outputs that are this tensor, in another layout or side by side with more."""
        found, frontier = set(), [name]
        while frontier:
            name = frontier.pop()
            if name in self.outputs:
                found.add(name)
            for node in self.proto.graph.node:
                if name and name in node.input and node.op_type in (*_LAYOUT_OPS, "Concat"):
                    frontier.extend(node.output)
        return found

    def lengths(self) -> str | None:
        """The input that says how long each sequence is."""
        for index in self.recurrent:
            inputs = self.node(index).input
            if len(inputs) > 4 and inputs[4] and self.origin(inputs[4]) in self.inputs:
                return self.origin(inputs[4])
        return None

    def uniform(self, name: str) -> float | None:
        """The one number a tensor is filled with, where it is known to be filled with one."""
        if not name:
            return 0.0
        if name in self.constants:
            array: NDArray[np.generic] = numpy_helper.to_array(self.constants[name])
            same = array.size > 0 and bool((array == array.flat[0]).all())
            return float(np.asarray(array, np.float64).flat[0]) if same else None
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op_type == "ConstantOfShape":
            value = next((helper.get_attribute_value(entry) for entry in node.attribute), None)
            return 0.0 if value is None else float(numpy_helper.to_array(value).flat[0])
        if node.op_type in _FILLED_OPS:
            return self.uniform(node.input[0])
        if node.op_type == "Concat":
            parts = {self.uniform(part) for part in node.input}
            return parts.pop() if len(parts) == 1 else None
        return None

    def symbols(self, name: str) -> int | None:
        """How many symbols an input of tokens chooses from: the rows of the table it looks up."""
        for node in self.proto.graph.node:
            if node.op_type == "Gather" and self.origin(node.input[1]) == name:
                table = self.constants.get(node.input[0])
                if table is not None and len(table.dims) == 2:
                    return int(table.dims[0])
            if node.op_type == "OneHot" and self.origin(node.input[0]) == name:
                depth = self.uniform(node.input[1])
                if depth is not None:
                    return int(depth)
        return None

    def width_inside(self, name: str) -> int | None:
        """How many numbers per step the operator behind an input takes."""
        for index in self.recurrent:
            node = self.node(index)
            weights = self.constants.get(node.input[1])
            if weights is not None and self.origin(node.input[0]) == name:
                return int(weights.dims[2])
        return None

    def without_softmax(self, name: str) -> "ExternalGraph | None":
        """The same graph with the scores that the softmax behind an output is made of."""
        while (node := self.producers.get(name)) is not None and node.op_type in _LAYOUT_OPS:
            name = node.input[0]
        if node is None or node.op_type != "Softmax":
            return None
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        copy = next(other for other in proto.graph.node if name in other.output)
        copy.op_type = "Identity"
        del copy.attribute[:]
        return ExternalGraph(proto)

    def dims(self, name: str) -> list[int | None]:
        """The declared shape of an input or output; ``None`` for what is left open."""
        value = self.inputs.get(name) or self.outputs[name]
        shape = value.type.tensor_type.shape
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in shape.dim]

    def dtype(self, name: str) -> int:
        """The declared type of an input or output."""
        value = self.inputs.get(name) or self.outputs[name]
        return int(value.type.tensor_type.elem_type)

    def _attribute(self, index: int, name: str, default: object) -> object:
        for entry in self.node(index).attribute:
            if entry.name == name:
                return helper.get_attribute_value(entry)
        return default


def read_onnx(file: Path) -> ExternalGraph:
    """Read an ONNX file with the weights it may keep beside it.

    Raises:
        DataError: it is not readable.
        ModelError: its operators are too old to be brought up to date.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    try:
        proto = onnx.load_model(str(file))
        onnx.checker.check_model(proto)
    except (DecodeError, OSError, onnx.checker.ValidationError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{file}: not a readable ONNX model: {first}") from error
    if any(entry.key == METADATA_KEY for entry in proto.metadata_props):
        raise DataError(
            f"{file}: it carries Cellar's manifest: it needs no import, only its place "
            f"in a repository: NAME/1/{MODEL_FILE}"
        )
    return ExternalGraph(_relaxed(normalised(proto)))


def is_recurrent(node: onnx.NodeProto) -> bool:
    """Whether a node is one of ONNX's recurrent operators."""
    return node.op_type in _STATES_OF and node.domain in STANDARD_DOMAINS


def set_input(node: onnx.NodeProto, index: int, name: str) -> None:
    """Set one of a node's optional inputs."""
    node.input.extend([""] * (index + 1 - len(node.input)))
    node.input[index] = name


def stem(name: str) -> str:
    """What is left of a state's name without the words for before and after: hx and hy are h."""
    words = re.split(r"[^A-Za-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    kept = [word for word in map(str.lower, words) if word and not _NAME_NOISE.fullmatch(word)]
    text = "_".join(kept)
    return re.sub(r"^([a-z])[0ntxy]$", r"\1", text)


def _relaxed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without declared lengths inside: what it can take is found by running it."""
    relaxed = onnx.ModelProto()
    relaxed.CopyFrom(proto)
    relaxed.ir_version = max(relaxed.ir_version, 4)  # initializers are no inputs then
    del relaxed.graph.value_info[:]
    return relaxed
