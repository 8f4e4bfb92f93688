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
from onnx import helper, version_converter

from models import heads
from models.errors import ModelError
from models.graph import BOOL, FLOAT, INT64, OPSET, GraphBuilder
from models.lowering import lower_rnn
from models.manifest import Manifest, PredictionKind
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
    manifest = model.manifest
    proto = _at_supported_opset(model)
    wanted = [manifest.prediction.output, *(state.output for state in manifest.states)]
    graph = prune(proto.graph, outputs=wanted)
    lower_rnn(graph)
    arena = _wire(graph, manifest)
    core = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    try:
        onnx.checker.check_model(core)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{model.path}: cannot be compiled for serving: {error}") from error
    return ServingGraph(
        manifest=manifest,
        core=core.SerializeToString(),
        arena=arena,
        heads=MappingProxyType(_heads(proto, manifest)),
    )


def _at_supported_opset(model: Model) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.proto.opset_import if not entry.domain), 0)
    if opset >= 13:  # the first one where Squeeze, Unsqueeze and Split take axes as inputs
        return model.proto
    try:
        return version_converter.convert_version(model.proto, OPSET)
    except Exception as error:  # the converter raises whatever its C++ part throws
        raise ModelError(
            f"{model.path}: opset {opset} cannot be brought to {OPSET}: export it with "
            "opset 13 or later"
        ) from error


def _wire(graph: onnx.GraphProto, manifest: Manifest) -> tuple[ArenaTensor, ...]:
    """Replace state inputs and outputs by arena reads and in-place writes."""
    before = GraphBuilder(PREFIX + "read.")
    after = GraphBuilder(PREFIX + "write.")
    before.input(READ_SLOTS, INT64, ["batch"])
    before.input(WRITE_SLOTS, INT64, ["batch", 1])
    before.input(FRESH, BOOL, ["batch"])
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
    return tuple(resident)


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
