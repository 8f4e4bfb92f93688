"""What a series' report shows: forecasts that join their past, with the times of their steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.data.series.panel import Panel
from training.families.parsing import parse_config
from training.families.series.pictures import joined, step_of
from training.families.series.task import SeriesTask
from training.reports.plots import figure_style
from training.reports.sections import Section

ROWS = 160


def written(path: Path, step: str | None) -> Path:
    values = 50 + np.random.default_rng(0).normal(0, 1, ROWS).cumsum()
    if step is None:
        path.write_text("load\n" + "".join(f"{value}\n" for value in values))
        return path
    times = pd.date_range("2024-01-01", periods=ROWS, freq=step)
    text = "".join(f"{t},{value}\n" for t, value in zip(times, values, strict=True))
    path.write_text("time,load\n" + text)
    return path


def task_of(path: Path) -> SeriesTask:
    small = {"hidden": 4, "batch": 4, "window": 8, "horizon": 5, "windows": 2, "steps": 2}
    config = parse_config({"task": "series", "csv": path, "value": "load", **small})
    return SeriesTask(config)  # type: ignore[arg-type]


def sections_of(task: SeriesTask) -> dict[str, Section]:
    task.scores()
    with figure_style():
        return {section.title: section for section in task.sections()}


def lines_of(section: Section) -> dict[str, Any]:
    (axes,) = section.pictures[0].figure.axes
    return {str(line.get_label()): line for line in axes.lines}


def test_a_forecast_begins_at_the_last_past_value(tmp_path: Path) -> None:
    task = task_of(written(tmp_path / "load.csv", "h"))
    found = sections_of(task)
    values = task.data.panel.series[0].values
    next_steps = lines_of(found["What comes next"])
    median = next_steps["median"]
    assert median.get_xdata()[0] == ROWS - 1 == next_steps["the past"].get_xdata()[-1]
    assert median.get_ydata()[0] == values[-1]
    assert len(median.get_xdata()) == 1 + 5
    over = lines_of(found["Forecasts over the truth"])["median"]
    origin = int(over.get_xdata()[0]) + 1
    assert over.get_ydata()[0] == values[origin - 1]
    with (tmp_path / "x").open("w"):
        sample = task.write_samples(tmp_path).read_text().splitlines()
    assert float(sample[-1].split(",")[4]) == pytest.approx(median.get_ydata()[-1], rel=1e-4)


def test_steps_ahead_have_their_times(tmp_path: Path) -> None:
    task = task_of(written(tmp_path / "load.csv", "h"))
    found = sections_of(task)
    section = found["What comes next"]
    assert "a step is an hour" in section.text
    (picture,) = section.pictures
    assert picture.caption == "load, 5 steps from 2024-01-07 16:00:00 to 2024-01-07 20:00:00"
    (axes,) = picture.figure.axes
    assert axes.get_xticklabels()[-1].get_text() == "2024-01-07\n20:00:00"
    assert "a step is an hour" in found["Error by steps ahead"].text


def test_rows_without_times_are_counted(tmp_path: Path) -> None:
    section = sections_of(task_of(written(tmp_path / "load.csv", None)))["What comes next"]
    assert "a step is a row of the data" in section.text
    (axes,) = section.pictures[0].figure.axes
    assert axes.get_xticklabels()[-1].get_text() == "+5"


def test_every_figure_has_one_panel(tmp_path: Path) -> None:
    for section in sections_of(task_of(written(tmp_path / "load.csv", "D"))).values():
        assert section.pictures
        for picture in section.pictures:
            assert len(picture.figure.axes) == 1
            assert picture.caption


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("h", "an hour"),
        ("30min", "30 minutes"),
        ("D", "a day"),
        ("7D", "a week"),
        ("15s", "15 seconds"),
        ("MS", "a month"),
        (None, "a row of the data"),
    ],
)
def test_a_step_is_called_what_it_is(tmp_path: Path, step: str | None, said: str) -> None:
    panel: Panel = task_of(written(tmp_path / "load.csv", step)).data.panel
    assert step_of(panel.series[0]) == f"a step is {said}"


def test_what_is_joined_is_the_past_and_the_forecast() -> None:
    places, rows = joined(np.array([1.0, 2.0, 7.0]), 2, np.array([[4.0, 5.0]]))
    assert places.tolist() == [1, 2]
    assert rows.tolist() == [[2, 2], [4, 5]]
