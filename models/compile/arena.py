"""The arena compiler: from a portable recurrent graph to the graphs that are served.

A serving graph reads the rows of its batch from the arena, runs the model, and scatters the new
rows back into the same buffer (see `models.compile.serving`)::

    read_rows, write_rows, inputs
      Gather(arena, read_rows) -> model -> ScatterND(arena, write_rows, new state)

What `cellar-train` exported is compiled anew: cells as plain products and element-wise operators,
the embedding and the first layer's product folded into one table, a graph for single steps and
one for chunks. A graph of somebody else's, or one that labels sequences, is served as it is, and
its new rows are written once it has run.

Knows nothing of how a graph is run.
"""

from dataclasses import replace
from types import MappingProxyType

import onnx

from models.compile.char_graphs import CharGraphs
from models.compile.portable import normalised
from models.compile.quantised import arithmetic
from models.compile.recognition import char_network
from models.compile.series_graphs import compile_series
from models.compile.serving import Device, Precision, ServingGraph, lay_out
from models.compile.wiring import wire
from models.errors import ModelError
from models.graph import heads
from models.graph.leaning.rewriting import lean_models
from models.graph.lowering import lower_rnn
from models.graph.pruning import prune
from models.manifest import Manifest
from models.repository import Model


def compile_model(
    model: Model, *, precision: str = Precision.FP32, device: str = Device.CPU
) -> ServingGraph:
    """Compile a model for serving.

    Args:
        model: the model.
        precision: ``fp32``, or ``int8`` for recurrent products of 8-bit integers.
        device: ``cpu``, or ``cuda`` for graphs whose single steps can be captured.

    Raises:
        ModelError: the graph cannot be served, or not in this precision on this device.
    """
    try:
        return _compile(model, Precision(precision), Device(device))
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error


def _compile(model: Model, precision: Precision, device: Device) -> ServingGraph:
    manifest = model.manifest
    if not manifest.is_streamable:
        raise ModelError("it has no states: it reads whole sequences, and has no arena")
    if precision is Precision.INT8 and manifest.task not in ("char", "series"):
        raise ModelError(
            "--precision int8 serves the characters and series of cellar-train, and this model "
            "is another one: serve it with --precision fp32"
        )
    if precision is Precision.INT8 and device is Device.CUDA:
        raise ModelError("--precision int8 is for CPUs: serve it with --precision fp32 on a GPU")
    proto = normalised(model.proto)
    if manifest.task == "series":
        return compile_series(proto, manifest, arithmetic(precision, device), device)
    if manifest.task == "char":
        return _compile_char(proto, manifest, precision, device)
    return _compile_as_it_is(proto, manifest, device)


def _compile_char(
    proto: onnx.ModelProto, manifest: Manifest, precision: Precision, device: Device
) -> ServingGraph:
    graphs = CharGraphs(
        network=char_network(proto.graph, manifest),
        manifest=manifest,
        arena=lay_out(manifest),
        arithmetic=arithmetic(precision, device),
        device=device,
    )
    found = ServingGraph(
        manifest=manifest,
        arena=graphs.arena,
        step=graphs.step(),
        recall=graphs.recall(),
        heads=MappingProxyType(heads.token_heads(manifest.prediction.width)),
    )
    if device is Device.CUDA:  # which records steps, and no scans
        return replace(found, heads=lean_models(found.heads))
    return replace(found, chunk=graphs.chunk(), every=graphs.every(), decode=graphs.decode())


def _compile_as_it_is(proto: onnx.ModelProto, manifest: Manifest, device: Device) -> ServingGraph:
    wanted = [manifest.prediction.output, *(state.output for state in manifest.states)]
    graph = prune(proto.graph, outputs=wanted)
    lower_rnn(graph)
    arena = lay_out(manifest)
    # Its operators may fail on what a caller sends, after some of them have run: so it must not
    # write by itself.
    renamed, chunk = wire(
        graph, list(proto.opset_import), proto.ir_version, manifest, arena, device, in_place=False
    )
    return ServingGraph(
        manifest=renamed,
        arena=arena,
        chunk=chunk,
        heads=MappingProxyType(heads.heads_of(proto, renamed)),
        in_place=False,
    )


__all__ = ["ServingGraph", "compile_model"]
