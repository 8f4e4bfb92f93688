"""The arena compiler: what a served graph reads, writes and leaves alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.compile.arena import compile_model
from models.errors import ModelError
from models.manifest import (
    Manifest,
    Prediction,
    PredictionKind,
    State,
    TokensInput,
    ValuesInput,
)
from models.repository import Model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.work.columns import Outputs
from tests.recurrent import char_case, series_case, torch_predictions

SLOTS = 12  # at least the rows of a batch, and some


def make_runner(model: Model) -> CpuRunner:
    runner = CpuRunner(compile_model(model), slots=SLOTS, max_batch=32)
    for array in runner.arena:
        array[:] = np.nan  # what a slot held before must never matter
    return runner


def run(
    runner: CpuRunner,
    tokens: NDArray[np.int64],
    *,
    read: list[int],
    write: list[int],
    fresh: list[bool],
    lengths: list[int] | None = None,
    every_step: bool = False,
) -> NDArray[np.float32]:
    return runner.step(
        read=np.array(read),
        write=np.array(write),
        fresh=np.array(fresh),
        inputs=tokens,
        lengths=np.array(lengths or [tokens.shape[1]] * len(read)),
        every_step=every_step,
    ).copy()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_step_touches_only_its_own_rows(cell: str) -> None:
    runner = make_runner(char_case(cell, layers=2).model)
    for array in runner.arena:
        array[:] = np.arange(SLOTS, dtype=np.float32)[:, None]
    before = [array.copy() for array in runner.arena]
    run(runner, np.array([[1], [2]]), read=[3, 7], write=[3, 7], fresh=[False, True])
    for array, old in zip(runner.arena, before, strict=True):
        changed = np.flatnonzero((array != old).any(axis=1))
        assert set(changed.tolist()) <= {3, 7}
    assert any((a[3] != b[3]).any() for a, b in zip(runner.arena, before, strict=True))


def test_fresh_rows_start_from_the_initial_state_whatever_the_slot_holds() -> None:
    case = char_case()
    runner = make_runner(case.model)  # full of NaN
    tokens = np.array([[4, 5, 6]])
    found = run(runner, tokens, read=[2], write=[2], fresh=[True], every_step=True)
    expected, _ = torch_predictions(case, tokens[0])
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)


def test_reading_one_slot_and_writing_another_forks() -> None:
    runner = make_runner(char_case().model)
    run(runner, np.array([[4]]), read=[0], write=[0], fresh=[True])
    original = [array[0].copy() for array in runner.arena]
    run(runner, np.array([[5]]), read=[0], write=[9], fresh=[False])
    assert all((a[0] == b).all() for a, b in zip(runner.arena, original, strict=True))
    run(runner, np.array([[5]]), read=[0], write=[0], fresh=[False])
    assert all((array[0] == array[9]).all() for array in runner.arena)


def test_the_last_prediction_is_resident() -> None:
    runner = make_runner(char_case().model)
    tokens = np.array([[1, 2, 3], [4, 5, 5]])
    last = run(runner, tokens, read=[0, 1], write=[0, 1], fresh=[True, True], lengths=[3, 2])
    assert np.array_equal(runner.recall(np.array([0, 1])), last)
    copies = np.array([5, 6])
    runner.copy(1, copies)
    assert np.array_equal(runner.recall(copies), last[[1, 1]])


@pytest.mark.parametrize("initial", [0.5, (0.25, -4.0)])
@pytest.mark.parametrize("batch_axis", [0, 1])
def test_a_foreign_graph_of_single_steps_with_any_batch_axis(
    batch_axis: int, initial: float | tuple[float, ...]
) -> None:
    """A sum that decays, written by hand: no time axis, no lengths, state on either axis."""
    runner = make_runner(decaying_sum(batch_axis, initial=initial))
    total = np.full(2, initial, np.float32)  # what its manifest names
    for value in (1.0, 2.0, -3.0):
        found = runner.step(
            read=np.array([4]),
            write=np.array([4]),
            fresh=np.array([value == 1.0]),
            inputs=np.array([[[value]]], np.float32),
            lengths=np.array([1]),
            every_step=False,
        )
        total = total * np.float32(0.5) + np.float32(value)
        assert np.array_equal(found[0], total)
    assert np.array_equal(runner.arena[0][4], total)


def two(model: Model) -> list[float]:
    """What a graph with the decaying sum says to a first value of 2."""
    found = make_runner(model).step(
        read=np.array([0]),
        write=np.array([0]),
        fresh=np.array([True]),
        inputs=np.array([[[2.0]]], np.float32),
        lengths=np.array([1]),
        every_step=False,
    )
    values: list[float] = found[0].tolist()
    return values


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_an_old_opset_is_brought_up_to_date(opset: int) -> None:
    model = decaying_sum(0)
    model.proto.opset_import[0].version = opset
    assert two(model) == [2.25, 2.25]


@pytest.mark.parametrize("opset", [9, 13])
def test_initializers_that_are_inputs_too_are_constants(opset: int) -> None:
    """As every file had them before IR version 4, those that nothing reads included."""
    model = decaying_sum(0)
    model.proto.ir_version = 3
    model.proto.opset_import[0].version = opset
    unread = numpy_helper.from_array(np.array(1, np.float32), "unread")
    model.proto.graph.initializer.append(unread)
    for name in ("half", "unread"):
        model.proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    onnx.checker.check_model(model.proto)
    assert two(model) == [2.25, 2.25]


@pytest.mark.parametrize("opset", [11, 17])
def test_local_functions_are_served(opset: int) -> None:
    model = decaying_sum(0)
    standard = helper.make_opsetid("", opset)
    model.proto.functions.append(
        helper.make_function(
            "own",
            "Decay",
            ["a", "b"],
            ["c"],
            [helper.make_node("Mul", ["a", "b"], ["c"])],
            [standard],
        )
    )
    del model.proto.opset_import[:]
    model.proto.opset_import.extend([standard, helper.make_opsetid("own", 1)])
    node = next(node for node in model.proto.graph.node if node.op_type == "Mul")
    node.op_type, node.domain = "Decay", "own"
    onnx.checker.check_model(model.proto)
    assert two(model) == [2.25, 2.25]


def test_local_functions_and_old_files_have_quantiles_too() -> None:
    """The head is cut from the same graph: make the last operator in it a local function."""
    case = series_case()
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model.proto)
    node = [node for node in proto.graph.node if node.op_type == "Exp"][-1]
    node.op_type, node.domain = "Own", "own"
    body = [helper.make_node("Exp", ["a"], ["b"])]
    standard = [entry for entry in proto.opset_import if not entry.domain]
    proto.functions.append(helper.make_function("own", "Own", ["a"], ["b"], body, standard))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        shape = list(tensor.dims)
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
        )
    served = replace(case.model, proto=proto)
    levels = np.array([[0.1, 0.5, 0.9]], np.float32)
    found = []
    for model in (case.model, served):
        runner = make_runner(model)
        predictions = runner.step(
            read=np.array([0]),
            write=np.array([0]),
            fresh=np.array([True]),
            inputs=np.array([[[2.0], [3.0]]], np.float32),
            lengths=np.array([2]),
            every_step=False,
        )
        outputs = Outputs(quantiles=tuple(levels[0].tolist()))
        found.append(runner.answer(predictions, outputs, None, np.array([2])).quantiles)
    assert found[0] is not None
    assert found[1] is not None
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("tokens", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("lengths", [TensorProto.INT32, TensorProto.INT64])
def test_tokens_and_lengths_of_either_integer_are_served(tokens: int, lengths: int) -> None:
    case = char_case()
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model.proto)
    for value in proto.graph.input:
        if value.name == "tokens":
            value.type.tensor_type.elem_type = tokens
        if value.name == "lengths":  # the operators want int32
            value.type.tensor_type.elem_type = lengths
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == "lengths":
                node.input[index] = "lengths_32"
    proto.graph.node.insert(
        0, helper.make_node("Cast", ["lengths"], ["lengths_32"], to=TensorProto.INT32)
    )
    ids = np.array([[4, 5, 6], [7, 8, 8]])
    found = [
        run(
            make_runner(model),
            ids,
            read=[0, 1],
            write=[0, 1],
            fresh=[True, True],
            lengths=[3, 2],
        )
        for model in (case.model, replace(case.model, proto=proto))
    ]
    assert np.array_equal(found[0], found[1])


def test_names_of_the_server_are_refused() -> None:
    model = decaying_sum(0)
    for node in model.proto.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == "decayed":
                    names[index] = "cellar.read_slots"
    with pytest.raises(ModelError, match=r"sum.onnx: tensor 'cellar.read_slots': .* rename it"):
        compile_model(model)


@pytest.mark.parametrize("constant_nodes", [True, False])
def test_rows_of_an_rnn_are_independent_however_its_weights_are_written(
    constant_nodes: bool,
) -> None:
    model = char_case("rnn", hidden=128).model
    if constant_nodes:
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        constants = [
            helper.make_node("Constant", [], [tensor.name], value=tensor)
            for tensor in proto.graph.initializer
        ]
        nodes = [*constants, *proto.graph.node]
        del proto.graph.initializer[:]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        model = replace(model, proto=proto)
    together, alone = make_runner(model), make_runner(model)
    tokens = np.arange(30).reshape(10, 3) % 27
    rows = list(range(10))
    found = run(together, tokens, read=rows, write=rows, fresh=[True] * 10)
    for row in rows:
        mine = run(alone, tokens[row : row + 1], read=[row], write=[row], fresh=[True])
        assert np.array_equal(mine[0], found[row])


def decaying_sum(batch_axis: int, *, initial: float | tuple[float, ...] = 0.5) -> Model:
    shape: list[int | str] = [2]
    shape.insert(batch_axis, "batch")
    nodes = [helper.make_node("Mul", ["total", "half"], ["decayed"])]
    x = "x"
    if batch_axis == 1:
        nodes.append(helper.make_node("Transpose", ["x"], ["x_by_batch"], perm=[1, 0]))
        x = "x_by_batch"
    nodes.append(helper.make_node("Add", ["decayed", x], ["total_next"]))
    perm = [1, 0] if batch_axis == 1 else [0, 1]
    nodes.append(helper.make_node("Transpose", ["total_next"], ["y"], perm=perm))
    graph = helper.make_graph(
        nodes,
        "decaying_sum",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("total_next", TensorProto.FLOAT, shape),
        ],
        initializer=[numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    return Model(
        name="sum",
        version=1,
        manifest=Manifest(
            name="sum",
            input=ValuesInput(name="x", features=("value",)),
            states=(
                State(
                    input="total",
                    output="total_next",
                    shape=(2,),
                    batch_axis=batch_axis,
                    initial=initial,
                ),
            ),
            prediction=Prediction(output="y", kind=PredictionKind.RAW, width=2),
        ),
        proto=helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        fingerprint="",
        path=Path("sum.onnx"),
    )


def test_a_compiled_graph_is_valid_and_needs_no_weights_twice() -> None:
    case = char_case("lstm", layers=2)
    graph = compile_model(case.model)
    assert graph.step is not None
    for part in (graph.step, graph.chunk):
        onnx.checker.check_model(onnx.load_from_string(part))
        assert len(part) < 1.2 * len(case.model.proto.SerializeToString()) + 8192
    assert isinstance(case.manifest.input, TokensInput)
    assert {tensor.shape for tensor in graph.arena} == {(16,)}
    assert case.manifest.session_bytes == 4 * 4 * 16
