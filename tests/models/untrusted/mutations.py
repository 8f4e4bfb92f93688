"""Makes bad model files of sound ones: bytes, fields of the protobuf, manifests, places, sizes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from models.manifest import METADATA_KEY

_NUMBERS = (-1, 0, 1, 2, 7, 65_536, 2**31 - 1, 10**12, 2**62, -(2**63))
_TEXTS = (
    "",
    "\n\x1b[2Jx",
    "../../etc/passwd",
    "x" * 5000,
    "\u202eabc",
    "s",
    "y",
    "x",
    "batch",
    "%s",
)
OUTSIDE = "outside"
"""A folder beside those of the models, with a file ``secret`` that nobody may read."""
PLACES = (
    f"../../../{OUTSIDE}/secret", f"link/../../../../{OUTSIDE}/secret", "folder/secret", "link",
    "/etc/passwd", "C:\\secret", "..\\secret", "", ".", "folder", "pipe", "\0", "missing",
    "x" * 5000, "file:///etc/passwd", "*/_ORT_MEM_ADDR_/*",
)  # fmt: skip
"""Where no weights may be read: ``link`` and ``folder`` lead to ``OUTSIDE``, ``pipe`` is one."""


@dataclass(slots=True, kw_only=True)
class Bad:
    """A model's files, and what is known of them."""

    how: str
    model: bytes
    sidecar: bytes | None = None
    is_refused: bool = False
    """It must not be served, whatever else is so."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Others in its folder."""


def mutated(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    """One bad file, or a harmless one; ``proto`` carries its manifest."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    way = dice.choice(_WAYS)
    bad = way(copy, dice)
    bad.how = f"{way.__name__.strip('_')}: {bad.how}"
    return bad


# ---- bytes ----


def _bytes(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    data = bytearray(proto.SerializeToString())
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data))
        if dice.random() < 0.7:
            at %= 400  # where the lengths are
        match dice.randrange(4):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at : at + dice.randint(1, 100)] = b""
            case 2:
                data[at:at] = data[at : at + dice.randint(1, 100)] * dice.choice((1, 100))
            case _:
                data[at:at] = dice.choice((b"\xff" * 9 + b"\x7f", b"\x0a" * 200, b"\x0b" * 300))
        data = data or bytearray(b"\0")
    return Bad(how="flipped, cut, doubled", model=bytes(data))


# ---- fields ----


def _fields(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    told = []
    for _ in range(dice.choice((1, 1, 2, 5))):
        messages = [*_messages(proto)]
        message = dice.choice(messages)
        kept = message.DESCRIPTOR.name in ("ModelProto", "StringStringEntryProto")
        # What is empty may be set as well, but what is there matters more.
        present = [one for one, _ in message.ListFields()]
        fields = present if present and dice.random() < 0.7 else [*message.DESCRIPTOR.fields]
        one = dice.choice(fields)
        if kept and one.name in ("metadata_props", "key"):
            continue
        told.append(f"{message.DESCRIPTOR.name}.{one.name}")
        try:
            _set(message, one, messages, dice)
        except (TypeError, ValueError):  # what the field cannot hold
            continue
    return Bad(how=" ".join(told), model=proto.SerializeToString())


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for one, value in message.ListFields():
        if one.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if one.is_repeated else (value,):
                yield from _messages(inner)


def _set(message: Message, one: Any, messages: list[Message], dice: random.Random) -> None:
    old: Any = getattr(message, one.name)
    if one.is_repeated:
        match dice.randrange(4):
            case 0 if len(old):
                del old[dice.randrange(len(old))]
            case 1 if len(old):
                old.extend([old[dice.randrange(len(old))]] * dice.choice((1, 100)))
            case 2 if len(old) > 1:
                kept = [*old]
                dice.shuffle(kept)
                del old[:]
                old.extend(kept)
            case _:
                old.append(_value(one, None, messages, dice))
    elif one.type == FieldDescriptor.TYPE_MESSAGE:
        if dice.random() < 0.3:
            message.ClearField(one.name)
        else:
            old.CopyFrom(_value(one, None, messages, dice))
    else:
        setattr(message, one.name, _value(one, old, messages, dice))


def _value(one: Any, old: object, messages: list[Message], dice: random.Random) -> Any:
    if one.type == FieldDescriptor.TYPE_MESSAGE:
        alike = [m for m in messages if m.DESCRIPTOR is one.message_type]
        value = one.message_type._concrete_class()
        if alike:
            value.CopyFrom(dice.choice(alike))  # which may hold the place it comes to
        return value
    if one.type == FieldDescriptor.TYPE_STRING:
        return dice.choice(_TEXTS)
    if one.type == FieldDescriptor.TYPE_BYTES:
        known = old if isinstance(old, bytes) else b""
        return dice.choice((b"", known[:-1], known * 2, known + b"\0", b"\xff" * 64))
    if one.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return dice.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if one.type == FieldDescriptor.TYPE_ENUM:
        return dice.choice((0, 1, 7, 16, 17, 30))
    return dice.choice(_NUMBERS)


def _meanings(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    """Sound for whoever checks the format: other operators, attributes and constants."""
    told = []
    integers = [one for one in proto.graph.initializer if one.data_type == TensorProto.INT64]
    for _ in range(dice.choice((1, 1, 3))):
        node = dice.choice(proto.graph.node)
        kind = dice.randrange(3)
        if kind == 0 and integers:
            tensor = dice.choice(integers)
            numbers = numpy_helper.to_array(tensor).copy()
            if numbers.size:
                numbers.flat[dice.randrange(numbers.size)] = dice.choice((*_NUMBERS, 30_000))
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
            told.append(f"{tensor.name}={numbers.ravel().tolist()}")
        elif kind == 1 and node.attribute:
            one = dice.choice(node.attribute)
            if one.type == onnx.AttributeProto.INT:
                one.i = dice.choice(_NUMBERS)
            elif one.type == onnx.AttributeProto.INTS and one.ints:
                one.ints[dice.randrange(len(one.ints))] = dice.choice(_NUMBERS)
            told.append(f"{node.op_type}.{one.name}")
        else:
            told.append(node.op_type)
            node.op_type = dice.choice(_OPERATORS)
            del node.attribute[:]
            told.append(node.op_type)
    return Bad(how=" ".join(told), model=proto.SerializeToString())


_OPERATORS = (
    "Add", "Sub", "Mul", "Div", "Mod", "Pow", "MatMul", "Gather", "GatherElements", "GatherND",
    "Expand", "Tile", "Reshape", "Concat", "Squeeze", "Unsqueeze", "Slice", "Pad", "Split",
    "OneHot", "Range", "ConstantOfShape", "Compress", "TopK", "CumSum", "Einsum", "Resize",
    "NonZero", "Where", "ScatterElements", "ScatterND", "Exp", "Softmax", "LSTM", "GRU", "RNN",
    "Conv", "Shape", "EyeLike", "Trilu", "Transpose", "Multinomial", "Dropout", "If", "Loop",
)  # fmt: skip


# ---- places ----


def _places(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    tensor = dice.choice(proto.graph.initializer)
    data = numpy_helper.to_array(tensor).tobytes()
    is_deep = dice.random() < 0.4  # in a part of a graph where few look
    if is_deep:
        tensor = TensorProto(name="deep", dims=tensor.dims, data_type=tensor.data_type)
    for name in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    place = dice.choice((*PLACES, "own"))
    tensor.external_data.add(key="location", value=place)
    if dice.random() < 0.5:
        tensor.external_data.add(key="offset", value=str(dice.choice((0, *_NUMBERS, "x", ""))))
        tensor.external_data.add(key="length", value=str(dice.choice((len(data), *_NUMBERS))))
    if is_deep:
        _add_constant(proto, tensor, dice)
    return Bad(
        how=place[:40],
        model=proto.SerializeToString(),
        is_refused=place != "own",
        files={"own": data},
    )


def _add_constant(proto: onnx.ModelProto, tensor: TensorProto, dice: random.Random) -> None:
    node = helper.make_node("Constant", [], ["deep_value"], value=tensor)
    match dice.randrange(3):
        case 0:
            proto.graph.node.insert(0, node)
        case 1:
            function = helper.make_function(
                "own", "Deep", [], ["deep_value"], [node], proto.opset_import
            )
            proto.functions.append(function)
            proto.opset_import.append(helper.make_opsetid("own", 1))
            proto.graph.node.insert(0, helper.make_node("Deep", [], ["deep_value"], domain="own"))
        case _:
            value = helper.make_tensor_value_info("deep_value", tensor.data_type, None)
            body = helper.make_graph([node], "deep", [], [value])
            true = numpy_helper.from_array(np.array(True), "deep_true")
            proto.graph.initializer.append(true)
            outer = helper.make_node(
                "If", ["deep_true"], ["deep_out"], then_branch=body, else_branch=body
            )
            proto.graph.node.insert(0, outer)


# ---- sizes ----


def _sizes(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    """What makes much of little."""
    graph = proto.graph

    def constant(name: str, *numbers: int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def first(op: str, *names: str, **attributes: Any) -> None:
        graph.node.insert(0, helper.make_node(op, names, [f"large_{op}"], **attributes))

    kind = dice.choice(
        (
            "shape",
            "tile",
            "random",
            "chain",
            "dims",
            "sparse",
            "nested",
            "functions",
            "many",
            "axes",
        )
    )
    refused = True
    match kind:
        case "shape":
            first("ConstantOfShape", constant("large", 10**6, 10**6))
        case "tile":
            graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "nine"))
            first("Tile", "nine", constant("large", 10**10))
        case "random":
            first("RandomNormal", shape=[10**6, 10**6])
        case "chain":
            graph.initializer.append(numpy_helper.from_array(np.ones(2**10, np.float32), "c0"))
            steps = 30
            for step in range(steps):
                graph.node.insert(
                    step, helper.make_node("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=0)
                )
            graph.node.insert(
                steps, helper.make_node("ReduceSum", [f"c{steps}"], ["c_sum"], keepdims=0)
            )
            _read_by_output(graph, "c_sum", steps + 1)
        case "dims":
            del graph.initializer[0].dims[:]
            graph.initializer[0].dims.extend([10**6, 10**6])
        case "sparse":
            sparse = onnx.SparseTensorProto(dims=[10**6, 10**6])
            sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
            sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "at"))
            graph.sparse_initializer.append(sparse)
        case "nested":
            body = helper.make_graph([], "b", [], [])
            for _ in range(dice.choice((14, 24))):
                node = helper.make_node("If", ["t"], ["o"], then_branch=body, else_branch=body)
                if node.ByteSize() > 2**20:
                    node.attribute.pop()
                body = helper.make_graph([node], "b", [], [])
            graph.node.extend(body.node)
        case "functions":
            for number in range(20):
                calls = [
                    helper.make_node(f"F{number + 1}", ["x"], [f"y{n}"], domain="own")
                    for n in range(9)
                ]
                calls.append(helper.make_node("Identity", ["x"], ["y"]))
                proto.functions.append(
                    helper.make_function(
                        "own", f"F{number}", ["x"], ["y"], calls, proto.opset_import
                    )
                )
            proto.functions.append(
                helper.make_function(
                    "own",
                    "F20",
                    ["x"],
                    ["y"],
                    [helper.make_node("Identity", ["x"], ["y"])],
                    proto.opset_import,
                )
            )
            proto.opset_import.append(helper.make_opsetid("own", 1))
            first("F0", graph.initializer[0].name, domain="own")
        case "many":
            graph.node.extend([helper.make_node("Identity", ["x"], [""])] * 100_001)
        case _:
            graph.initializer[0].dims.extend([1] * 100)
    return Bad(how=kind, model=proto.SerializeToString(), is_refused=refused)


def _read_by_output(graph: onnx.GraphProto, name: str, at: int) -> None:
    """Make a model's first output depend on a number."""
    out = graph.output[0].name
    for node in graph.node:
        for place, output in enumerate(node.output):
            if output == out:
                node.output[place] = "before_large"
    graph.node.append(helper.make_node("Add", ["before_large", name], [out]))


# ---- operators ----


def _operators(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    node = dice.choice(proto.graph.node)
    node.domain = dice.choice(
        ("evil", "ai.onnx.contrib", "com.microsoft.nchwc", "org.pytorch.aten", "AI.ONNX")
    )
    proto.opset_import.append(helper.make_opsetid(node.domain, 1))
    return Bad(how=node.domain, model=proto.SerializeToString(), is_refused=True)


# ---- manifests ----


def _manifests(proto: onnx.ModelProto, dice: random.Random) -> Bad:
    entry = next(one for one in proto.metadata_props if one.key == METADATA_KEY)
    manifest = json.loads(entry.value)
    told = []
    for _ in range(dice.choice((1, 1, 3))):
        places = [*_json_places(manifest)]
        holder, key = dice.choice(places)
        told.append(str(key))
        if dice.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        elif dice.random() < 0.1 and isinstance(holder, dict):
            holder[dice.choice(_TEXTS)] = 1
        else:
            holder[key] = dice.choice(_JSON)()
    text = json.dumps(manifest)
    if dice.random() < 0.1:
        text = dice.choice(('{"a":' * 10**5, "[" * 10**6, text[:-3], text + "]", " " * (9 * 2**20)))
    if dice.random() < 0.4:
        kept = [one for one in proto.metadata_props if one.key != METADATA_KEY]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        data = text.encode() + dice.choice((b"", b"", b"\xff\xfe", b"\0"))
        return Bad(how=" ".join(told), model=proto.SerializeToString(), sidecar=data)
    entry.value = text
    return Bad(how=" ".join(told), model=proto.SerializeToString())


_JSON: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 1,
    lambda: 10**9,
    lambda: 10**400,
    lambda: 1e308,
    lambda: float("nan"),
    lambda: "\n\x1b[2J",
    lambda: "x" * 100_000,
    lambda: "\ud800",
    lambda: [10**9, 10**9],
    lambda: [1] * 10_000,
    lambda: ["a"] * 3,
    dict,
    list,
    lambda: "y",
    lambda: [str(number) for number in range(300_000)],
)


def _json_places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = range(min(len(value), 5)) if isinstance(value, list) else value
    for key in [*keys]:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _json_places(value[key])


_WAYS: tuple[Callable[[onnx.ModelProto, random.Random], Bad], ...] = (
    _bytes, _fields, _fields, _meanings, _meanings, _places, _sizes, _operators, _manifests,
    _manifests,
)  # fmt: skip
