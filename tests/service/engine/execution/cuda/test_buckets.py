"""Buckets: runs of fixed sizes give the same rows."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from models.compile.arena import compile_model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.buckets import Buckets
from service.engine.execution.cuda.predictions import OnDevice
from service.engine.execution.runtime import Place
from tests.foreign import chunked_case
from tests.recurrent import char_case
from tests.service.engine.execution.cuda.bench import (
    SLOTS,
    Play,
    case_of,
    device_runner,
    some_inputs,
)

SCRATCH = 40


def test_sizes_are_powers_of_two_and_the_largest_batch() -> None:
    assert Buckets(max_batch=48, scratch=0).sizes == (1, 2, 4, 8, 16, 32, 48)
    buckets = Buckets(max_batch=64, scratch=0)
    assert buckets.sizes == (1, 2, 4, 8, 16, 32, 64)
    assert [buckets.size(rows) for rows in (1, 2, 3, 33, 64)] == [1, 2, 4, 64, 64]
    assert Buckets(max_batch=1, scratch=0).sizes == (1,)
    for rows in (0, 65):
        with pytest.raises(ValueError, match=r"not in 1\.\.64"):
            buckets.size(rows)


@pytest.mark.parametrize("rows", [1, 3, 4, 11])
def test_a_padded_run_gives_the_same_rows(rows: int) -> None:
    graph = compile_model(char_case("lstm", layers=2).model)
    plain, padded = (CpuRunner(graph, slots=SCRATCH + 1, max_batch=16) for _ in range(2))
    buckets = Buckets(max_batch=16, scratch=SCRATCH)
    slots = np.random.default_rng(0).permutation(SCRATCH)[:rows]
    for step in range(4):
        fresh = np.full(rows, step == 0)
        inputs = (np.arange(rows)[:, None] + 5 * step) % 27
        expected = plain.step(
            read=slots,
            write=slots,
            fresh=fresh,
            inputs=inputs,
            lengths=np.ones(rows, np.int64),
            every_step=False,
        )
        lanes = buckets.pad(read=slots, write=slots, fresh=fresh, inputs=inputs)
        assert lanes.size == buckets.size(rows)
        found = padded.step(
            read=lanes.read,
            write=lanes.write,
            fresh=lanes.fresh,
            inputs=lanes.inputs,
            lengths=np.ones(lanes.size, np.int64),
            every_step=False,
        )
        assert np.array_equal(found[: lanes.rows], expected)
        for mine, theirs in zip(padded.arena, plain.arena, strict=True):
            assert np.array_equal(mine[:SCRATCH], theirs[:SCRATCH])


@pytest.mark.parametrize("task", ["char", "foreign"])
def test_a_run_in_a_larger_bucket_finds_what_that_one_found(task: str, place: Place) -> None:
    """As a fold of one session does what was run with others: bit for bit, at any cuts."""
    model = case_of("char").model
    manifest = model.manifest.model_copy(update={"task": task})
    model = replace(model, manifest=manifest)
    inputs = some_inputs("char", 11, 4)
    together, alone = (Play(device_runner(model, place)) for _ in range(2))
    assert [together.runner.bucket(rows) for rows in (1, 2, 3, 11, 16)] == [1, 2, 4, 16, 16]
    slots = np.arange(11)
    expected = together.steps(slots, inputs)
    for row in range(11):
        here = row + 20
        found = [
            alone.step([here], inputs[row : row + 1, at : at + 1], fresh=at == 0, bucket=16)
            for at in range(3)
        ]
        last = cast(OnDevice, found[-1])
        assert (len(last), last.bucket.size) == (1, 16)
        assert np.array_equal(last.copy()[0], expected[2][row])
    if task == "char":  # whose chunks are single steps
        for row in range(11):
            whole = alone.step([row], inputs[row : row + 1], fresh=True, bucket=16)
            assert np.array_equal(whole.copy()[0], expected[-1][row])
    before = alone.runner.read(np.arange(SLOTS))
    for rows, bucket in ((3, 2), (2, 3), (1, 32)):
        with pytest.raises(ValueError, match=rf"{rows} rows cannot run in a bucket of {bucket}"):
            alone.step(np.arange(rows), inputs[:rows, :1], bucket=bucket)
    after = zip(before, alone.runner.read(np.arange(SLOTS)), strict=True)
    assert all(np.array_equal(one, other) for one, other in after)


@pytest.mark.parametrize("alone", [False, True])
def test_where_bits_never_depend_on_it_any_bucket_will_do(alone: bool, place: Place) -> None:
    """All runs have one size, or each row has a run of its own."""
    model = chunked_case().model if alone else case_of("char").model
    options = {"rows_run_alone": True} if alone else {"deterministic": True}
    runner = device_runner(model, place, **options)
    play = Play(runner)
    inputs = np.ones((1, 1, 2), np.float32) if alone else np.ones((1, 1), np.int64)
    assert {runner.bucket(rows) for rows in range(1, 17)} == {0}
    expected = play.step([0], inputs, fresh=True).copy()
    for bucket in (1, 8, 300):
        assert np.array_equal(play.step([0], inputs, fresh=True, bucket=bucket), expected)
    with pytest.raises(ValueError, match="bucket of 1"):
        play.step([0, 1], inputs.repeat(2, axis=0), bucket=1)


def test_on_the_cpu_there_are_none() -> None:
    runner = CpuRunner(compile_model(case_of("char").model), slots=4, max_batch=8)
    assert {runner.bucket(rows) for rows in range(1, 9)} == {0}
    for rows in (0, 9):
        with pytest.raises(ValueError, match=r"not in 1\.\.8"):
            runner.bucket(rows)
    play, inputs = Play(runner), np.array([[1], [2]])
    expected = play.step([0, 1], inputs, fresh=True).copy()
    assert np.array_equal(play.step([0, 1], inputs, fresh=True, bucket=4), expected)
    with pytest.raises(ValueError, match="do not fit into a bucket of 1"):
        play.step([0, 1], inputs, bucket=1)
