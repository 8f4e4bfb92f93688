"""Models and batches as they are served on a card: what small ones may not show.

Products of large matrices are cut into tiles by their sizes, and reductions may be split. The same
tests run small on ONNX Runtime's CPU provider in `make test`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.gpu.engine import CPU, CudaRunner, Outputs, Place
from benchmarks.gpu.examination import Examination
from benchmarks.gpu.subjects import Subject
from models.compile.arena import compile_model
from service.engine.work.sampling import Draws, Sampling
from tests.service.engine.execution.cuda.places import GPU, require

ON_CARD = [pytest.mark.gpu, pytest.mark.timeout(300)]
SIZES = [
    pytest.param((CPU, 16, 8), id="cpu-2x16-8"),
    pytest.param((GPU, 512, 512), id="cuda-2x512-512", marks=ON_CARD),
    pytest.param((GPU, 1024, 512), id="cuda-2x1024-512", marks=ON_CARD),
]
MODELS = [("char", "lstm"), ("char", "gru"), ("series", "lstm")]
STEPS = 5
FILTERED = Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=1)

Kind = Literal["char", "series"]
Size = tuple[Place, int, int]  # where, hidden units, the largest batch
Array = NDArray[np.float32]


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> Size:
    found: Size = request.param
    require(found[0])
    return found


@pytest.mark.parametrize(("kind", "cell"), MODELS)
def test_numbers_are_the_cpus_and_bits_those_of_any_lane(kind: Kind, cell: str, size: Size) -> None:
    place, hidden, batch = size
    subject = Subject(kind=kind, cell=cell, hidden=hidden)
    examination = Examination(subject, place, size=batch, times=1)
    examination.compare()
    examination.decode()
    assert examination.found.faults == []


@pytest.mark.parametrize(("kind", "cell"), MODELS)
def test_bits_do_not_depend_on_who_else_is_in_a_batch(kind: Kind, cell: str, size: Size) -> None:
    """Full batches, and some rows among idle lanes of the same size."""
    place, hidden, batch = size
    subject = Subject(kind=kind, cell=cell, hidden=hidden)
    runner = opened(subject, place, batch, deterministic=True)
    noise = np.random.default_rng(3)
    steps = [subject.inputs(batch, seed=number) for number in range(STEPS)]
    full = [step(runner, np.arange(batch), x, number == 0) for number, x in enumerate(steps)]
    for rows in sorted({1, 3, batch // 2 + 1}):
        chosen = noise.permutation(batch)[:rows]
        for number, x in enumerate(steps):
            found = step(runner, batch + chosen, x[chosen], number == 0)
            assert np.array_equal(found, full[number][chosen]), f"{rows} rows, step {number}"


def test_a_recording_touches_no_row_that_anybody_reads(size: Size) -> None:
    place, hidden, batch = size
    subject = Subject(kind="char", cell="lstm", hidden=hidden)
    runner = opened(subject, place, batch)
    rows = np.arange(0, 2 * batch, max(batch // 8, 2))
    canaries = [
        np.random.default_rng(number).normal(size=own.shape).astype(np.float32)
        for number, own in enumerate(runner.arena.read(rows))
    ]
    runner.arena.write(rows, canaries)  # past the runner, which records at its first call
    others = np.setdiff1d(np.arange(2 * batch), rows)[: batch // 2]
    for number in range(STEPS):
        step(runner, others, subject.inputs(len(others), seed=number), number == 0)
    for found, own in zip(runner.arena.read(rows), canaries, strict=True):
        assert np.array_equal(found, own)


def test_replays_find_what_runs_without_a_recording_do(size: Size) -> None:
    place, hidden, batch = size
    subject = Subject(kind="char", cell="lstm", hidden=hidden)
    replayed, eager = (opened(subject, place, batch) for _ in range(2))
    slots = np.arange(batch)
    for number in range(STEPS):
        x = subject.inputs(batch, seed=number)
        found = step(replayed, slots, x, number == 0)
        step(eager, slots + batch, x, number == 0)  # so that its sizes are recorded
        assert np.array_equal(found, step_eagerly(eager, slots, x[:, 0], number == 0))


def test_the_same_seed_draws_the_same_tokens_in_any_lane(size: Size) -> None:
    place, hidden, batch = size
    subject = Subject(kind="char", cell="gru", hidden=hidden)
    runner = opened(subject, place, batch)
    lanes = np.random.default_rng(5).permutation(batch)
    positions, draws = np.arange(batch), Draws.repeated(FILTERED, batch)
    x, found = subject.inputs(batch, seed=1), []
    for slots, own in ((np.arange(batch), x), (batch + lanes, x[lanes])):
        order = positions if own is x else positions[lanes]
        last = runner.step(**asked(slots, own, True))  # type: ignore[arg-type]
        answers = runner.answer(last, Outputs(sample=True), draws, order)
        found.append(answers.columns["sampled_tokens"].copy())
    assert np.array_equal(found[0][lanes], found[1])


def opened(
    subject: Subject, place: Place, batch: int, *, deterministic: bool = False
) -> CudaRunner:
    """With a slot for each session, one for its twin, and the scratch row."""
    graph = compile_model(subject.model(), device="cuda")
    return CudaRunner(
        graph, slots=2 * batch + 1, max_batch=batch, place=place, deterministic=deterministic
    )


def asked(slots: NDArray[np.int64], inputs: NDArray[np.generic], fresh: bool) -> dict[str, object]:
    return {
        "read": slots,
        "write": slots,
        "fresh": np.full(len(slots), fresh),
        "inputs": inputs,
        "lengths": np.ones(len(slots), np.int64),
        "every_step": False,
    }


def step(
    runner: CudaRunner, slots: NDArray[np.int64], inputs: NDArray[np.generic], fresh: bool
) -> Array:
    return runner.step(**asked(slots, inputs, fresh)).copy()  # type: ignore[arg-type]


def step_eagerly(
    runner: CudaRunner, slots: NDArray[np.int64], tokens: NDArray[np.int64], fresh: bool
) -> Array:
    bucket, bound = runner.recorded[len(slots)]
    start = runner.arena.starts(slots, np.full(len(slots), fresh))
    bucket.place_step(start, slots, tokens)
    bound.run_eagerly()
    return bucket.copied()
