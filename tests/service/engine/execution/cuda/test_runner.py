"""The runner of a device: the same numbers as the CPU's, and no row touched but its own."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from models.compile.arena import compile_model
from models.errors import ModelError
from service.engine.execution.runtime import Place
from tests.models.test_arena import decaying_sum
from tests.recurrent import char_case
from tests.service.engine.execution.cuda.bench import (
    CASES,
    MAX_BATCH,
    SCRATCH,
    SLOTS,
    Array,
    Play,
    assert_near,
    case_of,
    cpu_runner,
    device_runner,
    resident,
    some_inputs,
)

ROWS = [1, 3, 4, 11, 16]


@pytest.mark.parametrize(("kind", "cell"), CASES)
def test_steps_are_those_of_the_cpu(kind: str, cell: str, place: Place) -> None:
    model = case_of(kind, cell).model
    device, cpu = Play(device_runner(model, place)), Play(cpu_runner(model))
    for rows in ROWS:
        slots = np.random.default_rng(rows).permutation(SCRATCH)[:rows]
        inputs = some_inputs(kind, rows, 6, seed=rows)
        pairs = zip(device.steps(slots, inputs), cpu.steps(slots, inputs), strict=True)
        for found, expected in pairs:
            assert_near(found, expected, place)
        pairs_of_rows = zip(resident(device.runner), resident(cpu.runner), strict=True)
        for mine, theirs in pairs_of_rows:
            assert_near(mine[slots], theirs[slots], place)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", ["char", "series"])
def test_only_the_rows_of_a_run_change(kind: str, rows: int, place: Place) -> None:
    """Not when runs are recorded, not through idle lanes, not by chunks, peeks and copies."""
    runner = device_runner(case_of(kind).model, place)
    noise = np.random.default_rng(1)
    canaries = [
        noise.normal(size=array.shape).astype(np.float32) for array in runner.arena.copied()
    ]
    for array, fresh in zip(canaries, runner.arena.copied(), strict=True):
        array[SLOTS] = fresh[SLOTS]  # the initial row
    runner.arena.load(canaries)
    play = Play(runner)
    slots = noise.permutation(SCRATCH)
    own, copies, still = slots[:rows], slots[rows : 2 * rows], slots[2 * rows :]
    play.steps(own, some_inputs(kind, rows, 3))
    time = MAX_BATCH // rows
    if time > 1:
        play.step(own, some_inputs(kind, rows, time), write=np.full(rows, SCRATCH))
        play.step(own, some_inputs(kind, rows, time), lengths=1 + np.arange(rows) % time)
    runner.recall(own)
    runner.copy(int(own[0]), copies)
    for before, after in zip(canaries, runner.arena.copied(), strict=True):
        assert np.array_equal(after[still], before[still])
        assert np.array_equal(after[SLOTS], before[SLOTS])
        assert np.array_equal(after[copies], after[np.full(len(copies), own[0])])
    changed = zip(canaries, runner.arena.copied(), strict=True)
    assert any((after[own] != before[own]).any() for before, after in changed)


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize(("kind", "cell"), CASES)
def test_a_chunk_is_its_single_steps_bit_for_bit(
    kind: str, cell: str, rows: int, place: Place
) -> None:
    model = case_of(kind, cell).model
    whole, single = (Play(device_runner(model, place)) for _ in range(2))
    time = MAX_BATCH // rows
    slots = np.random.default_rng(rows).permutation(SCRATCH)[:rows]
    inputs = some_inputs(kind, rows, time)
    lengths = 1 + np.random.default_rng(2).permutation(max(rows, time))[:rows] % time
    expected = np.zeros((rows, time, whole.runner.recall(slots[:1]).shape[1]), np.float32)
    for now in range(time):
        # All lanes run, as they do in the chunk: those that are done write the scratch row.
        write = np.where(now < lengths, slots, SCRATCH)
        fresh = now == 0
        step = single.step(slots, inputs[:, now : now + 1], fresh=fresh, write=write)
        expected[:, now] = step.copy()
    last = expected[np.arange(rows), lengths - 1]
    dry = np.full(rows, SCRATCH)
    found = whole.step(slots, inputs, fresh=True, lengths=lengths, write=dry).copy()
    assert np.array_equal(found, last)
    for every_step in (True, False):
        found = whole.step(slots, inputs, fresh=True, lengths=lengths, every_step=every_step)
        if every_step:
            for row, length in enumerate(lengths):
                assert np.array_equal(found[row, :length], expected[row, :length])
        else:
            assert np.array_equal(found, last)
        pairs_of_rows = zip(resident(whole.runner), resident(single.runner), strict=True)
        for mine, theirs in pairs_of_rows:
            assert np.array_equal(mine[slots], theirs[slots])


def test_a_dry_chunk_leaves_its_session_alone(place: Place) -> None:
    play = Play(device_runner(case_of("char").model, place))
    slots = np.array([3, 8])
    play.steps(slots, some_inputs("char", 2, 3))
    before = resident(play.runner)
    play.step(slots, some_inputs("char", 2, 8), write=[SCRATCH, SCRATCH])
    for mine, theirs in zip(resident(play.runner), before, strict=True):
        assert np.array_equal(mine[:SCRATCH], theirs[:SCRATCH])


@pytest.mark.parametrize("kind", ["char", "series"])
def test_a_row_has_the_same_bits_in_any_lane_and_company(kind: str, place: Place) -> None:
    """At one size; and at any number of rows where there is one size only."""
    model = case_of(kind).model
    inputs = some_inputs(kind, MAX_BATCH, 5)
    for deterministic, counts in ((False, (9, 13, 16)), (True, (1, 2, 7, 16))):
        seen: dict[int, list[bytes]] = {}
        for rows in counts:
            play = Play(device_runner(model, place, deterministic=deterministic))
            slots = np.random.default_rng(rows).permutation(MAX_BATCH)[:rows]
            for step in play.steps(slots, inputs[slots]):
                for row, slot in enumerate(slots.tolist()):
                    seen.setdefault(slot, []).append(step[row].tobytes())
        for paths in seen.values():
            first = paths[:5]
            assert all(paths[at : at + 5] == first for at in range(0, len(paths), 5))
    assert device_runner(model, place, deterministic=True).sizes == (MAX_BATCH,)


def test_peek_repeats_the_last_prediction(place: Place) -> None:
    for kind in ("char", "series"):
        runner = device_runner(case_of(kind).model, place)
        play = Play(runner)
        slots = np.array([5, 1, 30])
        last = play.steps(slots, some_inputs(kind, 3, 4))[-1]
        assert np.array_equal(runner.recall(slots), last)
        copies = np.arange(6, 6 + MAX_BATCH + 3)
        runner.copy(30, copies)
        many = runner.recall(copies)
        assert_near(many, last[[2] * len(copies)], place)
        assert np.array_equal(runner.recall(copies[:3]), last[[2, 2, 2]])


@pytest.mark.parametrize(
    ("read", "write"), [([SLOTS], [0]), ([0], [SLOTS]), ([-1], [0]), ([0], [-1])]
)
def test_a_slot_that_there_is_not_is_refused(
    read: list[int], write: list[int], place: Place
) -> None:
    play = Play(device_runner(case_of("char").model, place))
    play.steps([0, 1], some_inputs("char", 2, 2))
    before = resident(play.runner)
    with pytest.raises(ValueError, match=r"not in 0\.\.39"):
        play.step(read, some_inputs("char", 1, 1), write=write)
    with pytest.raises(ValueError, match=r"not in 0\.\.39"):
        play.runner.copy(read[0], np.array(write))
    with pytest.raises(ValueError, match="token"):
        play.step([0], np.array([[27]]))
    with pytest.raises(ValueError, match="exceed the batch"):
        play.step([0, 1], some_inputs("char", 2, 9))
    for mine, theirs in zip(resident(play.runner), before, strict=True):
        assert np.array_equal(mine, theirs)


def test_a_fresh_row_may_name_any_slot(place: Place) -> None:
    """What it reads is the initial row."""
    play = Play(device_runner(case_of("char").model, place))
    expected = play.step([2], some_inputs("char", 1, 1), fresh=True).copy()
    again = play.step([10**9], some_inputs("char", 1, 1), fresh=True, write=[4])
    assert np.array_equal(again, expected)


def test_a_fresh_row_starts_where_the_manifest_says(place: Place) -> None:
    model = case_of("char").model
    first, *rest = model.manifest.states
    initial = tuple(number / 7 for number in range(first.shape[0]))
    states = (first.model_copy(update={"initial": initial}), *rest)
    manifest = model.manifest.model_copy(update={"states": states})
    model = replace(model, manifest=manifest)
    runner = device_runner(model, place)
    assert np.array_equal(runner.arena.copied()[0][SLOTS], np.array(initial, np.float32))
    device, cpu = Play(runner), Play(cpu_runner(model))
    found, expected = (
        play.steps([2, 0], some_inputs("char", 2, 3, seed=1)) for play in (device, cpu)
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert_near(mine, theirs, place)


def test_another_thread_is_refused(place: Place) -> None:
    play = Play(device_runner(case_of("char").model, place))
    play.steps([0], some_inputs("char", 1, 1))
    caught: list[Exception] = []

    def intrude() -> None:
        try:
            play.step([0], some_inputs("char", 1, 1))
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert "one thread" in str(caught[0])


def test_predictions_are_gone_with_the_next_run(place: Place) -> None:
    play = Play(device_runner(case_of("char").model, place))
    early = play.step([0, 1], some_inputs("char", 2, 1), fresh=True)
    assert np.asarray(early[1:]).shape == (1, 27)
    play.step([0, 1], some_inputs("char", 2, 1))
    with pytest.raises(RuntimeError, match="overwritten"):
        early.copy()


def test_too_many_sessions_for_a_tensor_are_refused(place: Place) -> None:
    """Before anything is allocated, and with the number that would fit."""
    model = char_case(hidden=64).model
    with pytest.raises(ModelError, match=r"lower --max-sessions by 50000") as caught:
        device_runner(model, place, slots=2**31 // 64 + 50_000 - MAX_BATCH - 2)
    assert "--shards" in str(caught.value)


@pytest.mark.parametrize("batch_axis", [0, 1])
def test_a_foreign_graph_of_single_steps(batch_axis: int, place: Place) -> None:
    play = Play(device_runner(decaying_sum(batch_axis), place))
    total = np.full((3, 2), 0.5, np.float32)
    for step, value in enumerate((1.0, 2.0, -3.0)):
        inputs = np.array([[[value]], [[2 * value]], [[-value]]], np.float32)
        found = play.step([4, 0, 7], inputs, fresh=step == 0)
        total = total * np.float32(0.5) + inputs[:, 0]
        assert_near(found, total, place)
    assert_near(play.runner.recall(np.array([7])), total[2:], place)
    assert not isinstance(found, np.ndarray), "predictions stay on the device"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_foreign_graph_of_many_steps(cell: str, place: Place) -> None:
    own = char_case(cell, layers=2).model
    manifest = own.manifest.model_copy(update={"task": "foreign"})
    model = replace(own, manifest=manifest)
    assert compile_model(model, device="cuda").step is None
    device, cpu = Play(device_runner(model, place)), Play(cpu_runner(own))
    slots, lengths = np.array([3, 9, 0]), np.array([5, 1, 3])
    inputs = some_inputs("char", 3, 5)
    for every_step in (False, True):
        found = device.step(slots, inputs, fresh=True, lengths=lengths, every_step=every_step)
        expected = cpu.step(slots, inputs, fresh=True, lengths=lengths, every_step=every_step)
        for row, length in enumerate(lengths):
            ends = slice(None, length) if every_step else slice(None)
            mine: Array = np.asarray(found)[row][ends]
            assert_near(mine, expected[row][ends], place)
    found = device.step(slots, inputs[:, :1])
    assert_near(found, cpu.step(slots, inputs[:, :1]), place)
