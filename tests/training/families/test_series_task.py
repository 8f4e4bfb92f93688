"""Series tasks: several series at once, seasons, columns beside the value; scores and verdict."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.manifest import ValuesInput
from models.repository import ModelRepository
from training.errors import ConfigError
from training.families.parsing import parse_config
from training.families.reading_order import Streams, Stretch
from training.families.series.report import verdict
from training.families.series.task import SeriesTask
from training.run.fit import train

SMALL = {"hidden": 4, "batch": 4, "window": 8, "horizon": 5, "windows": 2, "steps": 2}


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines))
    return path


def hours(rows: int) -> np.ndarray:
    start = np.datetime64("2024-01-01T00:00")
    return start + np.arange(rows) * np.timedelta64(1, "h")


def task_of(path: Path, **settings: Any) -> SeriesTask:
    torch.manual_seed(0)
    config = parse_config({"task": "series", "csv": path, **SMALL, **settings})
    return SeriesTask(config)  # type: ignore[arg-type]


def test_streams_of_one_series_walk_on_one_circle() -> None:
    streams = Streams(stretches=(Stretch(start=0, length=500),), batch=3, window=16, seed=5)
    assert streams.windows_per_pass == 10
    for step in range(40):
        turn, window = divmod(step, 10)
        offset = int(np.random.default_rng((5, turn)).integers(500))
        starts = torch.arange(3) * 500 // 3
        places = torch.arange(16) + (offset + window * 16)
        assert torch.equal(streams.at(step).index, (starts[:, None] + places) % 500)
        assert streams.at(step).fresh.tolist() == [window == 0] * 3


def test_a_stream_stays_on_its_series() -> None:
    stretches = (Stretch(start=7, length=100), Stretch(start=200, length=40))
    streams = Streams(stretches=stretches, batch=7, window=10, seed=0)
    owners = [set(range(7, 107)), set(range(200, 240))]
    seen: set[int] = set()
    for step in range(30):
        for row in streams.at(step).index.tolist():
            assert any(set(row) <= owner for owner in owners)
            seen |= set(row)
    assert seen == owners[0] | owners[1]


def test_several_series_are_scaled_each_by_its_own_past(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = np.cumsum(rng.normal(0, 1, 200))
    path = write(tmp_path / "two.csv", {"a": a, "b": 50 * a})
    task = task_of(path, value=["a", "b"], transform="difference")
    targets = task._targets[task._places("first", "validation")].reshape(2, -1)
    # The same changes in other units are the same to the network, once the start is forgotten.
    torch.testing.assert_close(targets[0, 100:], targets[1, 100:], rtol=0.03, atol=0.03)
    assert task.network.columns == ("value",)
    assert len(task.one_step().windows) == 2 * 20


def test_a_season_is_learnt_before_any_training(tmp_path: Path) -> None:
    rows = 480
    day = 100 + 20 * np.sin(np.arange(rows) * 2 * np.pi / 24)
    noise = np.random.default_rng(1).normal(0, 1, rows)
    path = write(tmp_path / "load.csv", {"time": hours(rows), "load": day + noise})
    task = task_of(path, value="load", season=24)
    assert not task.data.logarithmic
    scores = task.scores()
    walks = ("last_value", "gaussian_walk", "month_walk")
    own = scores["backtest.mean_wQuantileLoss"]
    assert all(own < 0.7 * scores[f"backtest.{walk}.mean_wQuantileLoss"] for walk in walks)
    assert own < scores["backtest.seasonal_naive.mean_wQuantileLoss"]
    assert 0.6 < scores["backtest.coverage80"] < 0.95


def test_a_sample_forecast_says_when(tmp_path: Path) -> None:
    values = 100 + np.cumsum(np.random.default_rng(3).normal(0, 1, 80))
    path = write(tmp_path / "p.csv", {"Date": hours(80)[::-1], "Close": values})
    sample = task_of(path, value="Close").write_samples(tmp_path)
    rows = [line.split(",") for line in sample.read_text().splitlines()]
    assert rows[0] == ["series", "step", "date", "q10", "q50", "q90"]
    assert [row[2] for row in rows[1:3]] == ["2024-01-04 08:00:00", "2024-01-04 09:00:00"]


def test_columns_beside_the_value_are_trained_on_and_served(tmp_path: Path) -> None:
    rows = 300
    rng = np.random.default_rng(2)
    volume = np.exp(rng.normal(5, 1, rows))
    price = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, rows)))
    path = write(tmp_path / "p.csv", {"Date": hours(rows), "Close": price, "Volume": volume})
    config = parse_config(
        {
            "task": "series",
            "csv": path,
            "value": "Close",
            "feature": "Volume",
            "time_feature": ["hour"],
            "models": tmp_path / "m",
            "runs": tmp_path / "r",
            **SMALL,
        }
    )
    run = train(config)
    assert run.scores["backtest.horizon"] == 5  # with the true volumes
    assert run.scores["onnx_gap"] < 1e-4
    manifest = ModelRepository(tmp_path / "m").load("series").manifest
    assert isinstance(manifest.input, ValuesInput)
    assert manifest.input.features == ("Close", "Volume", "hour")
    rows_written = (run.folder / "forecast.csv").read_text().splitlines()
    assert len(rows_written) == 2  # the volumes to come are not known
    report = (run.folder / "report.html").read_text()
    assert "the network was given the true Volume, hour of each step" in report
    assert "the future of Volume, hour is not known" in report


def scores_of(network: float, walk: float) -> dict[str, float]:
    key = "mean_wQuantileLoss"
    one = {key: 1.0, f"fitted_walk.{key}": 1.1, f"last_value.{key}": 2.0}
    ahead = {
        f"backtest.{key}": network,
        f"backtest.fitted_walk.{key}": walk,
        f"backtest.last_value.{key}": 3.0,
        "backtest.horizon": 30.0,
        "backtest.windows": 5.0,
        "backtest.windows_won": 2.0,
    }
    return {**one, **ahead, "nll": 1.0, "fitted_walk.nll": 1.1}


def test_verdict_says_plainly_what_the_network_beats() -> None:
    good = verdict(scores_of(0.9, 1.0))
    assert "on 30 steps ahead it beats all baselines: 10.0 % below the best" in good
    bad = verdict(scores_of(1.1, 1.0))
    assert "it does NOT beat: random walk, fitted Johnson SU (10 % above the best of them)" in bad
    for said in (good, bad):
        assert "in 2 of 5 windows" in said
        assert "weak evidence" in said
    untrained = scores_of(1.0, 1.0) | {"nll": 1.1}
    assert "this model IS that walk" in verdict(untrained)


def test_no_verdict_counts_in_shares_of_nothing() -> None:
    key = "mean_wQuantileLoss"
    perfect = scores_of(0.0, 0.0) | {f"backtest.last_value.{key}": 0.0}
    said = verdict(perfect)
    assert "100" not in said
    assert "on 30 steps ahead it does NOT beat: last value; random walk" in said
    assert "(equal to the best of them)" in said
    worse = verdict(scores_of(0.25, 0.0))
    assert "(0.2500 against 0 of the best of them)" in worse


@pytest.mark.parametrize("driftless", [True, False])
def test_a_driftless_network_expects_as_much_up_as_down(tmp_path: Path, driftless: bool) -> None:
    rng = np.random.default_rng(3)
    path = write(tmp_path / "p.csv", {"Close": 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 200)))})
    task = task_of(path, value="Close", driftless=driftless)
    optimizer = torch.optim.Adam(task.network.parameters(), lr=0.01)
    for step in range(5):
        window = task.streams.at(step)
        loss, _ = task.loss(task.network, window.index, task.training_state(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        y, _ = task.network(task.data.rows[0][None], task.network.initial_state(1))
    assert bool((y[..., [0, 2]] == 0).all()) == driftless
    assert float(y[0, 5:, 1].std()) > 1e-6


def test_a_future_without_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="future has the columns of feature, and there is none"):
        task_of(tmp_path / "p.csv", value="Close", future=tmp_path / "f.csv")


def test_times_go_on_by_the_calendar(tmp_path: Path) -> None:
    rows = 200
    path = write(tmp_path / "p.csv", {"Date": hours(rows), "load": np.arange(rows) % 24 + 1.0})
    task = task_of(path, value="load", time_feature=["hour"])
    assert len(task.write_samples(tmp_path).read_text().splitlines()) == 1 + 5
    note = next(note for note in task.notes if note.what == "future of hour")
    assert note.detail == (
        "2024-01-09 08:00:00 to 2024-01-09 12:00:00, as the calendar goes on after load"
    )
    uneven = np.delete(hours(rows), [3, 4, 9])
    path = write(tmp_path / "u.csv", {"Date": uneven, "load": np.arange(rows - 3) % 24 + 1.0})
    task = task_of(path, value="load", time_feature=["hour"])
    assert len(task.write_samples(tmp_path).read_text().splitlines()) == 1 + 1
    assert any("the forecast of the run is of 1 step" in note.what for note in task.notes)


def test_the_true_features_are_read_at_their_own_steps(tmp_path: Path) -> None:
    rows = 200
    rng = np.random.default_rng(4)
    path = write(tmp_path / "p.csv", {"y": rng.normal(0, 1, rows), "a": rng.normal(0, 1, rows)})
    task = task_of(path, value="y", feature=["a"], transform="difference")
    torch.nn.init.normal_(task.network.head.linear.weight, std=0.5)
    task.network.eval()
    before = task.ahead()
    series = task.data.rows[0]
    series[-1, 1] += 3  # behind the last step that any forecast reads
    assert np.array_equal(task.ahead().forecasts["network"], before.forecasts["network"])
    series[-2, 1] += 3  # read before the last step of the last window
    changed = task.ahead().forecasts["network"] != before.forecasts["network"]
    assert changed[-1, -1].all()
    changed[-1, -1] = False
    assert not changed.any()
