"""The arena compiler: from a portable recurrent graph to the graph that is served.

The state of every session lives in one resident tensor per recurrent tensor, the *arena*, with
one row per slot. The serving graph reads the rows of its batch, runs the model, and scatters the
new rows back into the same buffer::

    read_slots (batch,) int64, write_slots (batch, 1) int64, fresh (batch,) bool, inputs
      Gather(arena, read_slots) -> Where(fresh, initial, .) -> model
                                                -> ScatterND(arena, write_slots, new state)

Reading one row and writing another is what makes a dry run (write to the scratch row), a fork
and an atomic multi-step commit index games. ``Where`` and not a product keeps stale NaNs out.

The prediction after each session's last step is resident too: a repeated request, a generation
without a prompt and a forecast are answered from it, without running the model.

Knows nothing of how a graph is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx
from onnx import helper, inliner, version_converter

from models import heads
from models.errors import ModelError
from models.graph import (
    BOOL,
    FLOAT,
    INT32,
    INT64,
    IR_VERSION,
    OPSET,
    STANDARD_DOMAINS,
    GraphBuilder,
    tensor_names,
)
from models.lowering import lower_rnn
from models.manifest import Manifest, PredictionKind, TokensInput
from models.pruning import prune
from models.repository import Model

PREFIX = "cellar."
READ_SLOTS = PREFIX + "read_slots"
WRITE_SLOTS = PREFIX + "write_slots"
FRESH = PREFIX + "fresh"
PREDICTION = PREFIX + "prediction"
PREDICTIONS = PREFIX + "predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaTensor:
    """One resident tensor: ``(slots, *shape)`` float32, read and written in place."""

    input: str
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGraph:
    """What a runner needs to serve one model.

    ``core`` maps slots and inputs to new arena rows, ``PREDICTION`` (batch, width), the
    prediction after each row's last step, and ``PREDICTIONS`` (batch, time, width), all of them.
    ``heads`` turn predictions into answers; each is a graph of its own, so that a row pays for
    what it asked and rows that ask for different things still share the core's batch.
    ``manifest`` names the inputs as ``core`` does: tokens are int64 there and lengths int32.
    """

    manifest: Manifest
    core: bytes
    arena: tuple[ArenaTensor, ...]
    heads: Mapping[str, bytes]


def compile_model(model: Model) -> ServingGraph:
    """Compile a model for serving on the CPU.

    Raises:
        ModelError: the graph cannot be served.
    """
    try:
        return _compile(model.proto, model.manifest)
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error


def _compile(portable: onnx.ModelProto, manifest: Manifest) -> ServingGraph:
    proto = _at_supported_opset(_inlined(portable))
    wanted = [manifest.prediction.output, *(state.output for state in manifest.states)]
    graph = prune(proto.graph, outputs=wanted)
    for name in tensor_names(graph):
        if name.startswith(PREFIX):
            raise ModelError(f"tensor '{name}': '{PREFIX}' begins the server's names: rename it")
    lower_rnn(graph)
    manifest, arena = _wire(graph, manifest)
    core = helper.make_model(
        graph,
        opset_imports=proto.opset_import,
        ir_version=max(proto.ir_version, IR_VERSION),  # from 4 on initializers are no inputs
    )
    try:
        onnx.checker.check_model(core)
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: above 2 GiB
        raise ModelError(f"cannot be compiled for serving: {error}") from error
    return ServingGraph(
        manifest=manifest,
        core=core.SerializeToString(),
        arena=arena,
        heads=MappingProxyType(_heads(proto, manifest)),
    )


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


def _wire(graph: onnx.GraphProto, manifest: Manifest) -> tuple[Manifest, tuple[ArenaTensor, ...]]:
    """Replace state inputs and outputs by arena reads and in-place writes.

    Returns the manifest with the names that the inputs have now.
    """
    before = GraphBuilder(PREFIX + "read.")
    after = GraphBuilder(PREFIX + "write.")
    before.input(READ_SLOTS, INT64, ["batch"])
    before.input(WRITE_SLOTS, INT64, ["batch", 1])
    before.input(FRESH, BOOL, ["batch"])
    manifest = _cast_inputs(before, graph, manifest)
    resident: list[ArenaTensor] = []

    for index, state in enumerate(manifest.states):
        tensor = ArenaTensor(
            input=f"{PREFIX}arena_{index}", output=f"{PREFIX}arena_{index}_next", shape=state.shape
        )
        rank = len(state.shape)
        before.input(tensor.input, FLOAT, ["slots", *state.shape])
        rows = before.node("Gather", tensor.input, READ_SLOTS, axis=0)  # (batch, *shape)
        fresh = before.node("Unsqueeze", FRESH, before.constant(range(1, rank + 1)))
        initial = before.constant(state.initial)
        to_model = _axes_moved(0, state.batch_axis, rank + 1)
        if to_model is None:
            before.node("Where", fresh, initial, rows, output=state.input)
            new_rows = state.output
        else:
            rows = before.node("Where", fresh, initial, rows)
            before.node("Transpose", rows, output=state.input, perm=to_model)
            to_arena = _axes_moved(state.batch_axis, 0, rank + 1)
            new_rows = after.node("Transpose", state.output, perm=to_arena)
        after.node("ScatterND", tensor.input, WRITE_SLOTS, new_rows, output=tensor.output)
        after.output(tensor.output, FLOAT, ["slots", *state.shape])
        resident.append(tensor)

    resident.append(_keep_prediction(before, after, manifest))
    state_inputs = {state.input for state in manifest.states}
    inputs = [value for value in graph.input if value.name not in state_inputs]
    nodes = [*before.nodes, *graph.node, *after.nodes]
    constants = [*before.initializers, *graph.initializer, *after.initializers]
    rewired = helper.make_graph(
        nodes, graph.name, [*inputs, *before.inputs], after.outputs, initializer=constants
    )
    graph.CopyFrom(rewired)
    return manifest, tuple(resident)


def _cast_inputs(before: GraphBuilder, graph: onnx.GraphProto, manifest: Manifest) -> Manifest:
    """Take tokens as int64 and lengths as int32, whatever integers the graph works with."""
    renamed: dict[str, object] = {}
    if isinstance(manifest.input, TokensInput):
        name = _cast_input(before, graph, manifest.input.name, INT64)
        renamed["input"] = manifest.input.model_copy(update={"name": name})
    if manifest.lengths is not None:
        renamed["lengths"] = _cast_input(before, graph, manifest.lengths, INT32)
    return manifest.model_copy(update=renamed)


def _cast_input(before: GraphBuilder, graph: onnx.GraphProto, name: str, dtype: int) -> str:
    """Make an input one of ``dtype``; returns the name it has then."""
    value = next(value for value in graph.input if value.name == name)
    tensor_type = value.type.tensor_type
    if tensor_type.elem_type != dtype:
        value.name = f"{PREFIX}input.{name}"
        before.node("Cast", value.name, output=name, to=tensor_type.elem_type)
        tensor_type.elem_type = dtype
    return value.name


def _keep_prediction(before: GraphBuilder, after: GraphBuilder, manifest: Manifest) -> ArenaTensor:
    width = manifest.prediction.width
    tensor = ArenaTensor(
        input=PREFIX + "arena_prediction", output=PREFIX + "arena_prediction_next", shape=(width,)
    )
    before.input(tensor.input, FLOAT, ["slots", width])
    if manifest.lengths is None:  # one step per run, with or without a time axis of 1
        after.node(
            "Reshape",
            manifest.prediction.output,
            after.constant([-1, width]),
            output=PREDICTION,
        )
        after.node("Unsqueeze", PREDICTION, after.constant([1]), output=PREDICTIONS)
    else:
        after.node("Identity", manifest.prediction.output, output=PREDICTIONS)
        lengths = after.node("Cast", manifest.lengths, to=INT64)
        last = after.node("Sub", lengths, after.constant([1]))
        last = after.node("Unsqueeze", last, after.constant([1]))  # (batch, 1)
        after.node("GatherND", PREDICTIONS, last, output=PREDICTION, batch_dims=1)
    after.node("ScatterND", tensor.input, WRITE_SLOTS, PREDICTION, output=tensor.output)
    after.output(tensor.output, FLOAT, ["slots", width])
    after.output(PREDICTION, FLOAT, ["batch", width])
    after.output(PREDICTIONS, FLOAT, ["batch", "time", width])
    return tensor


def _heads(proto: onnx.ModelProto, manifest: Manifest) -> dict[str, bytes]:
    kind = manifest.prediction.kind
    if kind is PredictionKind.LOGITS:
        return heads.token_heads(manifest.prediction.width)
    if kind is PredictionKind.DISTRIBUTION:
        return heads.value_heads(proto, manifest)
    return {}


def _axes_moved(source: int, target: int, rank: int) -> list[int] | None:
    """The permutation that moves one axis, or ``None`` when nothing moves."""
    if source == target:
        return None
    axes = [axis for axis in range(rank) if axis != source]
    axes.insert(target, source)
    return axes


__all__ = [
    "FRESH",
    "PREDICTION",
    "PREDICTIONS",
    "READ_SLOTS",
    "WRITE_SLOTS",
    "ArenaTensor",
    "ServingGraph",
    "compile_model",
]
