"""Several steps in one replay: given ones, and drawn ones. Their bits are those of single steps."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from models.compile.arena import compile_model
from models.compile.series_graphs import bounds
from models.manifest import ValuesInput
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.cuda.several.staging import Staging
from service.engine.execution.cuda.several.unrolling import NotUnrolledError, unrolled
from service.engine.execution.runtime import Bound, Place
from service.engine.work.columns import SAMPLE
from service.engine.work.sampling import Draws, Sampling
from tests.service.engine.execution.cuda.bench import (
    CASES,
    MAX_BATCH,
    SCRATCH,
    SLOTS,
    Array,
    Play,
    case_of,
    cpu_runner,
    device_runner,
    resident,
    some_inputs,
)

WAYS = {
    "plain": [Sampling(seed=1)],
    "greedy": [Sampling(temperature=0.0)],
    "filtered": [Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=3)],
    "all": [
        Sampling(seed=1),
        Sampling(temperature=0.0),
        Sampling(temperature=0.7, top_k=3, seed=2),
        Sampling(temperature=1.5, top_p=0.4, seed=3),
    ],
}


def draws_of(way: str, rows: int) -> Draws:
    """How each row draws."""
    ways = WAYS[way]
    return Draws.of([ways[row % len(ways)] for row in range(rows)])


def decode(
    runner: CudaRunner | CpuRunner,
    slots: Array,
    first: Array,
    draws: Draws,
    steps: int,
    *,
    fresh: bool = False,
) -> Array:
    """What rows draw that stand at position 3."""
    return runner.decode(
        read=slots,
        write=slots,
        fresh=np.full(len(slots), fresh),
        inputs=first,
        positions=np.full(len(slots), 4),
        draws=draws,
        steps=steps,
    )


def one_by_one(
    runner: CudaRunner, slots: Array, first: Array, draws: Draws, steps: int, *, fresh: bool = False
) -> Array:
    """The same by single steps, each draw fed back on the host."""
    drawn, given = [], first
    for step in range(steps):
        inputs = given[:, None] if given.ndim == 1 else given[:, None, :]
        predictions = Play(runner).step(slots, inputs, fresh=fresh and step == 0)
        positions = np.full(len(slots), 4 + step)
        (found,) = runner.answer(predictions, SAMPLE, draws, positions).columns.values()
        if found.dtype == np.int32:
            given = found.astype(np.int64)
        else:
            values = runner._manifest.input
            assert isinstance(values, ValuesInput)
            found = np.clip(found, *bounds(values))
            given = found[:, None]
        drawn.append(found)
    return np.stack(drawn, axis=1)


@pytest.mark.parametrize(
    ("kind", "cell", "rows"),
    [*((*case, 3) for case in CASES), ("char", "lstm", 1), ("series", "lstm", 11)],
)
def test_draws_and_states_are_those_of_single_steps(
    kind: str, cell: str, rows: int, place: Place
) -> None:
    """Bit for bit, in any number of steps and any way to draw; and no other row is touched."""
    model = case_of(kind, cell).model
    whole = device_runner(model, place, several=True)
    single = device_runner(model, place)
    assert whole.can_decode
    assert not single.can_decode
    slots = np.random.default_rng(rows).permutation(SCRATCH)[:rows]
    before = some_inputs(kind, rows, 3)
    for runner in (whole, single):
        Play(runner).steps(slots, before)
    first = some_inputs(kind, rows, 1, seed=5)[:, 0]
    still = np.setdiff1d(np.arange(SCRATCH), slots)
    kept = resident(whole)
    for steps, way, fresh in ((1, "all", False), (8, "all", False), (15, "filtered", True)):
        way = way if kind == "char" else "plain"
        draws = draws_of(way, rows)
        found = decode(whole, slots, first, draws, steps, fresh=fresh)
        expected = one_by_one(single, slots, first, draws, steps, fresh=fresh)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), f"{steps} steps, {way}"
        for mine, theirs in zip(resident(whole), resident(single), strict=True):
            assert np.array_equal(mine[slots], theirs[slots])
    assert len(set(found.ravel().tolist())) > 1, "something is drawn"
    for mine, theirs in zip(resident(whole), kept, strict=True):
        assert np.array_equal(mine[still], theirs[still])


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_draws_what_it_draws_on_the_cpu(way: str, place: Place) -> None:
    """As long as no two tokens are nearer to each other than two devices are."""
    model = case_of("char").model
    device, cpu = device_runner(model, place, several=True), cpu_runner(model)
    slots, first = np.arange(7), some_inputs("char", 7, 1)[:, 0]
    found, expected = (
        decode(runner, slots, first, draws_of(way, 7), 12, fresh=True) for runner in (device, cpu)
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("kind", "cell", "rows", "replays"),
    [*((*case, 3, 14) for case in CASES), ("char", "lstm", 1, 7)],
)
def test_a_long_chunk_is_its_single_steps(
    kind: str, cell: str, rows: int, replays: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In few replays; those in whose midst a row would begin are of one step."""
    model = case_of(kind, cell).model
    time = 21
    whole = Play(device_runner(model, place, several=True, max_batch=64))
    single = Play(device_runner(model, place, max_batch=64))
    lengths = np.array([time, 16, 2])[:rows]
    slots = np.array([4, 30, 17])[:rows]
    inputs = some_inputs(kind, rows, time)
    for every_step in (True, False):
        found, expected = (
            np.array(play.step(slots, inputs, fresh=True, lengths=lengths, every_step=every_step))
            for play in (whole, single)
        )
        assert np.array_equal(found, expected)
        pairs = zip(resident(whole.runner), resident(single.runner), strict=True)
        for mine, theirs in pairs:
            assert np.array_equal(mine[slots], theirs[slots])
    ran, run = [0], Bound.run

    def counted(self: Bound) -> None:
        ran[0] += 1
        run(self)

    monkeypatch.setattr(Bound, "run", counted)
    whole.step(slots, inputs, lengths=lengths)
    assert ran[0] == replays


def test_many_steps_go_through_memory_for_few(place: Place) -> None:
    """What replays are given is a ring: a chunk and a decode may be longer than it."""
    model = case_of("char").model
    whole, single = (device_runner(model, place, several=own) for own in (True, False))
    for runner in (whole, single):
        for ring in (runner._chunks, runner._decodes):
            if ring is not None:
                ring._staging = Staging(runner._exchange, 8192)
    inputs = some_inputs("char", 1, MAX_BATCH)
    found, expected = (Play(own).step([3], inputs, fresh=True).copy() for own in (whole, single))
    assert np.array_equal(found, expected)
    slots, first, draws = np.arange(3), some_inputs("char", 3, 1)[:, 0], draws_of("all", 3)
    drawn = decode(whole, slots, first, draws, 100, fresh=True)
    assert np.array_equal(drawn, one_by_one(single, slots, first, draws, 100, fresh=True))


@pytest.mark.parametrize("bad", [[SLOTS], [-1]])
def test_bad_rows_and_tokens_are_refused(bad: list[int], place: Place) -> None:
    runner = device_runner(case_of("char").model, place, several=True)
    slots, first, draws = np.array(bad), np.array([1]), draws_of("plain", 1)
    before = resident(runner)
    with pytest.raises(ValueError, match=r"not in 0\.\.39"):
        decode(runner, slots, first, draws, 8)
    with pytest.raises(ValueError, match="token"):
        decode(runner, np.array([3]), np.array([27]), draws, 8)
    for mine, theirs in zip(resident(runner), before, strict=True):
        assert np.array_equal(mine, theirs)


def test_what_cannot_be_unrolled_is_not(place: Place) -> None:
    """A graph that reads the arena twice, or writes what it has not read."""
    graph = compile_model(case_of("char").model, device="cuda")
    assert graph.step is not None
    proto = onnx.load_from_string(graph.step)
    proto.graph.node.append(
        onnx.helper.make_node("Gather", [graph.arena[0].input, proto.graph.input[0].name], ["x"])
    )
    with pytest.raises(NotUnrolledError, match="reads the arena"):
        unrolled(proto.SerializeToString(), graph.manifest, graph.arena, 4)
    odd = replace(graph, step=proto.SerializeToString(), heads={})
    runner = CudaRunner(odd, slots=SLOTS, max_batch=MAX_BATCH, place=place)
    assert not runner.can_decode
    inputs = some_inputs("char", 1, 9)
    found = Play(runner).step([3], inputs, fresh=True).copy()
    expected = Play(device_runner(case_of("char").model, place)).step([3], inputs, fresh=True)
    assert np.array_equal(found, expected)
