"""Scaling against a plain reference written in numpy, and across chunk borders."""

import numpy as np
import pytest
import torch

from training.data.series.columns import TimeFeature
from training.export.exporter import export
from training.export.onnx_model import OnnxModel
from training.families.series.features import CASES, Features, Number
from training.families.series.network import SeriesNetwork
from training.families.series.scaling import FLOOR, NORMAL, PRIOR, Scaling
from training.families.series.settings import Transform
from training.settings import Cell

DECAYS, UNIT = (0.9, 0.97), 0.015


def reference(values: np.ndarray, transform: Transform, lag: int) -> dict[str, np.ndarray]:
    """States and predictions after each value, in float64, one value at a time."""
    sums, weights = np.zeros(2), np.zeros(2)
    decays = np.array(DECAYS)
    rows: dict[str, list[np.ndarray]] = {"size_sums": [], "size_weights": [], "spread": []}
    for place, value in enumerate(values):
        if place >= lag:
            previous = values[place - lag]
            log = transform is Transform.LOG_RETURN
            change = np.log(value / previous) if log else value - previous
            sums = decays * sums + (1 - decays) * NORMAL * abs(change) / UNIT
            weights = decays * weights + (1 - decays)
        prior = PRIOR * (1 - weights)
        rows["size_sums"].append(sums)
        rows["size_weights"].append(weights)
        rows["spread"].append(UNIT * ((sums + prior) / (weights + prior) + FLOOR))
    return {name: np.array(column) for name, column in rows.items()}


def walk(steps: int) -> np.ndarray:
    return 80 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.02, steps)))


@pytest.mark.parametrize("lag", [1, 5])
@pytest.mark.parametrize("transform", Transform)
def test_graph_states_follow_the_running_size(transform: Transform, lag: int) -> None:
    values = walk(60)
    network = SeriesNetwork(
        cell=Cell.GRU, hidden=4, transform=transform, change_scale=UNIT, decays=DECAYS, lag=lag
    )
    model = OnnxModel(*export(network))
    expected = reference(values, transform, lag)
    state = model.initial_state(1)
    read: list[np.float32] = []
    for place, value in enumerate(values):
        read.append(np.float32(value))
        found, state = model.run(np.full((1, 1, 1), value, np.float32), state)
        for name in ("size_sums", "size_weights"):
            np.testing.assert_allclose(state[name][0], expected[name][place], rtol=1e-3)
        spread = found["distribution"][0, 0, 5]
        assert spread == pytest.approx(expected["spread"][place][0], rel=1e-3)
        # Before there are `lag` values, those missing are the first.
        history = ([read[0]] * lag + read)[-lag:]
        assert state["history"][0].tolist() == history
        assert found["distribution"][0, 0, 4] == history[0]
        assert state["seen"][0, 0] == min(place + 1, lag)


def test_first_value_of_a_sequence_is_no_change() -> None:
    scaling = Scaling(transform=Transform.DIFFERENCE, change_scale=UNIT, decays=DECAYS)
    scaled, state = scaling(torch.full((1, 1, 1), 123.0), scaling.initial_state(1))
    assert scaled.features[..., 0].tolist() == [[0.0]]
    assert float(scaled.spread) == pytest.approx(UNIT * (1 + FLOOR))
    assert [part.flatten().tolist() for part in state] == [[123.0], [1.0], [0.0, 0.0], [0.0, 0.0]]


def test_one_jump_does_not_blow_the_size_up() -> None:
    """As a running variance would: it would be 19 times too large right after."""
    values = torch.cumsum(torch.tensor([0.0] + [1.0, -1.0] * 200 + [80.0]), 0)[None, :, None]
    scaling = Scaling(transform=Transform.DIFFERENCE, change_scale=1.0, decays=(0.94,))
    scaled, _ = scaling(values, scaling.initial_state(1))
    assert float(scaled.spread[0, -1] / scaled.spread[0, -2]) < 6


def test_a_series_of_another_size_is_soon_read_like_training() -> None:
    """So that one model serves many series: training's size is only where it begins."""
    small = torch.tensor(walk(200), dtype=torch.float32)[None, :, None]
    scaling = Scaling(transform=Transform.DIFFERENCE, change_scale=1.0, decays=(0.94,))
    usual, _ = scaling(small, scaling.initial_state(1))
    larger, _ = scaling(small * 1000, scaling.initial_state(1))
    ratio = larger.spread[0, 100:] / usual.spread[0, 100:]
    assert ratio.min() > 950
    assert ratio.max() < 1050


@pytest.mark.parametrize("lag", [1, 4])
@pytest.mark.parametrize("border", [1, 7, 69])
def test_chunks_join_seamlessly(border: int, lag: int) -> None:
    scaling = Scaling(transform=Transform.LOG_RETURN, change_scale=UNIT, decays=DECAYS, lag=lag)
    values = torch.tensor(walk(70), dtype=torch.float32)[None, :, None]
    whole, end = scaling(values, scaling.initial_state(1))
    first, state = scaling(values[:, :border], scaling.initial_state(1))
    second, joined = scaling(values[:, border:], state)
    for name in ("features", "anchor", "spread"):
        parts = torch.cat([getattr(first, name), getattr(second, name)], 1)
        torch.testing.assert_close(parts, getattr(whole, name))
    for one, other in zip(joined, end, strict=True):
        torch.testing.assert_close(one, other)


def columns() -> tuple[Features, np.ndarray]:
    rng = np.random.default_rng(5)
    rows = np.column_stack([np.exp(rng.normal(9, 1, 50)), rng.normal(3, 2, 50), np.arange(50) % 7])
    numbers = tuple(
        Number.seen_in(name, [rows[:, place]]) for place, name in enumerate(("Volume", "Wind"))
    )
    return Features(numbers=numbers, times=(TimeFeature.WEEKDAY,)), rows.astype(np.float32)


def test_features_are_changes_levels_and_cases() -> None:
    features, rows = columns()
    assert features.columns == ("Volume", "Wind", "weekday")
    assert [number.transform for number in features.numbers] == list(Transform)
    read, _ = features(torch.from_numpy(rows)[None], torch.zeros(1, 1), features.initial_state(1))
    assert read.shape == (1, 50, features.width)
    assert features.width == 2 + 2 + len(CASES[TimeFeature.WEEKDAY])
    volume, wind = np.log(rows[:, 0]), rows[:, 1]
    found = read[0].numpy()
    assert found[0, 0] == found[0, 2] == 0  # nothing came before the first step
    scale = NORMAL * np.abs(np.diff(volume)).mean()
    np.testing.assert_allclose(found[1:, 0], np.diff(volume) / scale, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 3], (wind - wind.mean()) / wind.std(), atol=1e-4)
    np.testing.assert_array_equal(found[:, 4:].argmax(1), rows[:, 2])
    assert (found[:, 4:].sum(1) == 1).all()


def test_level_of_a_column_that_drifts_is_not_read() -> None:
    assert Number.seen_in("Open", [np.linspace(10, 500, 100)]).drifts
    assert not Number.seen_in("Wind", [np.sin(np.arange(100.0))]).drifts


def test_graph_reads_columns_as_the_network_does() -> None:
    features, rows = columns()
    network = SeriesNetwork(feature="Load", hidden=4, lag=3, features=features)
    torch.nn.init.normal_(network.head.linear.weight)
    model = OnnxModel(*export(network.eval()))
    assert model.manifest.input.features == ("Load", "Volume", "Wind", "weekday")  # type: ignore[union-attr]
    values = np.column_stack([walk(50), rows]).astype(np.float32)[None]
    values[0, 30, 1] = -5  # a logarithm is taken of it: counts as hardly anything, not as NaN
    with torch.no_grad():
        expected, _ = network(torch.from_numpy(values), network.initial_state(1))
    found, _ = model.run(values, model.initial_state(1))
    np.testing.assert_allclose(found["distribution"], expected.numpy(), rtol=2e-3, atol=2e-3)
