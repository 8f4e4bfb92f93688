"""Rolling backtests against values worked out by hand, and baselines against what they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data.series.columns import Columns
from training.data.series.reading import read_panel
from training.families.series.backtesting.backtest import (
    LEVELS,
    Backtest,
    Protocol,
    Window,
    backtest,
)
from training.families.series.backtesting.baselines import (
    ewma_walk,
    last_value,
    seasonal_naive,
    usual,
    window_walk,
)

EXCHANGE_RATE = Path(__file__).parents[4] / "shared" / "data" / "exchange_rate.txt.gz"


def point(truth: np.ndarray, forecast: np.ndarray) -> Backtest:
    """A point forecast of one window."""
    return Backtest(
        protocol=Protocol(horizon=len(truth), windows=1, stride=1),
        windows=(Window(series=0, origin=9),),
        truth=truth[None],
        scale=np.array([4.0]),
        forecasts={"point": np.repeat(forecast[None, :, None], 9, axis=2)},
    )


def test_loss_of_a_point_forecast() -> None:
    score = point(np.array([10.0, 20.0]), np.array([8.0, 26.0])).score("point")
    # Too low by 2 costs 2 q 2, too high by 6 costs 2 (1 - q) 6; the mean of q is a half.
    assert score.loss == pytest.approx((2 + 6) / 30)
    assert score.by_horizon == pytest.approx((2 / 10, 6 / 20))
    assert score.mase == pytest.approx((2 + 6) / 2 / 4)
    assert score.coverage is None
    assert score.below == pytest.approx([0.5] * 9)


def test_an_error_in_units_of_no_change_is_no_number() -> None:
    flat = replace(point(np.array([10.0, 20.0]), np.array([8.0, 26.0])), scale=np.zeros(1))
    assert np.isnan(flat.score("point").mase)


def test_windows_follow_each_other_to_the_end() -> None:
    protocol = Protocol.within(150, horizon=30, windows=20)
    assert (protocol.windows, protocol.stride) == (5, 30)
    assert protocol.origins(6221) == (6071, 6101, 6131, 6161, 6191)
    assert Protocol.within(7, horizon=30, windows=20).origins(100) == (93,)
    assert Protocol(horizon=3, windows=3, stride=1).origins(10) == (5, 6, 7)


def test_forecasts_see_only_the_past() -> None:
    values = np.arange(1.0, 41.0)
    seen: list[np.ndarray] = []

    def spy(past: np.ndarray, horizon: int, levels: tuple[float, ...]) -> np.ndarray:
        seen.append(past)
        return last_value(past, horizon, levels)

    protocol = Protocol(horizon=5, windows=2, stride=5)
    found = backtest([values, values * 2], protocol, forecasters={}, baselines={"spy": spy})
    assert [len(past) for past in seen] == [30, 35, 30, 35]
    assert found.truth.tolist()[1] == [36, 37, 38, 39, 40]
    assert found.score("spy").mase == pytest.approx(3)  # 1 to 5 steps of one
    with pytest.raises(ValueError, match="has no past"):
        backtest([values], Protocol(horizon=30, windows=2, stride=30), forecasters={}, baselines={})


def test_gaussian_walks_cover_what_they_say_and_beat_the_last_value() -> None:
    rng = np.random.default_rng(0)
    values = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, 4000)))
    found = backtest(
        [values],
        Protocol(horizon=10, windows=300, stride=10),
        forecasters={},
        baselines=usual(logarithmic=True, season=None)
        | {"long": ewma_walk(logarithmic=True, decay=0.999)},
    )
    score = found.score("long")
    assert score.coverage == pytest.approx(0.8, abs=0.03)
    assert score.below == pytest.approx(LEVELS, abs=0.05)
    assert score.coverage_by_horizon == pytest.approx([0.8] * 10, abs=0.08)
    losses = {name: found.score(name).loss for name in found.forecasts}
    assert min(losses, key=losses.__getitem__) == "long"
    assert max(losses, key=losses.__getitem__) == "last_value"


def test_seasonal_naive_repeats_the_last_season() -> None:
    past = np.array([9.0, 9, 9, 1, 2, 3])
    assert seasonal_naive(3)(past, 5, (0.5,))[:, 0].tolist() == [1, 2, 3, 1, 2]
    assert "seasonal_naive" in usual(logarithmic=False, season=3)


def test_walk_of_levels_is_additive() -> None:
    past = np.cumsum(np.tile([2.0, -2.0], 30))
    low, middle, high = window_walk(logarithmic=False)(past, 4, (0.1, 0.5, 0.9))[3]
    assert middle == past[-1]
    assert high - middle == pytest.approx(middle - low) == pytest.approx(2 * 2 * 1.2816, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "loss"), [("last_value", 0.0093), ("month_walk", 0.00697), ("gaussian_walk", 0.00699)]
)
def test_published_protocol_gives_the_known_figures(name: str, loss: float) -> None:
    if not EXCHANGE_RATE.exists():
        pytest.skip("exchange_rate.txt.gz is not on this machine; it is not part of the project")
    panel = read_panel(EXCHANGE_RATE, Columns()).head(6221)
    found = backtest(
        [series.values for series in panel.series],
        Protocol(horizon=30, windows=5, stride=30),
        forecasters={},
        baselines={name: usual(logarithmic=True, season=None)[name]},
    )
    assert found.score(name).loss == pytest.approx(loss, abs=1e-5 if name != "last_value" else 5e-5)
