"""Brings a portable graph into the form that the compiler works on."""

import onnx
from onnx import inliner, version_converter

from models.compile.serving import PREFIX
from models.errors import ModelError
from models.graph.builder import INT32, INT64, OPSET, STANDARD_DOMAINS, GraphBuilder, tensor_names
from models.manifest import Manifest, TokensInput


def normalised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without local functions, in an opset that can be extended.

    Raises:
        ModelError: it cannot be brought into that form, or uses the server's names.
    """
    proto = _at_supported_opset(_inlined(proto))
    for name in tensor_names(proto.graph):
        if name.startswith(PREFIX):
            raise ModelError(f"tensor '{name}': '{PREFIX}' begins the server's names: rename it")
    return proto


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put the bodies of local functions in place of their calls."""
    if not proto.functions:
        return proto
    try:
        return inliner.inline_local_functions(proto, convert_version=True)
    except Exception as error:  # the inliner raises whatever its C++ part throws
        raise ModelError(f"its local functions cannot be inlined: {error}") from error


def _at_supported_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    opset = next(
        (entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS), 0
    )
    if opset >= 13:  # the first one where Squeeze, Unsqueeze and Split take axes as inputs
        return proto
    try:
        return version_converter.convert_version(proto, OPSET)
    except Exception as error:  # the converter raises whatever its C++ part throws
        raise ModelError(
            f"opset {opset} cannot be brought to {OPSET}: export it with opset 13 or later"
        ) from error


def cast_inputs(before: GraphBuilder, graph: onnx.GraphProto, manifest: Manifest) -> Manifest:
    """Take tokens as int64 and lengths as int32, whatever integers the graph works with.

    Returns the manifest with the names that the inputs have then.
    """
    renamed: dict[str, object] = {}
    if isinstance(manifest.input, TokensInput):
        name = _cast_input(before, graph, manifest.input.name, INT64)
        renamed["input"] = manifest.input.model_copy(update={"name": name})
    if manifest.lengths is not None:
        renamed["lengths"] = _cast_input(before, graph, manifest.lengths, INT32)
    return manifest.model_copy(update=renamed)


def _cast_input(before: GraphBuilder, graph: onnx.GraphProto, name: str, dtype: int) -> str:
    """Make an input one of ``dtype``; returns the name it has then."""
    value = next((value for value in graph.input if value.name == name), None)
    if value is None:  # nothing in this part of the graph reads it
        return name
    tensor_type = value.type.tensor_type
    if tensor_type.elem_type != dtype:
        value.name = f"{PREFIX}input.{name}"
        before.node("Cast", value.name, output=name, to=tensor_type.elem_type)
        tensor_type.elem_type = dtype
    return value.name
