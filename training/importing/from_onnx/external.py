"""Reads an external ONNX graph: its recurrent operators, and how their states come and go."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.graph.builder import STANDARD_DOMAINS, constants_of
from models.manifest import METADATA_KEY
from models.repository import MODEL_FILE
from training.errors import DataError
from training.importing.isolated.files import other_kind
from training.importing.isolated.reasons import of_reading
from training.importing.isolated.runtime import RefusedError, Runtime

_STATES_OF = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}
_LAYOUT_OPS = ("Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Reshape")
_PARTS_OPS = (*_LAYOUT_OPS, "Slice", "Gather", "Split")
_FILLED_OPS = (*_PARTS_OPS, "Expand", "Tile")
_NAME_NOISE = re.compile(
    r"(in|out|input|output|prev|previous|next|new|init|initial|final|last|n|0|t|x|y|old|to|from)"
)
_RANDOM_OPS = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
    "Multinomial",
)  # fmt: skip
_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


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
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {v.name: v for v in graph.input if v.name not in initializers}
        self.optional = {v.name: v for v in graph.input if v.name in initializers}
        """Inputs that need not be given: what they are then is an initializer of their name."""
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

    def is_batch_first(self, index: int) -> bool:
        """Whether a recurrent operator takes its sequences batch first."""
        return bool(self._attribute(index, "layout", 0))

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

    def filling(self, name: str) -> str:
        """The tensor that this one is made of by cutting, turning and repeating alone."""
        while (node := self.producers.get(name)) is not None and node.op_type in _FILLED_OPS:
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

    def obstacle(self, name: str) -> str | None:
        """Why a tensor is not the same in every run, if it is not: what it is made of.

        The shapes of inputs do not count: they say how many rows there are.
        """
        seen, frontier = set(), [name]
        while frontier:
            name = frontier.pop()
            if name in seen or name in self.constants or not name:
                continue
            seen.add(name)
            if name in self.inputs:
                return f"is computed from '{name}'"
            node = self.producers.get(name)
            if node is None or any(entry.HasField("g") for entry in node.attribute):
                return "is computed in it"
            if node.op_type in _RANDOM_OPS:
                return f"is drawn at random ({node.op_type})"
            if node.op_type not in ("Shape", "Size"):
                frontier.extend(node.input)
        return None

    def with_inputs(self, names: Collection[str]) -> "ExternalGraph":
        """The same graph where these optional inputs have to be given."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        kept = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        return ExternalGraph(proto)

    def not_finite(self) -> str | None:
        """The first of its constants that holds a number that is none, or an infinite one."""
        for name, tensor in self.constants.items():
            numbers = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
            if numbers and not np.isfinite(numpy_helper.to_array(tensor)).all():
                return name
        return None

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

    def has_shape(self, name: str) -> bool:
        """Whether an input or output says how many axes it has."""
        value = self.inputs.get(name) or self.outputs[name]
        return value.type.tensor_type.HasField("shape")

    def dims(self, name: str) -> list[int | None]:
        """The declared shape of an input or output; ``None`` for what is left open."""
        value = self.inputs.get(name) or self.outputs[name]
        shape = value.type.tensor_type.shape
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in shape.dim]

    def kind(self, name: str) -> str:
        """What an input or output is, in words: float32, int64, a sequence."""
        value = self.inputs.get(name) or self.outputs[name]
        if value.type.WhichOneof("value") == "tensor_type":
            return type_name(value.type.tensor_type.elem_type)
        what = (value.type.WhichOneof("value") or "nothing").removesuffix("_type")
        return f"no tensor but {what.replace('_', ' ')}"

    def dtype(self, name: str) -> int:
        """The declared type of an input or output."""
        value = self.inputs.get(name) or self.outputs[name]
        return int(value.type.tensor_type.elem_type)

    def _attribute(self, index: int, name: str, default: object) -> object:
        for entry in self.node(index).attribute:
            if entry.name == name:
                return helper.get_attribute_value(entry)
        return default


def read_onnx(file: Path, runtime: Runtime) -> ExternalGraph:
    """Read an ONNX file with the weights it may keep beside it.

    Raises:
        DataError: it is not readable, or holds nothing that can be run in float32.
        ModelError: its operators are too old to be brought up to date.
    """
    try:
        proto = runtime.read(file)
    except RefusedError as error:
        kind = other_kind(file, but=file.suffix)
        reason = of_reading(str(error)) if kind is None else f"it is {kind}"
        raise DataError(f"{file}: {reason}") from error
    if any(entry.key == METADATA_KEY for entry in proto.metadata_props):
        raise DataError(
            f"{file}: it carries Cellar's manifest: it needs no import, only its place "
            f"in a repository: NAME/1/{MODEL_FILE}"
        )
    graph = ExternalGraph(_relaxed(proto))
    _check(graph, file)
    return ExternalGraph(_time_first(graph))


def _check(graph: ExternalGraph, file: Path) -> None:
    """Refuse what no session could be given or could give, whatever its tensors mean."""
    for side, found in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if not found:
            raise DataError(f"{file}: the graph has no {side}: there is nothing to serve")
    for name, value in graph.inputs.items():
        if value.type.WhichOneof("value") != "tensor_type":
            raise DataError(f"{file}: input '{name}' is {graph.kind(name)}, and inputs are tensors")
        if any(dim.HasField("dim_value") and dim.dim_value < 1 for dim in _dims(value)):
            raise DataError(
                f"{file}: input '{name}' is declared with an axis of length 0: leave the axis open"
            )
    for index in graph.recurrent:
        node = graph.node(index)
        weights = graph.constants.get(node.input[1])
        if weights is not None and weights.data_type in _HALF:
            raise DataError(
                f"{file}: the weights of its {node.op_type} '{node.name}' are in half precision, "
                "and ONNX Runtime computes recurrent operators in float32 only: export the network "
                "in float32 (model.float())"
            )


def type_name(dtype: int) -> str:
    """The usual name of a type of numbers."""
    usual: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}
    if dtype in usual:
        return usual[dtype]
    if dtype not in onnx.TensorProto.DataType.values():
        return f"of an unknown type ({dtype})"
    return str(onnx.TensorProto.DataType.Name(dtype)).lower()


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


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return value.type.tensor_type.shape.dim


def _time_first(graph: ExternalGraph) -> onnx.ModelProto:
    """The same model with every recurrent operator time first, as ONNX Runtime has them alone."""
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(proto.graph.node):
        if index not in graph.recurrent or not graph.is_batch_first(index):
            nodes.append(node)
            continue
        kept = [entry for entry in node.attribute if entry.name != "layout"]
        del node.attribute[:]
        node.attribute.extend(kept)
        before, after = [], []
        for place in (0, *range(5, min(7, len(node.input)))):
            if name := node.input[place]:
                node.input[place] = f"{name}.time_first.{index}.{place}"
                axes = [1, 0, 2]
                before.append(helper.make_node("Transpose", [name], [node.input[place]], perm=axes))
        for place, name in enumerate(node.output):
            if name:
                node.output[place] = f"{name}.time_first"
                axes = [2, 0, 1, 3] if place == 0 else [1, 0, 2]
                after.append(helper.make_node("Transpose", [node.output[place]], [name], perm=axes))
        nodes += [*before, node, *after]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    return proto
