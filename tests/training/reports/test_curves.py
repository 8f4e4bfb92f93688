"""The curves of a fit: one panel each, without what the last few steps would feign."""

import numpy as np
import pytest

from training.reports.curves import clipping, thinned, training_curves, whole_points
from training.reports.plots import figure_style


def records(*steps: int, loss: float = 2.0) -> list[dict[str, float]]:
    return [
        {"step": step, "loss": loss, "gradient_norm": 3.0, "learning_rate": 0.1, "seconds": step}
        for step in steps
    ]


def test_a_record_of_the_steps_that_were_left_is_not_drawn() -> None:
    history = [*records(10, 20, 30), *records(31, loss=0.1), *records(40, loss=0.2)]
    assert whole_points(history, "loss").tolist() == [[10, 20, 30], [2, 2, 2]]
    assert whole_points(records(7), "loss").tolist() == [[7], [2]]
    assert whole_points(records(10, 14), "loss").tolist() == [[10, 14], [2, 2]]
    assert whole_points([], "loss").shape == (2, 0)


@pytest.mark.parametrize("count", [1, 399, 400, 401, 100_000])
def test_long_curves_are_drawn_by_stretches(count: int) -> None:
    found = np.array([np.arange(count), np.sin(np.arange(count))])
    thin = thinned(found, np.max)
    assert thin.shape[1] == min(count, 400)
    assert thin[0, -1] == count - 1
    assert thin[1].max() == found[1].max()
    assert (np.diff(thin[0]) > 0).all()


def test_each_quantity_has_a_panel_of_its_own() -> None:
    history = [{"step": 0, "validation": 3.0}, *records(10, 20), {"step": 20, "validation": 1.0}]
    with figure_style():
        pictures = training_curves(history, loss_name="nats per word", clip=1.0, kept_step=20)
    assert [len(picture.figure.axes) for picture in pictures] == [1, 1, 1]
    assert pictures[0].caption == "Loss: nats per word"
    (axes,) = pictures[0].figure.axes
    assert [line.get_label() for line in axes.lines] == ["training", "validation", "weights kept"]


def test_a_run_that_has_just_begun_has_what_it_has() -> None:
    with figure_style():
        pictures = training_curves(
            [{"step": 0, "validation": 3.0}], loss_name="nats", clip=1.0, kept_step=None
        )
        assert training_curves([], loss_name="nats", clip=1.0, kept_step=None) == ()
    assert [picture.caption for picture in pictures] == ["Loss: nats"]


def test_clipping_is_told_with_its_share() -> None:
    assert clipping(records(10, 20), clip=1.0) == "In 100 % of them it was above 1, and clipped."
    assert clipping(records(10), clip=5.0).startswith("It was never above 5,")
