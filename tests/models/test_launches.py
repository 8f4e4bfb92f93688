"""What a GPU launches for a graph is little, and comes to what the exported graph does."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.compile.arena import compile_model
from models.compile.serving import ServingGraph
from service.engine.execution.cuda.graphs import move, runnable, scatter
from service.engine.execution.runtime import CPU, open_session
from tests.models.test_series_graphs import CASES, inputs_of, model_of, network_of
from tests.recurrent import Case, char_case, series_case
from tests.service.engine.execution.cuda.bench import Play, cpu_runner, device_runner, resident

LAYOUTS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
"""They are nothing but another name for a tensor, unless a caller is given it."""


def launches(model: bytes | None) -> Counter[str]:
    """Kernels and copies of one run, as ONNX Runtime's CUDA provider is seen to do it.

    A Gemm with something added copies that first.
    """
    assert model is not None
    graph = onnx.load_from_string(runnable(model)).graph
    given = {value.name for value in graph.output}
    found = Counter(
        node.op_type
        for node in graph.node
        if node.op_type not in LAYOUTS or given & set(node.output)
    )
    found["copies for Gemm"] = sum(
        node.op_type == "Gemm" and len(node.input) > 2 for node in graph.node
    )
    return found


def case_of(kind: str, cell: str) -> Case:
    return (char_case if kind == "char" else series_case)(cell, layers=2)


def on_cuda(case: Case) -> ServingGraph:
    return compile_model(case.model, device="cuda")


@pytest.mark.parametrize(
    ("kind", "cell", "expected"),
    [
        ("char", "lstm", 35),
        ("char", "gru", 35),
        ("char", "rnn", 15),
        ("series", "lstm", 94),
        ("series", "gru", 95),
        ("series", "rnn", 74),
    ],
)
def test_a_step_is_few_launches(kind: str, cell: str, expected: int) -> None:
    found = launches(on_cuda(case_of(kind, cell)).step)
    assert found.total() == expected, found


def test_heads_are_few_launches() -> None:
    heads = {**on_cuda(case_of("char", "lstm")).heads, **on_cuda(case_of("series", "lstm")).heads}
    assert {name: launches(head).total() for name, head in heads.items()} == {
        "argmax": 2,
        "top_k": 3,
        "probabilities": 1,
        "sample": 10,
        "sample_filtered": 18,
        "quantiles": 44,
    }
    assert launches(on_cuda(case_of("char", "lstm")).recall).total() == 3


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("kind", ["char", "series"])
def test_a_product_copies_nothing_but_a_bias(kind: str, cell: str) -> None:
    step = on_cuda(case_of(kind, cell)).step
    assert step is not None
    graph = onnx.load_from_string(step).graph
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm":
            assert len(constants[node.input[2]]) == 1, "rows are added by themselves"


@pytest.mark.parametrize("kind", ["char", "series"])
def test_an_index_is_computed_once_for_each_shape(kind: str) -> None:
    graph = on_cuda(case_of(kind, "lstm"))
    sources = [f"new_{number}" for number in range(len(graph.arena))]
    shapes = {tensor.shape for tensor in graph.arena if np.prod(tensor.shape) > 1}
    for model in (graph.step, move(graph.arena), scatter(graph.arena, sources)):
        assert model is not None
        proto = onnx.load_from_string(model).graph
        zeros = {
            tensor.name
            for tensor in proto.initializer
            if tensor.data_type == onnx.TensorProto.INT64
            and not numpy_helper.to_array(tensor).any()
        }
        added = [node for node in proto.node if node.op_type == "Add" and zeros & {*node.input}]
        assert len(added) == len(shapes)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", ["char", "series"])
def test_only_what_a_device_runs_is_compiled_for_it(kind: str, device: str) -> None:
    graph = compile_model(case_of(kind, "gru").model, device=device)
    assert graph.step is not None
    assert bool(graph.chunk) is bool(graph.decode) is (device == "cpu")
    assert (graph.every is not None) is (device == "cpu" and kind == "char")
    assert (graph.recall is not None) is (kind == "char")


MODELS = {
    **{
        f"{kind} {cell}": case_of(kind, cell).model
        for kind in ("char", "series")
        for cell in ("lstm", "gru")
    },
    **{name: model_of(network_of(name)) for name in CASES},
}


def reads_and_writes(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """What reads a tensor of the arena, each with what writes it."""
    writes = {node.input[0]: node for node in graph.node if node.op_type.startswith("Scatter")}
    return [
        (node, writes[name])
        for node in graph.node
        for name in node.input
        if name in writes and node is not writes[name]
    ]


@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_writes_hang_on_what_reads_before_them(name: str) -> None:
    step = compile_model(MODELS[name], device="cuda").step
    assert step is not None
    graph = onnx.load_from_string(step).graph
    makers = {output: node for node in graph.node for output in node.output}

    def behind(node: onnx.NodeProto) -> set[str]:
        found = set(node.output)
        for read in node.input:
            found |= behind(makers[read]) if read in makers else set()
        return found

    pairs = reads_and_writes(graph)
    assert pairs
    for read, write in pairs:
        assert set(read.output) <= behind(write), f"{write.input[0]} may be written first"


@pytest.mark.parametrize("name", MODELS)
def test_on_the_cpu_rows_are_read_before_they_are_written(name: str, tmp_path: Path) -> None:
    """In the order that the runtime has chosen: a column's last value hangs on no earlier one."""
    step = compile_model(MODELS[name]).step
    assert step is not None
    proto = onnx.load_from_string(step)
    for node in proto.graph.node:
        node.name = node.output[0]
    prefix = str(tmp_path / "profile")
    session = open_session(proto.SerializeToString(), profile_prefix=prefix)
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        is_float = value.type == "tensor(float)"
        feeds[value.name] = np.ones(shape, np.float32) if is_float else np.zeros(shape, np.int64)
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    ran = [event["name"] for event in events if event["name"].endswith("_kernel_time")]
    pairs = reads_and_writes(proto.graph)
    assert pairs
    for read, write in pairs:
        places = [ran.index(f"{node.name}_kernel_time") for node in (read, write)]
        assert places == sorted(places), f"{write.input[0]} is written first"


@pytest.mark.parametrize("name", CASES)
def test_steps_come_to_what_they_come_to_on_the_cpu(name: str) -> None:
    """With jumps by ten decades, and changes in the last digits."""
    network = network_of(name)
    model, inputs = MODELS[name], inputs_of(network)
    inputs[1, 4:9, 0] *= np.float32(1e10)
    inputs[2, :, 0] = 50 * (1 + np.float32(2**-23) * np.arange(inputs.shape[1]))
    players = [Play(device_runner(model, CPU)), Play(cpu_runner(model))]
    slots = np.arange(len(inputs))
    for step in range(inputs.shape[1]):
        found, expected = (
            np.array(play.step(slots, inputs[:, step : step + 1], fresh=step == 0))
            for play in players
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=f"step {step}")
    states = (resident(play.runner) for play in players)
    for mine, theirs in zip(*states, strict=True):
        there = mine[slots], theirs[slots]
        np.testing.assert_allclose(*there, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["series lstm", *CASES])
def test_quantiles_are_those_of_the_exported_graph(name: str) -> None:
    model = MODELS[name]
    predict = model.manifest.prediction.output
    assert model.manifest.quantiles is not None
    dice = np.random.default_rng(5)
    shape = np.exp(dice.uniform(-1, 1, (64, 1, 6)))
    shape[..., [0, 2]] = dice.uniform(-3, 3, (64, 1, 2))
    shape[..., 4] *= 100
    shape[..., 5] *= 0.02
    edges = [1e-30, 1e-9, 1e-4, 0.0749, 0.075, 0.0751, 0.5, 0.9249, 0.925, 0.9999, 1 - 1e-7]
    levels = np.tile(np.array([*edges, *dice.uniform(0, 1, 21)], np.float32), (64, 1))
    feeds = {predict: shape.astype(np.float32), model.manifest.quantiles.levels: levels}
    expected, found = (
        open_session(runnable(compile_model(model, device=device).heads["quantiles"])).run(
            None, feeds
        )[0]
        for device in ("cpu", "cuda")
    )
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
