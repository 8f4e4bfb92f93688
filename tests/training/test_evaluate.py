"""Scores against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training import evaluate
from training.evaluate import LEVELS
from training.networks import State


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
    for score in (evaluate.cold256, evaluate.carried):
        assert score(uniform, no_state, tokens) == pytest.approx(math.log(5), rel=1e-5)


def test_only_the_carried_pass_profits_from_a_long_memory() -> None:
    tokens = torch.arange(3001) % 5
    assert evaluate.cold256(counting, no_state, tokens) == pytest.approx(math.log(5), rel=1e-5)
    expected = math.log(5) * 300 / 3000
    assert evaluate.carried(counting, no_state, tokens) == pytest.approx(expected, rel=1e-5)


def test_quantile_loss_of_a_point_forecast() -> None:
    truth = np.array([10.0, 20.0])
    forecast = np.repeat(np.array([[8.0], [26.0]]), 9, axis=1)
    # Too low by 2 costs 2 q 2, too high by 6 costs 2 (1 - q) 6; the mean of q is a half.
    assert evaluate.quantile_loss(truth, forecast) == pytest.approx((2 + 6) / 30)


def test_gaussian_walk_with_the_true_volatility_covers_four_fifths() -> None:
    rng = np.random.default_rng(0)
    changes = rng.normal(0, 0.02, 20_000)
    values = 100 * np.exp(np.cumsum(changes))
    score = evaluate.gaussian_walk(
        values[:-1], values[1:], changes[1:], np.full(19_999, 0.02), logarithmic=True
    )
    assert score.coverage == pytest.approx(0.8, abs=0.01)
    assert score.nll == pytest.approx(0.5 + math.log(0.02 * math.sqrt(2 * math.pi)), abs=0.02)
    assert score.loss < evaluate.last_value(values[:-1], values[1:]).loss
    assert len(LEVELS) == 9
