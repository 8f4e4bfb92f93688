"""A step and all that is asked of it in one go, and two of them under way."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from service.engine.execution.ahead.runner import Ask, Begun, Found
from service.engine.execution.cuda import heads
from service.engine.execution.cuda.asked import keys
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.heads import draw_modes
from service.engine.execution.runtime import Bound, Place
from service.engine.work.columns import NOTHING, Answers, Outputs
from service.engine.work.sampling import Draws, Sampling
from tests.foreign import chunked_case
from tests.service.engine.execution.cuda.bench import (
    MAX_BATCH,
    SCRATCH,
    SLOTS,
    Array,
    Play,
    case_of,
    device_runner,
    resident,
    some_inputs,
)
from tests.service.engine.execution.cuda.test_heads import draws, same

WANTED: dict[str, tuple[Outputs, ...]] = {
    "char": (
        Outputs(argmax=True),
        NOTHING,
        Outputs(top_k=3),
        Outputs(sample=True, raw=True),
        Outputs(top_k=20, probabilities=True),
        Outputs(sample=True, argmax=True, top_k=4),
    ),
    "series": (
        Outputs(quantiles=(0.1, 0.5, 0.9)),
        Outputs(sample=True, raw=True),
        Outputs(quantiles=(0.3, 0.6, 0.7, 0.99)),
        Outputs(quantiles=tuple(np.linspace(0.01, 0.99, 40).tolist())),
        NOTHING,
        Outputs(quantiles=(0.5,), sample=True),
    ),
}


def asks_of(kind: str, rows: int, at: int = 1) -> list[Ask]:
    """Something else of each two rows."""
    found = []
    for start in range(0, rows, 2):
        own = slice(start, min(start + 2, rows))
        outputs = WANTED[kind][start // 2 % len(WANTED[kind])]
        some = draws(rows).take(own) if outputs.sample else None
        positions = np.arange(rows)[own] + at
        found.append(Ask(rows=own, outputs=outputs, draws=some, positions=positions))
    return found


def begin(
    runner: CudaRunner, slots: Any, inputs: Array, asks: Sequence[Ask], *, fresh: bool = False
) -> Begun:
    slots = np.asarray(slots)
    return runner.begin(
        read=slots, write=slots, fresh=np.full(len(slots), fresh), inputs=inputs, asks=asks
    )


def expected_of(
    runner: CudaRunner, slots: Any, inputs: Array, asks: Sequence[Ask], *, fresh: bool = False
) -> list[Found]:
    """The same, asked for one by one once the step is over."""
    predictions = Play(runner).step(slots, inputs, fresh=fresh)
    return [
        runner.answer(predictions[ask.rows], ask.outputs, ask.draws, ask.positions) for ask in asks
    ]


def agree(found: Sequence[Found], expected: Sequence[Found]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, Answers)
        assert isinstance(theirs, Answers)
        same(mine, theirs)


@pytest.mark.parametrize("rows", [1, 5, 12, 16])
@pytest.mark.parametrize("kind", ["char", "series"])
def test_all_that_is_asked_of_a_run_is_found_with_it(kind: str, rows: int, place: Place) -> None:
    model = case_of(kind).model
    one, other = (device_runner(model, place) for _ in range(2))
    slots, asks = np.random.default_rng(rows).permutation(SCRATCH)[:rows], asks_of(kind, rows)
    inputs = some_inputs(kind, rows, 3)
    for step in range(3):
        own = inputs[:, step : step + 1]
        found = begin(one, slots, own, asks, fresh=step == 0).finish()
        agree(found, expected_of(other, slots, own, asks, fresh=step == 0))
    for mine, theirs in zip(resident(one), resident(other), strict=True):
        assert np.array_equal(mine[slots], theirs[slots])


@pytest.mark.parametrize("kind", ["char", "series"])
def test_two_runs_are_under_way_at_once(kind: str, place: Place) -> None:
    """Of one size or of two, and ended in order; whoever looks in between disturbs neither."""
    model = case_of(kind).model
    one, other = (device_runner(model, place) for _ in range(2))
    runs = [np.arange(0, 7), np.arange(10, 18), np.arange(20, 21), np.arange(0, 7)]
    under_way: list[tuple[Begun, list[Found]]] = []
    for number, slots in enumerate(runs):
        asks = asks_of(kind, len(slots), at=number)
        inputs = some_inputs(kind, len(slots), 1, seed=number)
        fresh = number < 3
        expected = expected_of(other, slots, inputs, asks, fresh=fresh)
        under_way.append((begin(one, slots, inputs, asks, fresh=fresh), expected))
        if number == 2:
            one.read(np.arange(4))
        if len(under_way) == 2:
            begun, wanted = under_way.pop(0)
            agree(begun.finish(), wanted)
            assert not one.is_lost(RuntimeError("something else"))
    for begun, wanted in under_way:
        agree(begun.finish(), wanted)
        assert begun.is_over()


def failing(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
    """Have some of the next runs of graphs fail, by their number."""
    run, number = Bound.run, [-1]

    def sometimes(self: Bound) -> None:
        number[0] += 1
        if which(number[0]):
            raise RuntimeError("the device caught fire")
        run(self)

    monkeypatch.setattr(Bound, "run", sometimes)


def test_a_step_that_fails_leaves_the_runner_as_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = case_of("char").model
    one, other = (device_runner(model, place) for _ in range(2))
    slots, inputs, asks = np.arange(3), some_inputs("char", 3, 1), asks_of("char", 3)
    for runner in (one, other):
        Play(runner).step(slots, inputs, fresh=True)
    before = resident(one)
    with monkeypatch.context() as patch:
        failing(patch, lambda number: True)
        for _ in range(5):  # more often than there is memory for runs
            with pytest.raises(RuntimeError, match="fire"):
                begin(one, slots, inputs, asks)
    for mine, theirs in zip(resident(one), before, strict=True):
        assert np.array_equal(mine, theirs)
    agree(begin(one, slots, inputs, asks).finish(), expected_of(other, slots, inputs, asks))


@pytest.mark.parametrize("name", ["argmax", "top_k", "sample_filtered"])
def test_a_head_that_fails_undoes_no_step_and_no_other_answer(name: str, place: Place) -> None:
    model = case_of("char").model
    one, other = (device_runner(model, place) for _ in range(2))
    slots, inputs, asks = np.arange(12), some_inputs("char", 12, 1), asks_of("char", 12)
    for runner in (one, other):
        Play(runner).step(slots, inputs, fresh=True)
    expected = expected_of(other, slots, inputs, asks)
    own = [head for (key, _), head in one._heads._bound.items() if key.name == name]
    works = []
    for head in own:
        works.append(head.run)
        head.run = broken
    found = begin(one, slots, inputs, asks).finish()
    hit = {number for number, ask in enumerate(asks) if needs(ask, name)}
    assert 0 < len(hit) < len(asks)
    assert {n for n, own in enumerate(found) if isinstance(own, Exception)} == hit
    assert {str(found[number]) for number in hit} == {"no answer"}
    sound = [number for number in range(len(asks)) if number not in hit]
    agree([found[number] for number in sound], [expected[number] for number in sound])
    for head, work in zip(own, works, strict=True):
        head.run = work
    agree(begin(one, slots, inputs, asks).finish(), expected_of(other, slots, inputs, asks))


def needs(ask: Ask, name: str) -> bool:
    """Whether an ask is answered with a head."""
    drawn: set[str] = set()
    if ask.outputs.sample and ask.draws is not None:
        drawn = {mode.value for mode, _ in draw_modes(ask.draws, vocabulary=27)}
    return name in drawn or bool(getattr(ask.outputs, name, False))


def broken() -> None:
    raise RuntimeError("no answer")


@pytest.mark.parametrize("where", ["the device", "the host"])
@pytest.mark.parametrize("kind", ["char", "series"])
def test_who_asks_for_more_than_there_is_memory_for_takes_no_answer_from_others(
    kind: str, where: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wide has memory once somebody asks for it."""
    monkeypatch.setattr(keys, "USUAL_WIDTH", 4)
    monkeypatch.setattr(heads, "USUAL_WIDTH", 4)
    model = case_of(kind).model
    one, other = (device_runner(model, place) for _ in range(2))
    slots, inputs, asks = np.arange(12), some_inputs(kind, 12, 1), asks_of(kind, 12)
    for runner in (one, other):
        Play(runner).step(slots, inputs, fresh=True)
    expected = expected_of(other, slots, inputs, asks)
    with monkeypatch.context() as patch:
        if where == "the device":
            patch.setattr(heads, "Region", full)
        else:
            patch.setattr(one._exchange.transfers, "pinned", full)
        found = begin(one, slots, inputs, asks).finish()
    wide = {n for n, ask in enumerate(asks) if is_wide(ask.outputs, where)}
    assert 0 < len(wide) < len(asks)
    assert {n for n, own in enumerate(found) if isinstance(own, MemoryError)} == wide
    sound = [number for number in range(len(asks)) if number not in wide]
    agree([found[number] for number in sound], [expected[number] for number in sound])
    agree(begin(one, slots, inputs, asks).finish(), expected_of(other, slots, inputs, asks))


def is_wide(outputs: Outputs, where: str) -> bool:
    """Whether it takes memory that is not there from the start."""
    wide = outputs.probabilities or len(outputs.quantiles) > 16
    return wide or (outputs.raw and where == "the host")


def full(*_: object) -> Any:
    raise MemoryError("there is no more")


def test_no_flight_is_lost_where_the_end_of_a_run_cannot_be_marked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = case_of("char").model
    one, other = (device_runner(model, place) for _ in range(2))
    runs = [np.arange(0, 3), np.arange(10, 13)]
    inputs, asks = some_inputs("char", 3, 1), asks_of("char", 3)
    Play(one).step(runs[0], inputs, fresh=True)
    with monkeypatch.context() as patch:
        patch.setattr(one._exchange.transfers, "mark", broken_mark)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="not marked"):
                begin(one, runs[0], inputs, asks, fresh=True)
    begun = [begin(one, slots, inputs, asks, fresh=True) for slots in runs]
    for own, slots in zip(begun, runs, strict=True):
        agree(own.finish(), expected_of(other, slots, inputs, asks, fresh=True))


def broken_mark(_: int) -> None:
    raise RuntimeError("not marked")


@pytest.mark.parametrize("fails_at", [0, 3, 7])
def test_what_could_not_be_recorded_is_not_recorded_by_a_real_step(
    fails_at: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime runs what it records three times over."""
    runner = device_runner(case_of("char").model, place, several=True)
    slots, inputs = np.arange(3), some_inputs("char", 3, 1)
    with monkeypatch.context() as patch:
        failing(patch, lambda number: number == fails_at)
        with pytest.raises(RuntimeError, match="fire"):
            Play(runner).step(slots, inputs, fresh=True)
    run, ran = Bound.run, list[Bound]()

    def noted(self: Bound) -> None:
        ran.append(self)
        run(self)

    monkeypatch.setattr(Bound, "run", noted)
    Play(runner).step(slots, inputs, fresh=True)
    assert ran.count(ran[-1]) == 2, "it was recorded, and then replayed"
    assert {bound for _, bound in runner.recorded.values()} <= {*ran}


@pytest.mark.parametrize(
    ("slots", "token", "words"),
    [([SLOTS], 1, "not in 0..39"), ([-1], 1, "not in 0..39"), ([3], 27, "token"), ([3], -1, "tok")],
)
def test_what_must_not_run_is_refused(
    slots: list[int], token: int, words: str, place: Place
) -> None:
    runner = device_runner(case_of("char").model, place)
    Play(runner).steps([0, 3], some_inputs("char", 2, 2))
    before = resident(runner)
    with pytest.raises(ValueError, match=words):
        begin(runner, slots, np.array([[token]]), asks_of("char", 1))
    many = np.zeros((MAX_BATCH + 1, 1), np.int64)
    with pytest.raises(ValueError, match="exceed the batch"):
        begin(runner, np.arange(MAX_BATCH + 1), many, [])
    for mine, theirs in zip(resident(runner), before, strict=True):
        assert np.array_equal(mine, theirs)


def test_others_do_not_see_what_one_row_was_given(place: Place) -> None:
    """A lane's numbers are its own: what was left by others in a larger run does not matter."""
    model = case_of("char").model
    one, other = (device_runner(model, place) for _ in range(2))
    wild = Draws.of(
        [Sampling(temperature=100.0, top_k=1 + n, top_p=0.01, seed=n) for n in range(8)]
    )
    everybody = Ask(
        rows=slice(0, 8), outputs=Outputs(sample=True), draws=wild, positions=np.arange(8)
    )
    inputs = some_inputs("char", 8, 1)
    for _ in range(2):
        begin(one, np.arange(8), inputs, [everybody], fresh=True).finish()
    asks = asks_of("char", 6)
    found = begin(one, np.arange(6), inputs[:6], asks, fresh=True).finish()
    agree(found, expected_of(other, np.arange(6), inputs[:6], asks, fresh=True))


def test_a_graph_of_somebody_elses_is_over_when_it_has_begun(place: Place) -> None:
    model = chunked_case().model
    one, other = (device_runner(model, place) for _ in range(2))
    assert not one.can_begin
    inputs, slots = np.ones((3, 1, 2), np.float32), np.arange(3)
    asks = [
        Ask(rows=slice(0, 3), outputs=Outputs(raw=True), draws=None, positions=np.ones(3, np.int64))
    ]
    begun = begin(one, slots, inputs, asks, fresh=True)
    assert begun.is_over()
    agree(begun.finish(), expected_of(other, slots, inputs, asks, fresh=True))
