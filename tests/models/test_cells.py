"""What the compiler makes of exported models: one arithmetic for steps, chunks and decoding."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.compile.arena import compile_model
from models.compile.quantised import Quantised
from models.compile.series_graphs import bounds
from models.errors import ModelError
from models.graph.builder import FLOAT, GraphBuilder
from models.manifest import Manifest, ValuesInput
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.runner import Runner
from service.engine.execution.runtime import CPU, open_session
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Draws, Sampling, path_seeds
from tests.recurrent import Case, char_case, series_case, torch_predictions

SLOTS = 8
CELLS = ["lstm", "gru", "rnn"]
PRECISIONS = ["fp32", "int8"]
SERVED = [(cell, precision) for cell in CELLS for precision in PRECISIONS] + [("relu", "fp32")]
"""A relu RNN has no int8: nothing bounds its h."""


@cache
def make_case(task: str, cell: str, layers: int, hidden: int = 19) -> Case:
    make = char_case if task == "char" else series_case
    return make(cell, layers=layers, hidden=hidden)


@cache
def make_runner(task: str, cell: str, layers: int, precision: str) -> CpuRunner:
    graph = compile_model(make_case(task, cell, layers).model, precision=precision)
    return CpuRunner(graph, slots=SLOTS, max_batch=64)


@cache
def make_any_runner(task: str, cell: str, layers: int, device: str) -> Runner:
    """The graphs for a GPU on the CPU, too."""
    if device == "cpu":
        return make_runner(task, cell, layers, "fp32")
    graph = compile_model(make_case(task, cell, layers).model, device=device)
    return CudaRunner(graph, slots=SLOTS, max_batch=64, place=CPU, deterministic=True)


def sequences(task: str, rows: int, steps: int, seed: int) -> NDArray[np.int64 | np.float32]:
    dice = np.random.default_rng(seed)
    if task == "char":
        return dice.integers(0, 27, (rows, steps))
    walk = 100 * np.exp(np.cumsum(dice.normal(0, 0.02, (rows, steps)), axis=1))
    return walk.astype(np.float32)[..., None]


def advance(
    runner: Runner,
    slots: NDArray[np.int64],
    inputs: NDArray[np.int64 | np.float32],
    *,
    fresh: bool,
    lengths: NDArray[np.int64] | None = None,
    every_step: bool = False,
) -> NDArray[np.float32]:
    rows, steps = inputs.shape[:2]
    found = runner.step(
        read=slots,
        write=slots,
        fresh=np.full(rows, fresh),
        inputs=inputs,  # type: ignore[arg-type]
        lengths=np.full(rows, steps) if lengths is None else lengths,
        every_step=every_step,
    )
    return found.copy()


def state_of(runner: CpuRunner, slot: int) -> list[NDArray[np.float32]]:
    return [rows[slot].copy() for rows in runner.arena]


@pytest.mark.parametrize(("cell", "precision"), SERVED)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("task", ["char", "series"])
@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=SLOTS),
    seed=st.integers(0, 2**16),
)
def test_a_chunk_has_the_bits_of_its_single_steps_in_any_company(
    task: str, cell: str, layers: int, precision: str, lengths: list[int], seed: int
) -> None:
    runner = make_runner(task, cell, layers, precision)
    for array in runner.arena:
        array[:] = np.nan  # what a slot held before must never matter
    slots = np.random.default_rng(seed).permutation(SLOTS)[: len(lengths)]
    inputs = sequences(task, len(lengths), max(lengths), seed)
    counts = np.array(lengths)
    every = advance(runner, slots, inputs, fresh=True, lengths=counts, every_step=True)
    states = [state_of(runner, slot) for slot in slots.tolist()]
    last = advance(runner, slots, inputs, fresh=True, lengths=counts)
    for row, length in enumerate(lengths):
        alone = slots[row : row + 1]
        for t in range(length):
            mine = advance(runner, alone, inputs[row : row + 1, t : t + 1], fresh=t == 0)
            assert np.array_equal(mine[0], every[row, t])
        assert np.array_equal(mine[0], last[row])
        for mine_state, theirs in zip(state_of(runner, int(alone[0])), states[row], strict=True):
            assert np.array_equal(mine_state, theirs)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", [*CELLS, "relu"])
@pytest.mark.parametrize("task", ["char", "series"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_computes_what_torch_does(device: str, task: str, cell: str, layers: int) -> None:
    case = make_case(task, cell, layers)
    runner = make_any_runner(task, cell, layers, device)
    inputs = sequences(task, 3, 7, 1)
    slots = np.array([5, 0, 2])
    every = advance(runner, slots, inputs, fresh=True, every_step=True)
    for row, slot in enumerate(slots.tolist()):
        flat = inputs[row] if task == "char" else inputs[row, :, 0]
        expected, states = torch_predictions(case, flat)  # type: ignore[arg-type]
        np.testing.assert_allclose(every[row], expected, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(runner.read(np.array([slot])), states, strict=False):
            np.testing.assert_allclose(mine[0], theirs, rtol=1e-5, atol=1e-5)
    for t in range(7):
        mine = advance(runner, slots, inputs[:, t : t + 1], fresh=t == 0)
        assert np.array_equal(mine, every[:, t])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_int8_stays_near(cell: str, layers: int) -> None:
    case = make_case("char", cell, layers)
    inputs = sequences("char", SLOTS, 8, 2)
    slots = np.arange(SLOTS)
    found = advance(
        make_runner("char", cell, layers, "int8"), slots, inputs, fresh=True, every_step=True
    )
    for row in range(SLOTS):
        expected, _ = torch_predictions(case, inputs[row])
        assert np.abs(found[row] - expected).max() < 0.03
        assert not np.array_equal(found[row], expected)


def test_a_relu_rnn_has_no_int8() -> None:
    with pytest.raises(ModelError, match="relu RNN has no bound: serve it with --precision fp32"):
        compile_model(make_case("char", "relu", 1).model, precision="int8")


@pytest.mark.parametrize(("cell", "precision"), SERVED)
def test_a_prediction_is_recalled_with_its_bits(cell: str, precision: str) -> None:
    runner = make_runner("char", cell, 2, precision)
    slots = np.array([6, 1, 3])
    last = advance(
        runner, slots, sequences("char", 3, 5, 3), fresh=True, lengths=np.array([5, 2, 1])
    )
    assert np.array_equal(runner.recall(slots), last)
    assert np.array_equal(runner.recall(slots[1:2])[0], last[1])
    runner.copy(1, np.array([4, 7]))
    assert np.array_equal(runner.recall(np.array([7, 4])), last[[1, 1]])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_rows_have_the_bits_of_few(precision: str) -> None:
    """Above some hundred rows, a run goes in pieces."""
    graph = compile_model(make_case("char", "lstm", 2).model, precision=precision)
    rows = 700
    runner = CpuRunner(graph, slots=rows, max_batch=rows)
    slots = np.random.default_rng(1).permutation(rows)
    inputs = sequences("char", rows, 2, 9)
    for t in range(2):
        found = advance(runner, slots, inputs[:, t : t + 1], fresh=t == 0)
    for start in range(0, rows, 70):
        few = slice(start, start + 70)
        for t in range(2):
            mine = advance(runner, slots[few], inputs[few, t : t + 1], fresh=t == 0)
        assert np.array_equal(mine, found[few])


def test_8_bit_products_are_exact_at_their_extremes() -> None:
    """Some CPUs saturate sums of pairs in 16 bits, in silence: the ranges leave no room for it."""
    graph = GraphBuilder()
    graph.input("h", FLOAT, ["rows", 64])
    weights = np.ones((64, 32), np.float32)
    weights[:, 16:] = -1
    Quantised().head(graph, weights, np.zeros(32, np.float32), "h", "y")
    graph.output("y", FLOAT, ["rows", 32])
    session = open_session(graph.model("extremes").SerializeToString())
    for h in (1.0, -1.0):
        (found,) = session.run(None, {"h": np.full((3, 64), h, np.float32)})
        np.testing.assert_allclose(found, h * np.tile(weights.sum(axis=0), (3, 1)), rtol=1e-6)


SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(top_k=3),
    Sampling(temperature=0.0),
    Sampling(top_p=0.8, temperature=1.3),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_decoding_is_single_steps_and_draws(cell: str, layers: int, precision: str) -> None:
    runner = make_runner("char", cell, layers, precision)
    steps, rows = 9, len(SAMPLINGS)
    draws = replace(
        Draws.joined([Draws.repeated(sampling, 1) for sampling in SAMPLINGS]),
        seed=path_seeds(4, rows),
    )
    slots = np.array([7, 0, 3, 2, 5])
    first = np.arange(rows) * 4
    decoded = runner.decode(
        read=slots,
        write=slots,
        fresh=np.arange(rows) >= 0,
        inputs=first,
        positions=np.full(rows, 1),
        draws=draws,
        steps=steps,
    )
    states = [state_of(runner, slot) for slot in slots.tolist()]
    for row in range(rows):
        token = first[row : row + 1]
        one = slots[row : row + 1]
        for t in range(steps):
            prediction = advance(runner, one, token[:, None], fresh=t == 0)
            answers = runner.answer(
                prediction, Outputs(sample=True), draws.take(slice(row, row + 1)), np.array([t + 1])
            )
            assert answers.sampled_tokens is not None
            token = answers.sampled_tokens.astype(np.int64)
            assert token[0] == decoded[row, t]
        for mine, theirs in zip(state_of(runner, int(one[0])), states[row], strict=True):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_decoding_values_is_single_steps_and_draws(cell: str, layers: int, precision: str) -> None:
    runner = make_runner("series", cell, layers, precision)
    steps, rows = 7, 3
    draws = replace(Draws.repeated(Sampling(), rows), seed=path_seeds(6, rows))
    slots = np.array([4, 7, 1])
    seen = sequences("series", rows, 5, 8)  # what the sessions have read before
    advance(runner, slots, seen[:, :4], fresh=True)
    start = [[array[slot].copy() for array in runner.arena] for slot in slots.tolist()]
    decoded = runner.decode(
        read=slots,
        write=slots,
        fresh=np.zeros(rows, np.bool_),
        inputs=seen[:, 4].astype(np.float32),
        positions=np.full(rows, 5),
        draws=draws,
        steps=steps,
    )
    assert decoded.dtype == np.float32
    states = [state_of(runner, slot) for slot in slots.tolist()]
    for row, slot in enumerate(slots.tolist()):
        for array, rows_before in zip(runner.arena, start[row], strict=True):
            array[slot] = rows_before
        value = seen[row : row + 1, 4:5]
        own = draws.take(slice(row, row + 1))
        for t in range(steps):
            prediction = advance(runner, slots[row : row + 1], value, fresh=False)
            answers = runner.answer(prediction, Outputs(sample=True), own, np.array([5 + t]))
            assert answers.sampled_values is not None
            assert answers.sampled_values[0] == decoded[row, t]
            value = answers.sampled_values[:, None, None]
        for mine, theirs in zip(state_of(runner, slot), states[row], strict=True):
            assert np.array_equal(mine, theirs)


def test_values_that_run_away_are_kept_within_what_the_model_takes() -> None:
    for positive, low in ((True, np.float32(1e-37)), (False, np.float32(-1e37))):
        assert bounds(ValuesInput(features=("x",), positive=positive)) == (low, np.float32(1e37))


def test_a_draw_hangs_on_its_own_parameters_alone() -> None:
    runner = make_runner("char", "lstm", 1, "fp32")
    logits = np.random.default_rng(0).normal(size=(10, 27)).astype(np.float32)
    draws = Draws.joined([Draws.repeated(sampling, 2) for sampling in SAMPLINGS])
    positions = np.arange(10)
    wanted = Outputs(sample=True)
    together = runner.answer(logits, wanted, draws, positions).sampled_tokens
    assert together is not None
    for row in range(10):
        own = slice(row, row + 1)
        alone = runner.answer(logits[own], wanted, draws.take(own), positions[own])
        assert alone.sampled_tokens is not None
        assert alone.sampled_tokens[0] == together[row]


def operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from operators(attribute.g)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("task", ["char", "series"])
def test_single_steps_on_cuda_can_be_captured(task: str, cell: str) -> None:
    graph = compile_model(make_case(task, cell, 2).model, device="cuda")
    assert graph.step is not None
    model = onnx.load_from_string(graph.step)
    found = set(operators(model.graph))
    assert not found & {"LSTM", "GRU", "RNN", "Scan", "Loop", "If", "ScatterND"}
    assert not found & {"Shape", "Range", "Expand"}, "sizes are made on the host"
    assert "ScatterElements" in found


def test_single_steps_know_no_lengths() -> None:
    for task in ("char", "series"):
        graph = compile_model(make_case(task, "gru", 1).model)
        assert graph.step is not None
        names = {value.name for value in onnx.load_from_string(graph.step).graph.input}
        assert "lengths" not in names


def as_task(case: Case, task: str) -> Case:
    manifest: Manifest = case.manifest.model_copy(update={"task": task})
    return replace(case, model=replace(case.model, manifest=manifest))


def test_int8_refuses_what_cellar_train_did_not_export() -> None:
    case = as_task(make_case("char", "lstm", 1), "foreign")
    with pytest.raises(ModelError, match=r"letters.onnx: --precision int8 serves the characters"):
        compile_model(case.model, precision="int8")
    with pytest.raises(ModelError, match="on a GPU"):
        compile_model(make_case("char", "lstm", 1).model, precision="int8", device="cuda")


def test_a_manifest_that_lies_about_its_task_is_refused() -> None:
    series, char = make_case("series", "lstm", 1), make_case("char", "lstm", 1)
    with pytest.raises(ModelError, match="task 'char', but its graph is not as cellar-train"):
        compile_model(as_task(series, "char").model)
    proto = onnx.ModelProto()
    proto.CopyFrom(char.model.proto)
    node = next(node for node in proto.graph.node if node.op_type == "LSTM")
    node.attribute.add(name="clip", f=1.0, type=onnx.AttributeProto.FLOAT)
    with pytest.raises(ModelError, match="say task 'foreign'"):
        compile_model(replace(char.model, proto=proto))


def test_a_foreign_graph_keeps_its_operators_and_its_prediction() -> None:
    case = as_task(make_case("char", "lstm", 2), "foreign")
    graph = compile_model(case.model)
    assert graph.step is None
    assert not graph.decode
    assert "LSTM" in set(operators(onnx.load_from_string(graph.chunk).graph))
    assert graph.arena[-1].shape == (27,)
    runner = CpuRunner(graph, slots=SLOTS, max_batch=64)
    inputs = sequences("char", 4, 6, 5)
    every = advance(runner, np.arange(4), inputs, fresh=True, every_step=True)
    for t in range(6):
        mine = advance(runner, np.arange(4), inputs[:, t : t + 1], fresh=t == 0)
        assert np.array_equal(mine, every[:, t])
    assert np.array_equal(runner.recall(np.arange(4)), every[:, -1])
