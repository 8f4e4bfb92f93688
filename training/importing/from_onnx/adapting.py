"""Rewrites an external graph so that it can be served: states outside, batch first, lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder, tensor_names
from models.graph.pruning import prune
from models.manifest import State
from training.importing.from_onnx.ends import last_at_lengths
from training.importing.from_onnx.external import ExternalGraph, Place, is_recurrent, set_input
from training.importing.from_onnx.probing import Form, Layout, Time
from training.importing.from_onnx.roles import OwnState, Roles

LENGTHS = "lengths"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the served graph is to look."""

    one_hot: int | None
    """Read symbols, so many, and turn them into one-hot values first."""
    with_lengths: bool
    is_tokens: bool
    width: int
    """Numbers per step, where it reads values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A portable graph and the names in it."""

    proto: onnx.ModelProto
    steps: str
    lengths: str | None
    prediction: str
    states: tuple[State, ...]


def opened(graph: ExternalGraph, roles: Roles) -> onnx.ModelProto:
    """The graph with its own states brought out, and no length in any declared shape."""
    proto = _copy(graph.proto)
    for state in roles.own:
        name, after = own_names(graph, state)
        set_input(proto.graph.node[state.place.node], state.place.start, name)
        ends = proto.graph.node[state.place.node].output
        ends.extend([""] * (state.place.end + 1 - len(ends)))
        ends[state.place.end] = ends[state.place.end] or f"{after}.inside"
        proto.graph.node.append(helper.make_node("Identity", [ends[state.place.end]], [after]))
        proto.graph.input.append(helper.make_tensor_value_info(name, FLOAT, [None] * 3))
        proto.graph.output.append(helper.make_tensor_value_info(after, FLOAT, None))
    own = [own_names(graph, state) for state in roles.own]
    states = {**roles.pairs, **dict(own)}
    return _reduced(proto, roles, states)


def closed(
    graph: ExternalGraph,
    roles: Roles,
    *,
    keep: Mapping[str, str],
    starts: Mapping[Place, NDArray[np.float32]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """The graph with zeros where an operator starts from an input, but for the states to keep.

    It takes one row alone where ``starts`` says what some of its operators start from instead,
    (1, hidden).
    """
    proto = _copy(graph.proto)
    for place in graph.places:
        origin = graph.origin(graph.initial(place))
        start = ""
        if place in starts:
            start = f"start.{place.node}.{place.kind}"
            proto.graph.initializer.append(
                numpy_helper.from_array(starts[place][:, np.newaxis], start)
            )
        elif origin not in graph.inputs or origin in keep:
            continue
        set_input(proto.graph.node[place.node], place.start, start)
    return _reduced(proto, roles, keep)


def own_names(graph: ExternalGraph, state: OwnState) -> tuple[str, str]:
    """The names that a state gets as an input and as an output."""
    taken = set(tensor_names(graph.proto.graph))
    name = graph.name_of(state.place)
    while name in taken or f"{name}_next" in taken:
        name = f"own_{name}"
    return name, f"{name}_next"


def adapt(
    opened_proto: onnx.ModelProto,
    graph: ExternalGraph,
    roles: Roles,
    layout: Layout,
    shape: Shape,
) -> Adapted:
    """Write the graph as the manifest's contract has it.

    ``opened_proto`` comes from `opened` or `closed`.
    """
    proto = _copy(opened_proto)
    taken = set(tensor_names(proto.graph))
    before, after = GraphBuilder(_unique("steps.", taken)), GraphBuilder(_unique("rows.", taken))
    lengths = _take_lengths(proto, roles, taken) if shape.with_lengths else None
    dtype = graph.dtype(roles.steps)
    steps = _take_steps(before, roles.steps, layout, shape, taken)
    prediction = _give_prediction(after, roles.prediction, layout, taken, steps)
    outputs = [prediction, *(state.output for state in layout.states)]
    with_all = helper.make_graph(
        [*before.nodes, *proto.graph.node, *after.nodes],
        proto.graph.name or "model",
        [],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        initializer=[*before.initializers, *proto.graph.initializer, *after.initializers],
    )
    pruned = prune(with_all, outputs=outputs)
    timed = lengths is not None or not layout.states
    inputs = [_declared_steps(steps, layout, shape, dtype, timed=timed)]
    if lengths is not None:
        inputs.append(_declared_lengths(lengths, graph, roles))
    inputs += [
        helper.make_tensor_value_info(state.input, FLOAT, _batched(state))
        for state in layout.states
    ]
    pruned.input.extend(inputs)
    del pruned.output[:]
    per_step: list[int | str] = ["batch", "time", layout.width]
    per_row: list[int | str] = ["batch", layout.width]
    whole = layout.form is Form.WHOLE or layout.time is Time.NONE
    pruned.output.append(
        helper.make_tensor_value_info(prediction, FLOAT, per_row if whole else per_step)
    )
    for state in layout.states:
        pruned.output.append(helper.make_tensor_value_info(state.output, FLOAT, _batched(state)))
    model = helper.make_model(
        pruned,
        opset_imports=list(proto.opset_import),
        ir_version=proto.ir_version,
        producer_name=proto.producer_name,
    )
    return Adapted(
        proto=model, steps=steps, lengths=lengths, prediction=prediction, states=layout.states
    )


def _take_steps(
    before: GraphBuilder,
    inside: str,
    layout: Layout,
    shape: Shape,
    taken: set[str],
) -> str:
    """Turn (batch, time, …) into what the graph takes under the name ``inside``."""
    turned = layout.time is not Time.NONE and not layout.batch_first
    if not turned and shape.one_hot is None:
        return inside
    name = x = _unique("tokens" if shape.is_tokens else "values", taken)
    axes = 2 if shape.is_tokens else 3
    if shape.one_hot is not None:
        table = before.constant(np.eye(shape.one_hot, dtype=np.float32), before.fresh("one_hot"))
        x = before.node("Gather", table, x)
        axes = 3
    if turned:
        before.node("Transpose", x, output=inside, perm=[1, 0, 2][:axes])
    else:
        before.node("Identity", x, output=inside)
    return name


def _give_prediction(
    after: GraphBuilder, inside: str, layout: Layout, taken: set[str], steps: str
) -> str:
    """Turn what the graph predicts into (batch, time, width) or (batch, width)."""
    x = inside
    if layout.squeezed:
        x = after.node("Unsqueeze", x, after.constant([-1]))
    if layout.form is Form.FLAT:
        # The steps are batch first by now, whatever the graph has inside.
        axes = after.constant([0, 1] if layout.prediction_batch_first else [1, 0])
        sizes = after.node("Gather", after.node("Shape", steps), axes)
        sizes = after.node("Concat", sizes, after.constant([layout.width]), axis=0)
        x = after.node("Reshape", x, sizes)
    if not layout.prediction_batch_first:
        x = after.node("Transpose", x, perm=[1, 0, 2])
    if x == inside:
        return inside
    return after.node("Identity", x, output=_unique("prediction", taken))


def _take_lengths(
    proto: onnx.ModelProto,
    roles: Roles,
    taken: set[str],
) -> str:
    """The graph's own lengths, or an input that tells every operator where each row ends."""
    if roles.lengths is not None:
        return roles.lengths
    name = _unique(LENGTHS, taken)
    for node in proto.graph.node:
        if is_recurrent(node):
            set_input(node, 4, name)
    last_at_lengths(proto.graph, name)
    return name


def _declared_steps(
    name: str, layout: Layout, shape: Shape, dtype: int, *, timed: bool
) -> onnx.ValueInfoProto:
    axes: list[int | str] = ["batch"]
    if layout.time is not Time.NONE:
        axes.append("time" if timed else 1)
    if shape.is_tokens:
        return helper.make_tensor_value_info(name, INT64 if shape.one_hot else dtype, axes)
    return helper.make_tensor_value_info(name, dtype, [*axes, shape.width])


def _declared_lengths(name: str, graph: ExternalGraph, roles: Roles) -> onnx.ValueInfoProto:
    dtype = INT32 if roles.lengths is None else graph.dtype(roles.lengths)
    return helper.make_tensor_value_info(name, dtype, ["batch"])


def _reduced(proto: onnx.ModelProto, roles: Roles, states: Mapping[str, str]) -> onnx.ModelProto:
    """What the prediction and the states need, with every declared length left open."""
    graph = prune(proto.graph, outputs=[roles.prediction, *states.values()])
    inputs = [v for v in graph.input if v.name in {roles.steps, roles.lengths, *states}]
    del graph.input[:]
    graph.input.extend(inputs)
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}.{axis}"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del proto.graph.input[:]
    proto.graph.CopyFrom(graph)
    return proto


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _unique(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"own_{name}"
    taken.add(name)
    return name


def _batched(state: State) -> Sequence[int | str]:
    axes: list[int | str] = list(state.shape)
    axes.insert(state.batch_axis, "batch")
    return axes
