"""Scores against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from training.families.char import evaluation
from training.networks.recurrent import State


def uniform(x: Tensor, state: State) -> tuple[Tensor, State]:
    """A model that knows nothing: the same logits for 5 symbols everywhere."""
    return torch.zeros(*x.shape, 5), state


def counting(x: Tensor, state: State) -> tuple[Tensor, State]:
    """A model that is sure of the next symbol once its state has seen 300 steps."""
    seen = state[0] + torch.arange(1, x.shape[1] + 1)  # (batch, time)
    sure = torch.nn.functional.one_hot((x + 1) % 5, 5) * 100.0
    return torch.where((seen > 300)[..., None], sure, 0.0), (seen[:, -1:],)


def no_state(batch: int) -> State:
    return (torch.zeros(batch, 1),)


@pytest.mark.parametrize("characters", [3, 256, 257, 5000])
def test_knowing_nothing_costs_the_logarithm_of_the_vocabulary(characters: int) -> None:
    tokens = torch.randint(0, 5, (characters,))
    for score in (evaluation.cold256, evaluation.carried):
        assert score(uniform, no_state, tokens) == pytest.approx(math.log(5), rel=1e-5)


def test_only_the_carried_pass_profits_from_a_long_memory() -> None:
    tokens = torch.arange(3001) % 5
    assert evaluation.cold256(counting, no_state, tokens) == pytest.approx(math.log(5), rel=1e-5)
    expected = math.log(5) * 300 / 3000
    assert evaluation.carried(counting, no_state, tokens) == pytest.approx(expected, rel=1e-5)


def test_scores_of_a_part_are_of_all_over_the_text() -> None:
    ticks = iter(range(100))
    patience = evaluation.Patience(2, clock=lambda: float(next(ticks)))
    tokens = torch.zeros(256 * 640 + 1, dtype=torch.int64)
    tokens[256 * 320 :] = 1  # a part from the start alone would be all zeros

    def sure(x: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.nn.functional.one_hot(torch.zeros_like(x), 2) * 100.0, state

    found = evaluation.cold256(sure, no_state, tokens, patience=patience)
    assert patience.share == 0.2
    assert found == pytest.approx(50.0, rel=0.3)
    ticks = iter(range(100))
    patience = evaluation.Patience(2, clock=lambda: float(next(ticks)))
    assert evaluation.carried(sure, no_state, tokens, patience=patience) == 0.0
    assert patience.share == pytest.approx(2 * 1024 / (256 * 640 - 13_840), rel=0.05)


def test_with_time_enough_all_is_scored() -> None:
    tokens = torch.arange(3001) % 5
    for score in (evaluation.cold256, evaluation.carried):
        patience = evaluation.Patience(1000.0)
        expected = score(counting, no_state, tokens)
        assert score(counting, no_state, tokens, patience=patience) == pytest.approx(expected)
        assert patience.share == 1.0
