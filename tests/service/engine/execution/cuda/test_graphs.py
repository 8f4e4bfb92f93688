"""What a graph becomes before a GPU runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.compile.arena import compile_model
from models.graph.builder import FLOAT, GraphBuilder
from service.engine.execution.cuda.graphs import runnable
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.cuda.steps import bind_steps, open_steps, record
from service.engine.execution.devices import probe
from service.engine.execution.runtime import CPU, Block, Place, open_session, run_to_host
from tests.service.engine.execution.cuda.bench import (
    CASES,
    MAX_BATCH,
    Array,
    Play,
    case_of,
    device_runner,
    some_inputs,
)


def test_asinh_is_written_out(place: Place) -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n"])
    graph.node("Asinh", "x", output="y")
    graph.output("y", FLOAT, ["n"])
    model = runnable(graph.model("asinh").SerializeToString())
    assert not _has(model, "Asinh")
    sizes = np.logspace(-30, 38, 2000).astype(np.float32)
    x = np.concatenate([-sizes, [0.0], sizes]).astype(np.float32)
    session = open_session(model, place, gpu_only=True)
    found = run_to_host(session, {"x": x}, {}, fetched=["y"])["y"]
    np.testing.assert_allclose(found, np.arcsinh(x.astype(np.float64)), rtol=1e-6, atol=1e-15)


def test_what_needs_no_change_is_left_alone() -> None:
    step = compile_model(case_of("char").model, device="cuda").step
    assert step is not None
    assert runnable(step) is step


def _has(model: bytes, op: str) -> bool:
    return any(node.op_type == op for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize(("kind", "cell"), CASES)
def test_steps_hold_nothing_that_cannot_be_recorded(kind: str, cell: str) -> None:
    """Control flow, recurrent operators, computed shapes, random numbers; unequal parts."""
    graph = compile_model(case_of(kind, cell).model, device="cuda")
    assert graph.step is not None
    proto = onnx.load_from_string(runnable(graph.step))
    operators = {node.op_type for node in proto.graph.node}
    barred = {"Scan", "Loop", "If", "LSTM", "GRU", "RNN", "Shape", "Size", "NonZero", "ScatterND"}
    assert not operators & {*barred, "Range", "Expand", "RandomUniform", "Asinh"}
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    for node in inferred.node:
        if node.op_type in ("Concat", "Split"):
            parts = node.input if node.op_type == "Concat" else node.output
            assert len({tuple(shapes[name]) for name in parts}) == 1, node


def test_the_probe_passes(place: Place) -> None:
    probe(place)


@pytest.mark.parametrize("kind", ["char", "series"])
def test_all_nodes_run_on_the_device(kind: str, place: Place, tmp_path: Path) -> None:
    """And none of them copies between devices."""
    runner = device_runner(case_of(kind).model, place)
    graph = compile_model(case_of(kind).model, device="cuda")
    assert graph.step is not None
    session = open_steps(runnable(graph.step), place, profile_prefix=str(tmp_path / "profile"))
    buckets = {size: bucket for size, (bucket, _) in runner.recorded.items()}
    for size, bound in bind_steps(session, runner.arena, buckets).items():
        rows = np.arange(size)
        buckets[size].place_step(rows, rows, runner.blank(size)[:, 0])
        bound.run_eagerly()
    events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    nodes = [event["args"] for event in events if "provider" in event.get("args", {})]
    assert {node["op_name"] for node in nodes} >= {"Gather", "ScatterElements"}
    assert {node["provider"] for node in nodes} == {place.provider}
    assert not [node for node in nodes if node["op_name"].startswith("Memcpy")]


def test_blocks_know_their_bounds(place: Place) -> None:
    block = Block(place, (3, 4), np.float32)
    block.write(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert block.read()[1].tolist() == [4, 5, 6, 7]
    with pytest.raises(ValueError, match="do not lie in"):
        block.view(4, (3, 3))
    with pytest.raises(ValueError, match="is not float32"):
        block.write(np.zeros((3, 4)))


@pytest.mark.parametrize("kind", ["char", "series"])
def test_replays_are_eager_runs(kind: str, place: Place) -> None:
    """Bit for bit, at every size; for 1,000 steps where replays are real."""
    model = case_of(kind).model
    steps = 12 if place == CPU else 1000
    for size in device_runner(model, place).sizes:
        replayed, eager = (device_runner(model, place) for _ in range(2))
        inputs = some_inputs(kind, size, steps, seed=size)
        slots = np.arange(size)
        play = Play(replayed)
        for step in range(steps):
            found = play.step(slots, inputs[:, step : step + 1], fresh=step == 0)
            expected = _run_eagerly(eager, slots, inputs[:, step], fresh=step == 0)
            assert np.array_equal(found, expected), f"size {size}, step {step}"
        for mine, theirs in zip(replayed.arena.copied(), eager.arena.copied(), strict=True):
            assert np.array_equal(mine[:MAX_BATCH], theirs[:MAX_BATCH])


def _run_eagerly(runner: CudaRunner, slots: Array, inputs: Array, *, fresh: bool) -> Array:
    bucket, bound = runner.recorded[len(slots)]
    read = np.full(len(slots), runner.arena.initial) if fresh else slots
    bucket.place_step(read, slots, inputs)
    bound.run_eagerly()
    return bucket.copied()


def test_recording_writes_the_scratch_row_only(place: Place) -> None:
    runner = device_runner(case_of("char").model, place)
    noise = np.random.default_rng(3)
    canaries = [
        noise.normal(size=array.shape).astype(np.float32) for array in runner.arena.copied()
    ]
    runner.arena.load(canaries)
    record(
        {size: bound for size, (_, bound) in runner.recorded.items()},
        runner.arena,
        {size: bucket for size, (bucket, _) in runner.recorded.items()},
    )
    for before, after in zip(canaries, runner.arena.copied(), strict=True):
        changed = np.flatnonzero((before != after).any(axis=1))
        assert set(changed.tolist()) <= {runner.arena.scratch}
