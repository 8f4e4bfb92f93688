"""Puts a portable graph between reads of the arena and writes to it."""

import onnx
from onnx import helper

from models.compile.portable import cast_inputs
from models.compile.serving import (
    PREDICTION,
    PREDICTIONS,
    PREFIX,
    ArenaAccess,
    ArenaTensor,
    Device,
)
from models.errors import ModelError
from models.graph.builder import FLOAT, INT64, IR_VERSION, GraphBuilder
from models.manifest import Manifest


def wire(
    graph: onnx.GraphProto,
    opsets: list[onnx.OperatorSetIdProto],
    ir_version: int,
    manifest: Manifest,
    arena: tuple[ArenaTensor, ...],
    device: Device,
    *,
    single_step: bool = False,
    in_place: bool = True,
) -> tuple[Manifest, bytes]:
    """Replace state inputs and outputs by arena reads and in-place writes.

    The last tensor of the arena is the resident prediction. With ``single_step`` the graph has no
    lengths, and the only prediction is ``PREDICTION``. Without ``in_place`` nothing is written:
    see `ServingGraph`.

    Returns the manifest with the names that the inputs have now, and the model.

    Raises:
        ModelError: what results is no valid model.
    """
    before = GraphBuilder(PREFIX + "read.")
    after = GraphBuilder(PREFIX + "write.")
    reading, writing = ArenaAccess(before, device), ArenaAccess(after, device)
    renamed = cast_inputs(before, graph, manifest)
    for state, tensor in zip(manifest.states, arena[:-1], strict=True):
        rank = len(state.shape)
        to_model = _axes_moved(0, state.batch_axis, rank + 1)
        if to_model is None:
            reading.read(tensor, output=state.input)
            new_rows = state.output
        else:
            rows = reading.read(tensor)  # (batch, *shape)
            before.node("Transpose", rows, output=state.input, perm=to_model)
            to_arena = _axes_moved(state.batch_axis, 0, rank + 1)
            new_rows = after.node("Transpose", state.output, perm=to_arena)
        if in_place:
            writing.write(tensor, new_rows)
        else:
            after.node("Identity", new_rows, output=tensor.output)
            after.output(tensor.output, FLOAT, ["batch", *tensor.shape])
    _predict(after, renamed, single_step=single_step)
    if in_place:
        writing.write(arena[-1], PREDICTION)

    state_inputs = {state.input for state in manifest.states}
    inputs = [value for value in graph.input if value.name not in state_inputs]
    known = {value.name for value in before.inputs}
    inputs += [*before.inputs, *(value for value in after.inputs if value.name not in known)]
    wired = helper.make_graph(
        [*before.nodes, *graph.node, *after.nodes],
        graph.name,
        inputs,
        after.outputs,
        initializer=[*before.initializers, *graph.initializer, *after.initializers],
    )
    model = helper.make_model(
        wired,
        opset_imports=opsets,
        ir_version=max(ir_version, IR_VERSION),  # from 4 on initializers are no inputs
    )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: above 2 GiB
        raise ModelError(f"cannot be compiled for serving: {error}") from error
    return renamed, model.SerializeToString()


def _predict(after: GraphBuilder, manifest: Manifest, *, single_step: bool) -> None:
    """Add ``PREDICTION`` (batch, width) and ``PREDICTIONS`` (batch, time, width)."""
    width = manifest.prediction.width
    name = manifest.prediction.output
    if manifest.lengths is None or single_step:
        # One step per run, with or without a time axis of 1.
        after.node("Reshape", name, after.constant([-1, width]), output=PREDICTION)
        after.output(PREDICTION, FLOAT, ["batch", width])
        if single_step:
            return
        after.node("Unsqueeze", PREDICTION, after.constant([1]), output=PREDICTIONS)
    else:
        after.node("Identity", name, output=PREDICTIONS)
        lengths = after.node("Cast", manifest.lengths, to=INT64)
        last = after.node("Sub", lengths, after.constant([1]))
        last = after.node("Unsqueeze", last, after.constant([1]))  # (batch, 1)
        after.node("GatherND", PREDICTIONS, last, output=PREDICTION, batch_dims=1)
        after.output(PREDICTION, FLOAT, ["batch", width])
    after.output(PREDICTIONS, FLOAT, ["batch", "time", width])


def _axes_moved(source: int, target: int, rank: int) -> list[int] | None:
    """The permutation that moves one axis, or ``None`` when nothing moves."""
    if source == target:
        return None
    axes = [axis for axis in range(rank) if axis != source]
    axes.insert(target, source)
    return axes
