"""Compiles models without states: they read whole sequences, and nothing is kept of them.

Knows nothing of how a graph is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx
from onnx import helper

from models.compile.portable import cast_inputs, normalised
from models.compile.serving import PREFIX, Precision
from models.errors import ModelError
from models.graph import heads
from models.graph.builder import IR_VERSION, GraphBuilder
from models.graph.lowering import lower_rnn
from models.graph.pruning import prune
from models.manifest import Manifest
from models.repository import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class StatelessGraph:
    """What a runner needs to serve a model without states.

    ``graph`` takes the manifest's input, and the lengths if the manifest names them, and gives
    its prediction, (batch, width) or (batch, time, width). ``heads`` turn predictions into
    answers. ``manifest`` names the inputs as the graph does: tokens are int64 there and lengths
    int32.
    """

    manifest: Manifest
    graph: bytes
    heads: Mapping[str, bytes]


def compile_stateless(model: Model, *, precision: str = Precision.FP32) -> StatelessGraph:
    """Compile a model that reads whole sequences, with its own operators.

    Raises:
        ModelError: the model has states, or cannot be served in this precision.
    """
    try:
        return _compile(model, Precision(precision))
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error


def _compile(model: Model, precision: Precision) -> StatelessGraph:
    manifest = model.manifest
    if manifest.is_streamable:
        raise ModelError("it has states: it is compiled for sessions")
    if precision is Precision.INT8:
        raise ModelError(
            "--precision int8 serves characters and series step by step, and this model reads "
            "whole sequences: serve it with --precision fp32"
        )
    proto = normalised(model.proto)
    graph = prune(proto.graph, outputs=[manifest.prediction.output])
    lower_rnn(graph)
    before = GraphBuilder(PREFIX + "read.")
    renamed = cast_inputs(before, graph, manifest)
    read = {renamed.input.name, renamed.lengths}  # the levels of quantiles belong to the head
    inputs = [value for value in (*graph.input, *before.inputs) if value.name in read]
    whole = helper.make_model(
        helper.make_graph(
            [*before.nodes, *graph.node],
            graph.name,
            inputs,
            graph.output,
            initializer=[*before.initializers, *graph.initializer],
        ),
        opset_imports=proto.opset_import,
        ir_version=max(proto.ir_version, IR_VERSION),
    )
    try:
        onnx.checker.check_model(whole)
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: above 2 GiB
        raise ModelError(f"cannot be compiled for serving: {error}") from error
    return StatelessGraph(
        manifest=renamed,
        graph=whole.SerializeToString(),
        heads=MappingProxyType(heads.heads_of(proto, renamed)),
    )
