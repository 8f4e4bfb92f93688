"""Scaling against a plain reference written in numpy, and across chunk borders."""

import numpy as np
import pytest
import torch

from training.config import Cell, Transform
from training.export import export
from training.networks import SeriesNetwork
from training.parity import OnnxModel
from training.scaling import PRIOR, Scaling

DECAY, UNIT = 0.9, 0.015


def reference(values: np.ndarray, transform: Transform) -> dict[str, np.ndarray]:
    """The states after each value, in float64, one value at a time."""
    total = weight = 0.0
    rows: dict[str, list[float]] = {"variance_sum": [], "variance_weight": [], "spread": []}
    for place, value in enumerate(values):
        if place > 0:
            previous = values[place - 1]
            log = transform is Transform.LOG_RETURN
            change = np.log(value / previous) if log else value - previous
            total = DECAY * total + (1 - DECAY) * (change / UNIT) ** 2
            weight = DECAY * weight + (1 - DECAY)
        rows["variance_sum"].append(total)
        rows["variance_weight"].append(weight)
        rows["spread"].append(UNIT * np.sqrt((total + PRIOR) / (weight + PRIOR)))
    return {name: np.array(column) for name, column in rows.items()}


def walk(steps: int) -> np.ndarray:
    return 80 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.02, steps)))


@pytest.mark.parametrize("transform", Transform)
def test_graph_states_follow_the_running_mean(transform: Transform) -> None:
    values = walk(60)
    network = SeriesNetwork(
        cell=Cell.GRU, hidden=4, transform=transform, change_scale=UNIT, decay=DECAY
    )
    model = OnnxModel(*export(network))
    expected = reference(values, transform)
    state = model.initial_state(1)
    for place, value in enumerate(values):
        found, state = model.run(np.full((1, 1, 1), value, np.float32), state)
        for name in ("variance_sum", "variance_weight"):
            assert state[name][0, 0] == pytest.approx(expected[name][place], rel=1e-3)
        assert found["distribution"][0, 0, 4] == np.float32(value)
        assert found["distribution"][0, 0, 5] == pytest.approx(expected["spread"][place], rel=1e-3)
        assert state["last_value"][0, 0] == np.float32(value)


def test_first_value_of_a_sequence_is_no_change() -> None:
    scaling = Scaling(transform=Transform.DIFFERENCE, change_scale=UNIT, decay=DECAY)
    scaled, state = scaling(torch.full((1, 1, 1), 123.0), scaling.initial_state(1))
    assert scaled.features.tolist() == [[[0.0, 0.0]]]
    assert float(scaled.spread) == pytest.approx(UNIT)
    assert [float(part) for part in state] == [123.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("border", [1, 7, 29])
def test_chunks_join_seamlessly(border: int) -> None:
    scaling = Scaling(transform=Transform.LOG_RETURN, change_scale=UNIT, decay=DECAY)
    values = torch.tensor(walk(30), dtype=torch.float32)[None, :, None]
    whole, end = scaling(values, scaling.initial_state(1))
    first, state = scaling(values[:, :border], scaling.initial_state(1))
    second, joined = scaling(values[:, border:], state)
    assert torch.equal(torch.cat([first.features, second.features], 1), whole.features)
    assert all(torch.equal(a, b) for a, b in zip(joined, end, strict=True))
