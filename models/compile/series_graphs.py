"""The graphs that serve a series model: its own graph, with the recurrent operators rewritten.

What scales the values and bounds the prediction stays as it was exported; only the recurrent
operators and, for single steps, what depends on the time axis change.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.compile.recognition import Reader, RunningMean, unrecognised
from models.compile.serving import (
    DECODED,
    FIRST,
    PREFIX,
    UNIFORM,
    ArenaAccess,
    ArenaTensor,
    Device,
    ServingGraph,
    lay_out,
)
from models.compile.wiring import wire
from models.graph import heads
from models.graph.builder import CONTRIB, FLOAT, IR_VERSION, OPSET, GraphBuilder
from models.graph.cells import Arithmetic, Layer
from models.graph.leaning.rewriting import lean, lean_models
from models.graph.pruning import prune
from models.graph.scanning import Advance, Steps, last_steps, scan
from models.manifest import Manifest, ValuesInput

LARGEST = np.float32(1e37)
SMALLEST = np.float32(1e-37)


def compile_series(
    proto: onnx.ModelProto, manifest: Manifest, arithmetic: Arithmetic, device: Device
) -> ServingGraph:
    """Compile a series model.

    Raises:
        ModelError: the graph is not what `cellar-train` writes.
    """
    wanted = [manifest.prediction.output, *(state.output for state in manifest.states)]
    arena = lay_out(manifest)
    opsets = [*proto.opset_import, helper.make_opsetid(CONTRIB, 1)]
    step = _single_step(proto, manifest, arithmetic, outputs=wanted)
    found: Mapping[str, bytes] = MappingProxyType(heads.value_heads(proto, manifest))
    if device is Device.CUDA:  # which records steps, and no scans
        step = lean(step, after={state.output: state.input for state in manifest.states})
        found = lean_models(found)
    renamed, step_model = wire(
        step, opsets, proto.ir_version, manifest, arena, device, single_step=True
    )
    if device is Device.CUDA:
        return ServingGraph(manifest=renamed, arena=arena, step=step_model, heads=found)
    chunk = prune(proto.graph, outputs=wanted)
    _Rewriter(chunk, arithmetic, single_step=False).rewrite()
    renamed, chunk_model = wire(chunk, opsets, proto.ir_version, manifest, arena, device)
    decode: dict[str, bytes] = {}
    if manifest.input.width == 1:  # a draw is a whole step
        decode["quantiles"] = _decode(proto, opsets, manifest, arena, arithmetic, device)
    return ServingGraph(
        manifest=renamed,
        arena=arena,
        step=step_model,
        chunk=chunk_model,
        decode=MappingProxyType(decode),
        heads=found,
    )


def _single_step(
    proto: onnx.ModelProto,
    manifest: Manifest,
    arithmetic: Arithmetic,
    *,
    outputs: Sequence[str],
) -> onnx.GraphProto:
    """The part of the graph behind some outputs, for one time step and without lengths.

    Raises:
        ModelError: it has no layer.
    """
    graph = prune(proto.graph, outputs=outputs)
    if not _Rewriter(graph, arithmetic, single_step=True).rewrite():
        raise unrecognised(manifest)
    _settle_time(graph, manifest)
    graph = prune(graph, outputs=outputs)
    _drop_unread(graph)
    return graph


def _decode(
    proto: onnx.ModelProto,
    opsets: list[onnx.OperatorSetIdProto],
    manifest: Manifest,
    arena: tuple[ArenaTensor, ...],
    arithmetic: Arithmetic,
    device: Device,
) -> bytes:
    """A graph that draws a value after each step and reads it in the next.

    First values (batch, 1, 1), uniform (steps, batch, 1) -> ``DECODED`` (steps, batch). A draw is
    the quantile at a uniform level, kept within `bounds`.
    """
    assert manifest.quantiles is not None, "a distribution has them"
    assert isinstance(manifest.input, ValuesInput), "a distribution is one of values"
    name, prediction = manifest.input.name, manifest.prediction
    afterwards = [state.output for state in manifest.states]
    inside = _single_step(
        proto,
        manifest,
        arithmetic,
        outputs=[*afterwards, manifest.quantiles.output, prediction.output],
    )
    body = GraphBuilder(PREFIX + "body.")
    for state in manifest.states:
        body.input(state.input, FLOAT, ["batch", *state.shape])
    body.input(name, FLOAT, ["batch", 1, 1])
    body.input(manifest.quantiles.levels, FLOAT, ["batch", 1])
    body.nodes.extend(inside.node)
    body.initializers.extend(inside.initializer)
    low, high = (body.constant(float(bound)) for bound in bounds(manifest.input))
    drawn = body.node("Clip", manifest.quantiles.output, low, high)  # (batch, 1, 1)
    for state in manifest.states:
        body.output(state.output, FLOAT, ["batch", *state.shape])
    body.output(drawn, FLOAT, ["batch", 1, 1])
    body.output(body.node("Identity", drawn), FLOAT, ["batch", 1, 1])
    body.output(prediction.output, FLOAT, ["batch", 1, prediction.width])

    graph = GraphBuilder(PREFIX + "decode.")
    access = ArenaAccess(graph, device)
    first = graph.input(FIRST, FLOAT, ["batch", 1, 1])
    uniform = graph.input(UNIFORM, FLOAT, ["steps", "batch", 1])
    before = [access.read(tensor) for tensor in arena[:-1]]
    after = [graph.fresh("after") for _ in manifest.states]
    last, path, predictions = (graph.fresh(stem) for stem in ("last", "path", "predictions"))
    graph.nodes_with(
        "Scan",
        *before,
        first,
        uniform,
        outputs=[*after, last, path, predictions],
        body=body.graph("decode_step"),
        num_scan_inputs=1,
    )
    graph.node("Squeeze", path, graph.constant([2, 3]), output=DECODED)
    graph.output(DECODED, FLOAT, ["steps", "batch"])
    for tensor, new in zip(arena[:-1], after, strict=True):
        access.write(tensor, new)
    final = graph.node("Gather", predictions, graph.constant([-1]), axis=0)
    access.write(arena[-1], graph.node("Squeeze", final, graph.constant([0, 2])))
    return helper.make_model(
        graph.graph("decode"), opset_imports=opsets, ir_version=max(proto.ir_version, IR_VERSION)
    ).SerializeToString()


def bounds(values: ValuesInput) -> tuple[np.float32, np.float32]:
    """What a drawn value is kept within: a path that runs away must still be one to read."""
    return (SMALLEST if values.are_positive[0] else -LARGEST), LARGEST


class _Rewriter:
    """Replaces the recurrent operators of one graph, in place."""

    def __init__(
        self, graph: onnx.GraphProto, arithmetic: Arithmetic, *, single_step: bool
    ) -> None:
        self._graph = graph
        self._arithmetic = arithmetic
        self._single_step = single_step
        self._layers = 0

    def rewrite(self) -> int:
        """Replace them all; returns the number of layers."""
        reader = Reader(self._graph)
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(self._graph.node):
            builder = GraphBuilder(f"{PREFIX}recurrent_{index}.")
            if (layer := reader.layer(node)) is not None:
                self._add_layer(builder, node, layer)
            elif (mean := reader.mean(node)) is not None:
                self._add_mean(builder, node, mean)
            else:
                nodes.append(node)
            nodes.extend(builder.nodes)
            self._graph.initializer.extend(builder.initializers)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return self._layers

    def _add_layer(self, builder: GraphBuilder, node: onnx.NodeProto, layer: Layer) -> None:
        layer = replace(layer, is_first=self._layers == 0)
        self._layers += 1
        flat = builder.node("Flatten", node.input[0], axis=2)  # (time * batch, inputs)
        projected = self._arithmetic.project(builder, layer, flat)
        if not self._single_step:
            extent = Steps.of(builder, node.input[0], None)
            projected = extent.by_time(builder, projected)

        def advance(graph: GraphBuilder, given: Sequence[str], before: Sequence[str]) -> list[str]:
            return self._arithmetic.advance(graph, layer, given, before)

        dtype = FLOAT if layer.is_first else self._arithmetic.projected_type
        self._add_path(builder, node, projected, advance, width=layer.hidden, dtype=dtype)

    def _add_mean(self, builder: GraphBuilder, node: onnx.NodeProto, mean: RunningMean) -> None:
        shares = builder.node("Mul", node.input[0], builder.constant(mean.share))
        if self._single_step:
            shares = builder.node("Squeeze", shares, builder.constant([0]))  # (batch, 1)

        def advance(graph: GraphBuilder, given: Sequence[str], before: Sequence[str]) -> list[str]:
            kept = graph.node("Mul", before[0], graph.constant(mean.kept))
            return [graph.node("Add", kept, given[0])]

        self._add_path(builder, node, [shares], advance, width=1, dtype=FLOAT)

    def _add_path(
        self,
        builder: GraphBuilder,
        node: onnx.NodeProto,
        given: Sequence[str],
        advance: Advance,
        *,
        width: int,
        dtype: int,
    ) -> None:
        """Advance the states and lay them out as the operator does."""
        zero, one = builder.constant([0]), builder.constant([1])
        before = [
            builder.node("Squeeze", name, zero) for name in node.input[5:]
        ]  # (batch, width) each
        if self._single_step:
            after = advance(builder, given, before)
            path = builder.node("Unsqueeze", after[0], zero)  # (1, batch, width)
        else:
            steps = Steps.of(builder, given[0], node.input[4])
            name = builder.fresh("scan")
            paths = scan(builder, advance, given, before, name=name, width=width, dtype=dtype)
            after = [last_steps(builder, states, steps) for states in paths]
            path = paths[0]
        builder.node("Unsqueeze", path, one, output=node.output[0])
        for name, rows in zip(node.output[1:], after, strict=True):
            builder.node("Unsqueeze", rows, zero, output=name)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    inputs = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(inputs)


def _settle_time(graph: onnx.GraphProto, manifest: Manifest) -> None:
    """Write one time step where there could be any number: no lengths, no empty tensors.

    Captured graphs must not have either.
    """
    value = next(value for value in graph.input if value.name == manifest.input.name)
    value.type.tensor_type.shape.dim[1].Clear()
    value.type.tensor_type.shape.dim[1].dim_value = 1
    for dim in value.type.tensor_type.shape.dim[:1]:
        dim.dim_param = "batch"
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    inferred = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opsets), data_prop=True
    )
    empty = {
        value.name
        for value in inferred.graph.value_info
        if any(
            dim.HasField("dim_value") and dim.dim_value == 0
            for dim in value.type.tensor_type.shape.dim
        )
    }
    builder = GraphBuilder(f"{PREFIX}now.")
    settled = [_at_one_step(builder, node, empty) for node in graph.node]
    nodes = [node for node in settled if node is not None]
    graph.initializer.extend(builder.initializers)
    if manifest.lengths is not None:
        one = np.ones(1, np.int32)
        graph.initializer.append(numpy_helper.from_array(one, manifest.lengths))
        inputs = [value for value in graph.input if value.name != manifest.lengths]
        del graph.input[:]
        graph.input.extend(inputs)
    del graph.node[:]
    graph.node.extend(nodes)


def _at_one_step(
    builder: GraphBuilder, node: onnx.NodeProto, empty: Collection[str]
) -> onnx.NodeProto | None:
    """What a node is where there is one time step; ``None``: a constant."""
    result = node.output[0]
    match node.op_type:
        case "GatherND":  # a row's last step, of (batch, time, n): the only one
            return helper.make_node("Squeeze", [node.input[0], builder.constant([1])], [result])
        case "GatherElements":  # a row's last values, of (batch, lag + time)
            bounds = [builder.constant([bound]) for bound in (1, np.iinfo(np.int64).max, 1)]
            return helper.make_node("Slice", [node.input[0], *bounds], [result])
        case "Range":  # the numbers of the steps
            builder.constant(np.zeros(1, np.int64), result)
            return None
        case "Concat" if any(name in empty for name in node.input):
            left = [name for name in node.input if name not in empty]
            op = "Identity" if len(left) == 1 else "Concat"
            attributes: dict[str, Any] = {} if op == "Identity" else {"axis": node.attribute[0].i}
            return helper.make_node(op, left, [result], **attributes)
        case _:
            return node
