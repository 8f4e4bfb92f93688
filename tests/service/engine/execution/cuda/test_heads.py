"""Answers computed on the device are those of the CPU, whichever rows are asked for."""

import numpy as np
import pytest

from service.engine.execution.runtime import Place
from service.engine.work.columns import Answers, Outputs
from service.engine.work.sampling import Draws, Sampling
from tests.recurrent import char_case
from tests.service.engine.execution.cuda.bench import (
    MAX_BATCH,
    Array,
    Play,
    assert_near,
    case_of,
    cpu_runner,
    device_runner,
    some_inputs,
)

WANTED = {
    "char": Outputs(argmax=True, top_k=5, probabilities=True, sample=True, raw=True),
    "series": Outputs(quantiles=(0.05, 0.5, 0.95), sample=True, raw=True),
}
ROWS = 11


def draws(rows: int) -> Draws:
    """Every way to draw, side by side."""
    ways = (
        Sampling(seed=1),
        Sampling(temperature=0.0),
        Sampling(temperature=0.7, top_k=3, seed=2),
        Sampling(temperature=1.5, top_p=0.4, seed=3),
    )
    return Draws.of([ways[row % len(ways)] for row in range(rows)])


def agree(found: Answers, expected: Answers, place: Place) -> None:
    assert found.columns.keys() == expected.columns.keys()
    for name, mine in found.columns.items():
        theirs = expected.columns[name]
        assert mine.dtype == theirs.dtype
        if mine.dtype == np.int32:
            assert np.array_equal(mine, theirs), name
        else:
            assert_near(mine, theirs, place, name)


@pytest.mark.parametrize("kind", ["char", "series"])
def test_answers_are_those_of_the_cpu(kind: str, place: Place) -> None:
    model = case_of(kind).model
    device, cpu = Play(device_runner(model, place)), Play(cpu_runner(model))
    slots, positions = np.arange(ROWS), np.arange(ROWS) + 1
    inputs = some_inputs(kind, ROWS, 1)
    found = device.step(slots, inputs, fresh=True)
    expected = cpu.step(slots, inputs, fresh=True).copy()
    args = WANTED[kind], draws(ROWS), positions
    whole = device.runner.answer(found, *args)
    agree(whole, cpu.runner.answer(expected, *args), place)
    for start, stop in ((0, 1), (2, 7), (10, 11)):
        rows = slice(start, stop)
        some = draws(ROWS).take(rows)
        part = device.runner.answer(found[rows], WANTED[kind], some, positions[rows])
        same(part, whole.rows(start, stop))
    host: Array = np.asarray(found)
    same(device.runner.answer(host, *args), whole)


def same(found: Answers, expected: Answers) -> None:
    """Bit for bit."""
    assert found.columns.keys() == expected.columns.keys()
    for name, column in found.columns.items():
        assert np.array_equal(column, expected.columns[name]), name


def test_many_predictions_are_answered_in_pieces(place: Place) -> None:
    """A reply of several steps is longer than a run."""
    model = case_of("char").model
    device, cpu = device_runner(model, place), cpu_runner(model)
    rows = 2 * MAX_BATCH + 3
    predictions = np.random.default_rng(4).normal(size=(rows, 27)).astype(np.float32)
    args = WANTED["char"], draws(rows), np.arange(rows)
    found = device.answer(predictions, *args)
    agree(found, cpu.answer(predictions, *args), place)


@pytest.mark.parametrize("k", [1, 2, 3, 27])
def test_any_number_of_top_tokens(k: int, place: Place) -> None:
    model = case_of("char").model
    device, cpu = Play(device_runner(model, place)), Play(cpu_runner(model))
    inputs = some_inputs("char", 3, 1)
    answers = [
        play.runner.answer(
            play.step([0, 1, 2], inputs, fresh=True), Outputs(top_k=k), None, np.ones(3, np.int64)
        )
        for play in (device, cpu)
    ]
    assert answers[0].top_tokens is not None
    assert answers[0].top_tokens.shape == (3, k)
    agree(answers[0], answers[1], place)


def test_a_large_vocabulary_is_summed_otherwise(place: Place) -> None:
    """Beyond 128 tokens the heads use another operator."""
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    model = char_case(symbols=symbols).model
    device, cpu = device_runner(model, place), cpu_runner(model)
    predictions = np.random.default_rng(5).normal(size=(9, 200)).astype(np.float32)
    args = Outputs(sample=True, argmax=True, top_k=7), draws(9), np.arange(9)
    agree(device.answer(predictions, *args), cpu.answer(predictions, *args), place)


def test_joined_answers_have_all_rows() -> None:
    one = Answers.of(argmax=np.array([1, 2], np.int32))
    both = Answers.joined([one, Answers.of(argmax=np.array([3], np.int32))])
    assert both.argmax is not None
    assert both.argmax.tolist() == [1, 2, 3]
    assert both.raw is None
    assert Answers.joined([one]) is one
