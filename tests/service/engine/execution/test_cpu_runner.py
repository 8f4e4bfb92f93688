"""The memory of the CPU's runner: bound once for each size of a run, and used again."""

import tracemalloc
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.compile.arena import compile_model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.work.sampling import Draws, Sampling
from tests.recurrent import Case, char_case, series_case

ROWS = 48
WIDE = "".join(chr(0x4E00 + number) for number in range(2000))  # its predictions are, too
SAMPLINGS = [
    Sampling(seed=1),
    Sampling(top_k=3, seed=2),
    Sampling(temperature=0.0),
    Sampling(temperature=1.5, seed=3),
]


@cache
def make_case(task: str) -> Case:
    return char_case("gru", layers=2, hidden=24) if task == "char" else series_case()


def make_runner(case: Case) -> CpuRunner:
    """A runner in each of whose slots one session has read something else."""
    runner = CpuRunner(compile_model(case.model), slots=2 * ROWS, max_batch=ROWS)
    slots = np.arange(ROWS)
    noise = np.random.default_rng(5)
    for step in range(3):
        inputs = (
            noise.integers(0, 27, (ROWS, 1))
            if runner.blank(1).dtype == np.int64
            else noise.uniform(90, 110, (ROWS, 1, 1)).astype(np.float32)
        )
        runner.step(
            read=slots,
            write=slots,
            fresh=np.full(ROWS, step == 0),
            inputs=inputs,
            lengths=np.ones(ROWS, np.int64),
            every_step=False,
        )
    return runner


def decode(runner: CpuRunner, slots: NDArray[np.int64], steps: int) -> NDArray[Any]:
    """Decode from the slots into others, so that it can be done again."""
    rows = len(slots)
    drawn = Draws.of([SAMPLINGS[slot % len(SAMPLINGS)] for slot in slots.tolist()])
    first = runner.blank(rows)
    return runner.decode(
        read=slots,
        write=slots + ROWS,
        fresh=np.zeros(rows, np.bool_),
        inputs=first[:, 0],
        positions=np.full(rows, 4),
        draws=drawn,
        steps=steps,
    )


@pytest.mark.parametrize("task", ["char", "series"])
def test_results_have_their_bits_whatever_sizes_came_before(task: str) -> None:
    case = make_case(task)
    runner, fresh = make_runner(case), make_runner(case)
    alone = np.array([fresh.recall(np.array([slot]))[0].copy() for slot in range(ROWS)])
    drawn = [decode(fresh, np.array([slot]), 16)[0].copy() for slot in range(ROWS)]
    noise = np.random.default_rng(1)
    kept = []
    for _ in range(150):
        slots = noise.permutation(ROWS)[: noise.integers(1, ROWS + 1)]
        steps = int(noise.integers(1, 17))
        if noise.random() < 0.5:
            kept.append((runner.recall(slots).copy(), alone[slots]))
        else:
            expected = np.array([drawn[slot][:steps] for slot in slots.tolist()])
            kept.append((decode(runner, slots, steps).copy(), expected))
    for mine, expected in kept:
        assert np.array_equal(mine, expected)


def test_recalls_of_all_sizes_share_one_memory() -> None:
    runner = make_runner(make_case("char"))
    widest = runner.recall(np.arange(ROWS))
    for rows in range(1, ROWS):
        assert np.shares_memory(runner.recall(np.arange(rows)), widest)
    assert np.shares_memory(runner.recall(np.arange(ROWS)), widest)


def test_the_memory_kept_does_not_grow_with_the_number_of_sizes() -> None:
    """Sizes come in an order that grows: each was once memory of its own."""
    width = len(WIDE)
    runner = make_runner(char_case("gru", hidden=8, symbols=WIDE))
    row_bytes = 4 * width
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for rows in range(1, ROWS + 1):
            runner.recall(np.arange(rows))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2.5 * ROWS * row_bytes  # of its own for each size: 24 times that
