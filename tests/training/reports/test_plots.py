"""Axes that say where one is, in letters that a telephone shows."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from training.reports.plots import (
    FONT_PT,
    WIDTH_IN,
    count_axis,
    figure_style,
    log_axis,
    number_axis,
    panel,
    time_axis,
)

PHONE_PX = 350
"""What a page has of the 390 pixels of a telephone."""
LEAST_PX = 10


def labels_of(axes: Axes, axis: Axis) -> list[str]:
    """The labels of the ticks that are in view."""
    axes.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    margin = 1e-9 * (high - low)
    return [label.get_text() for place, label in ticks if low - margin <= place <= high + margin]


@settings(max_examples=25, deadline=None)
@given(low=st.floats(1e-6, 1e6), span=st.floats(1.0, 1e5))
@example(low=1.0, span=1.0000000000000002)
@example(low=3.0, span=1.0099)
@example(low=0.7, span=1.011)
def test_a_log_axis_has_two_labels_at_least(low: float, span: float) -> None:
    with figure_style():
        _, axes = panel("x", "y")
        axes.plot([1, 2], [low, low * span])
        log_axis(axes)
        labels = [label for label in labels_of(axes, axes.yaxis) if label]
    assert len(set(labels)) == len(labels)
    assert 2 <= len(labels) <= 9


@pytest.mark.parametrize("last", [0.4, 1, 2, 30, 5000, 2_000_000])
def test_counts_are_whole_and_unlike(last: float) -> None:
    with figure_style():
        _, axes = panel("x", "y")
        axes.plot([0, last], [1, 2])
        count_axis(axes.xaxis)
        labels = labels_of(axes, axes.xaxis)
    assert labels
    assert len(set(labels)) == len(labels)
    assert all(label.replace(",", "").isdigit() for label in labels)


@pytest.mark.parametrize("values", [[float("nan")] * 2, [0.0, 0.0]])
def test_a_log_axis_of_nothing_is_drawn(values: list[float]) -> None:
    with figure_style():
        _, axes = panel("x", "y")
        axes.plot([1, 2], values)
        log_axis(axes)
        axes.figure.canvas.draw()


@pytest.mark.parametrize(
    "values", [[1.46, 1.48], [-3.3112612, -3.3112609], [4e-5, 5e-5], [62_000, 81_000], [0, 3e9]]
)
def test_labels_of_numbers_are_unlike(values: list[float]) -> None:
    with figure_style():
        _, axes = panel("x", "y")
        axes.plot([1, 2], values)
        number_axis(axes.yaxis)
        labels = labels_of(axes, axes.yaxis)
    assert len(labels) >= 2
    assert len(set(labels)) == len(labels)


def test_letters_are_legible_on_a_telephone() -> None:
    with figure_style():
        figure, axes = panel("x", "y")
    px_per_pt = PHONE_PX / figure.get_figwidth() / 72
    smallest = min(float(label.get_fontsize()) for label in axes.get_xticklabels())
    assert smallest * px_per_pt >= LEAST_PX
    assert figure.get_figwidth() == WIDTH_IN
    assert axes.xaxis.label.get_fontsize() == FONT_PT


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        ("2024-01-01", "2024-04-09", "2024-01-01"),
        ("2024-01-01 08:00:00", "2024-01-05 11:00:00", "2024-01-01\n08:00:00"),
        ("line 2", "line 101", "line 2"),
    ],
)
def test_times_stand_under_the_first_and_the_last_row(first: str, last: str, shown: str) -> None:
    labels = [first, *["2024-02-02"] * 98, last]
    with figure_style():
        _, axes = panel("", "y")
        axes.plot(np.arange(100), np.arange(100))
        time_axis(axes, np.arange(100), labels)
        found = [label.get_text() for label in axes.get_xticklabels()]
        axes.figure.canvas.draw()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert found[0] == shown
    assert found[-1].replace("\n", " ") == last
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
