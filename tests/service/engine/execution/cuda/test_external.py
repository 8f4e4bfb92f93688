"""Graphs of somebody else's on a device: what they find is written once they have run."""

import numpy as np
import pytest

from service.engine.execution.runner import UnwrittenError
from service.engine.execution.runtime import CPU, Place
from tests.foreign import chunked_case, foreign_case, lookup_case, mixing_case
from tests.service.engine.execution.cuda.bench import (
    Play,
    assert_near,
    cpu_runner,
    device_runner,
    resident,
)


def some_values(rows: int, time: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(rows).normal(size=(rows, time, 2)).astype(np.float32)


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_chunks_are_those_of_the_cpu(
    rows: int, alone: bool, every_step: bool, place: Place
) -> None:
    model = chunked_case(None if not alone else "rows").model
    device, cpu = Play(device_runner(model, place)), Play(cpu_runner(model))
    device.runner.rows_run_alone = cpu.runner.rows_run_alone = alone
    slots, inputs = np.arange(rows) + 7, some_values(rows, 3)
    lengths = np.arange(rows) % 3 + 1
    for fresh in (True, False):
        found, expected = (
            np.array(play.step(slots, inputs, fresh=fresh, lengths=lengths, every_step=every_step))
            for play in (device, cpu)
        )
        for row, count in enumerate(lengths.tolist()):
            valid = slice(count) if every_step else slice(None)
            assert_near(found[row][valid], expected[row][valid], place)
        for mine, theirs in zip(resident(device.runner), resident(cpu.runner), strict=True):
            assert_near(mine[slots], theirs[slots], place)


@pytest.mark.parametrize("case", [mixing_case(), foreign_case(batch=1)], ids=["mixes", "one row"])
def test_rows_that_run_alone_do_not_see_each_other(case: object, place: Place) -> None:
    runner = device_runner(case.model, place, rows_run_alone=True)  # type: ignore[attr-defined]
    inputs = some_values(5, 4)
    together = Play(runner).steps(np.arange(5), inputs)
    for row in range(5):
        alone = Play(runner).steps([row], inputs[row : row + 1])
        for one, many in zip(alone, together, strict=True):
            assert_near(one[0], many[row], place)


@pytest.mark.parametrize("alone", [False, True])
def test_a_run_that_fails_writes_nothing(alone: bool, place: Place) -> None:
    if place != CPU:
        pytest.skip("a GPU reads zeros where an index is out of range")
    runner = device_runner(lookup_case().model, place, rows_run_alone=alone)
    play, inputs = Play(runner), np.ones((3, 1, 2), np.float32)
    play.steps([0, 1, 2], inputs)
    before = runner.arena.copied()
    inputs[1, 0, 0] = 9
    with pytest.raises(UnwrittenError, match="Gather 'table': indices element out of data bounds"):
        play.step([0, 1, 2], inputs)
    for one, other in zip(before, runner.arena.copied(), strict=True):
        np.testing.assert_array_equal(one[: runner.arena.scratch], other[: runner.arena.scratch])
