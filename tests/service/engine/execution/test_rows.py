"""Sessions' rows to the host and back: what was read goes on elsewhere, bit for bit."""

import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.compile.arena import compile_model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.runtime import CPU
from tests.foreign import chunked_case
from tests.recurrent import Case, char_case, series_case
from tests.service.engine.execution.cuda.bench import Array, Play

MAX_BATCH = 8
SLOTS = 24
SESSIONS = 16
CELLS = ("lstm", "gru", "rnn")
MODELS = [
    *((task, cell, "fp32", "cpu") for task in ("char", "series") for cell in CELLS),
    *((task, cell, "int8", "cpu") for task in ("char", "series") for cell in CELLS),
    *((task, cell, "fp32", "cuda") for task in ("char", "series") for cell in CELLS),
    ("foreign", "lstm", "fp32", "cpu"),
    ("foreign", "lstm", "fp32", "cuda"),
    ("sums", "", "fp32", "cpu"),
    ("sums", "", "fp32", "cuda"),
]


@cache
def make_case(task: str, cell: str) -> Case:
    match task:
        case "sums":
            return chunked_case()
        case "series":
            return series_case(cell, layers=2)
    case = char_case(cell, layers=2)
    if task == "char":
        return case
    manifest = case.manifest.model_copy(update={"task": "foreign"})
    return replace(case, model=replace(case.model, manifest=manifest))


@cache
def runners(task: str, cell: str, precision: str, device: str) -> list[CpuRunner | CudaRunner]:
    """Two of one model; a GPU's are played on the CPU."""
    graph = compile_model(make_case(task, cell).model, precision=precision, device=device)
    assert graph.in_place == (task in ("char", "series"))
    if device == "cpu":
        return [CpuRunner(graph, slots=SLOTS, max_batch=MAX_BATCH) for _ in range(2)]
    return [
        CudaRunner(graph, slots=SLOTS, max_batch=MAX_BATCH, place=CPU, several=False)
        for _ in range(2)
    ]


def some_inputs(task: str, noise: np.random.Generator, rows: int, steps: int) -> Array:
    if task in ("char", "foreign"):
        return noise.integers(0, 27, (rows, steps))
    width = 2 if task == "sums" else 1
    return noise.uniform(1, 2, (rows, steps, width)).astype(np.float32)


@pytest.mark.parametrize("model", MODELS, ids="-".join)
@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_read_goes_on_elsewhere_bit_for_bit(
    model: tuple[str, str, str, str], data: st.DataObject
) -> None:
    here, there = (Play(runner) for runner in runners(*model))
    noise = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows, steps = data.draw(st.sampled_from([(1, 8), (2, 3), (5, 1), (8, 1)]))
    slots, others = (noise.permutation(SESSIONS)[:rows] for _ in range(2))
    lengths = noise.integers(1, steps + 1, rows)
    here.step(slots, some_inputs(model[0], noise, rows, steps), fresh=True, lengths=lengths)
    here.steps(slots, some_inputs(model[0], noise, rows, 2), fresh=False)

    beside = there.runner.read(np.arange(SESSIONS))
    taken = here.runner.read(slots)
    last = here.runner.recall(slots).copy()
    inputs = some_inputs(model[0], noise, rows, steps)
    expected = [here.step(slots, inputs, every_step=True).copy()]
    expected += here.steps(slots, some_inputs(model[0], np.random.default_rng(1), rows, 2))
    there.runner.write(others, taken)  # copies: what ran since has not changed them

    assert np.array_equal(there.runner.recall(others), last)
    found = [there.step(others, inputs, every_step=True).copy()]
    found += there.steps(others, some_inputs(model[0], np.random.default_rng(1), rows, 2))
    for mine, theirs in zip(found, expected, strict=True):
        assert np.array_equal(mine, theirs)
    after = zip(here.runner.read(slots), there.runner.read(others), strict=True)
    assert all(np.array_equal(mine, theirs) for mine, theirs in after)
    untouched = np.setdiff1d(np.arange(SESSIONS), others)
    left = zip(beside, there.runner.read(np.arange(SESSIONS)), strict=True)
    assert all(np.array_equal(one[untouched], two[untouched]) for one, two in left)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bad_rows_are_refused_and_nothing_is_written(device: str) -> None:
    runner, _ = runners("char", "lstm", "fp32", device)
    slots = np.array([3, 1])
    Play(runner).steps(slots, np.array([[1, 2], [3, 4]]))
    before = runner.read(np.arange(SLOTS))
    good = [np.full_like(rows, 0.5) for rows in runner.read(slots)]

    def bad(number: int, rows: Any) -> list[Any]:
        return [*good[:number], rows, *good[number + 1 :]]

    infinite = good[-1].copy()
    infinite[1, 0] = np.inf
    for rows, complaint in (
        (good[:-1], "tensors"),
        (bad(1, good[1][:1]), r"tensor 1: float32 \(1, 16\) is not float32 \(2, 16\)"),
        (bad(2, good[2].astype(np.float64)), "tensor 2: float64"),
        (bad(len(good) - 1, infinite), "not finite"),
        (bad(0, np.full_like(good[0], np.nan)), "tensor 0: a number is not finite"),
    ):
        with pytest.raises(ValueError, match=complaint):
            runner.write(slots, rows)
    for outside in ([0, SLOTS], [-1, 0]):
        with pytest.raises(ValueError, match=r"not in 0\.\.23"):
            runner.write(np.array(outside), good)
        with pytest.raises(ValueError, match=r"not in 0\.\.23"):
            runner.read(np.array(outside))
    for mine, theirs in zip(runner.read(np.arange(SLOTS)), before, strict=True):
        assert np.array_equal(mine, theirs)
    runner.write(slots, good)
    assert np.array_equal(runner.read(slots)[0], good[0]), "they were good but for that"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_of_no_slots_there_are_no_rows(device: str) -> None:
    runner, _ = runners("char", "lstm", "fp32", device)
    nothing = np.empty(0, np.int64)
    found = runner.read(nothing)
    assert {rows.shape for rows in found} == {(0, 16)}
    runner.write(nothing, found)


def test_many_rows_are_moved_in_pieces() -> None:
    graph = compile_model(make_case("char", "gru").model, device="cuda")
    runner = CudaRunner(graph, slots=2600, max_batch=4, place=CPU, several=False)
    slots = np.random.default_rng(0).permutation(2599)
    rows = [np.random.default_rng(1).normal(size=own.shape) for own in runner.read(slots)]
    given_rows = [own.astype(np.float32) for own in rows]
    runner.write(slots, given_rows)
    for mine, theirs in zip(runner.read(slots), given_rows, strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.long
def test_rows_cost_a_few_microseconds_each() -> None:
    graph = compile_model(char_case("lstm", layers=2, hidden=128).model)
    runner = CpuRunner(graph, slots=4000, max_batch=64)
    slots = np.random.default_rng(0).permutation(3999)[:500]
    found = []
    for _ in range(20):
        began_s = time.perf_counter()
        rows = runner.read(slots)
        read_s = time.perf_counter()
        runner.write(slots, rows)
        found.append((read_s - began_s, time.perf_counter() - read_s))
    for seconds in np.min(found, axis=0):
        assert seconds / len(slots) < 3e-6
