"""Buckets: runs of fixed sizes give the same rows."""

import numpy as np
import pytest

from models.compile.arena import compile_model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.buckets import Buckets
from tests.recurrent import char_case

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
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_padded_run_gives_the_same_rows(device: str, rows: int) -> None:
    graph = compile_model(char_case("lstm", layers=2).model, device=device)
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
