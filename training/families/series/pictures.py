"""What a series' forecasts look like, over the truth and from its end."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.data.series.dates.calendar import Calendar, Labels
from training.data.series.panel import Panel, Series
from training.families.series.backtesting.backtest import Backtest, Floats
from training.families.series.backtesting.baselines import TITLES
from training.families.series.report import given
from training.reports.plots import (
    Picture,
    count_axis,
    legend_above,
    number_axis,
    panel,
    share_axis,
    time_axis,
    wrapped,
)
from training.reports.sections import Section

NETWORK = "network"
FANS = 4
"""Windows drawn, and series whose future is."""
BEFORE = 60
"""Rows of the past drawn before a fan."""
TAIL_ROWS = 150
"""Steps drawn of the one-step tail."""
OUTER, INNER = (0, -1), (2, -3)
"""Of the levels .1 … .9: those around 80 % and 40 %."""


def sections(
    data: Panel,
    *,
    ahead: Backtest | None,
    one_step: Backtest,
    future: Floats,
    beside: Sequence[str] = (),
) -> list[Section]:
    """The figures of a report.

    Args:
        data: the series.
        ahead: forecasts of several steps, where there are such.
        one_step: forecasts of each next value.
        future: the forecast of what follows each series, ``(series, horizon, levels)``.
        beside: what the network reads beside the value.
    """
    step = step_of(data.series[0])
    short = ""
    if ahead is not None and beside and future.shape[1] == 1:
        short = " It goes one step ahead: what stands beside the value is not known further on."
    found = [
        Section(
            title="What comes next",
            text=f"The forecast from the last row on: {step}. {_BANDS} forecast.csv has the "
            f"numbers.{short}",
            pictures=_future(data, future),
        )
    ]
    calibration = Section(
        title="Calibration",
        text="How often the truth was at or below each quantile: on the diagonal the "
        "probabilities can be taken at their word.",
        pictures=(_calibration(ahead, one_step),),
    )
    tail = Section(
        title="The next value, step by step",
        text="The end of the held-out rows, each predicted from all before it.",
        pictures=(_tail(data, one_step),),
    )
    if ahead is None:
        return [*found, calibration, tail]
    horizon, windows = ahead.protocol.horizon, ahead.protocol.windows
    return [
        *found,
        Section(
            title="Forecasts over the truth",
            text=f"{horizon} steps ahead from held-out rows; {step}. {_BANDS}"
            + (f" {given(beside)}" if beside else ""),
            pictures=_fans(data, ahead),
        ),
        Section(
            title="Error by steps ahead",
            text=f"Over {windows} windows of every series; {step}.",
            pictures=_by_horizon(ahead),
        ),
        calibration,
        tail,
    ]


_BANDS = "The bands hold 40 % and 80 % of the sampled paths."


def step_of(series: Series) -> str:
    """What a step is, in a clause."""
    labels = series.labels
    stamps = labels.stamps if isinstance(labels, Labels) else None
    calendar = None if stamps is None else Calendar.of(stamps)
    if calendar is None:
        return "a step is a row of the data"
    if calendar.five_days:
        return "a step is a weekday"
    if calendar.months:
        return f"a step is {_count(calendar.months, 'month')}"
    if stamps is not None and not calendar.is_kept(stamps):
        return "a step is a row of the data, whose times are uneven"
    return f"a step is {_span(calendar.step)}"


def _span(step: pd.Timedelta) -> str:
    seconds = step.total_seconds()
    for unit, size in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size and not seconds % size:
            return _count(int(seconds // size), unit)
    return f"{seconds:g} seconds" if seconds != 1 else "a second"


def _count(number: int, unit: str) -> str:
    return f"{'an' if unit == 'hour' else 'a'} {unit}" if number == 1 else f"{number} {unit}s"


def _future(data: Panel, future: Floats) -> tuple[Picture, ...]:
    pictures = []
    for series, forecast in list(zip(data.series, future, strict=True))[:FANS]:
        times = list(series.ahead(len(forecast)))
        dated = bool(times and times[0])
        if not dated:
            times = [f"+{step}" for step in range(1, len(forecast) + 1)]
        caption = f"{_name(series, data)}, "
        caption += "one step" if len(forecast) == 1 else f"{len(forecast)} steps"
        if dated:
            caption += f": {times[0]}" if len(forecast) == 1 else f" from {times[0]} to {times[-1]}"
        pictures.append(
            _fan(series, len(series.values), forecast, caption=caption, times=times, truth=False)
        )
    return tuple(pictures)


def _fans(data: Panel, found: Backtest) -> tuple[Picture, ...]:
    count = min(FANS, len(found.windows))
    chosen = np.linspace(0, len(found.windows) - 1, count).round().astype(int)
    pictures = []
    for place in chosen:
        window = found.windows[place]
        series = data.series[window.series]
        forecast = found.forecasts[NETWORK][place]  # (horizon, levels)
        times = list(series.labels[window.origin : window.origin + len(forecast)])
        caption = f"{_name(series, data)}, {times[0]} to {times[-1]}"
        pictures.append(
            _fan(series, window.origin, forecast, caption=caption, times=times, truth=True)
        )
    return tuple(pictures)


def _fan(
    series: Series,
    origin: int,
    forecast: Floats,
    *,
    caption: str,
    times: Sequence[str],
    truth: bool,
) -> Picture:
    """A forecast of the rows from ``origin`` on, joined to its past; ``times`` are theirs."""
    start = max(0, origin - BEFORE)
    end = origin + len(forecast)
    figure, axes = panel("", wrapped(series.name))
    _band(axes, *joined(series.values, origin, forecast))
    until = end if truth else origin
    shown = np.arange(start, until)
    axes.plot(
        shown, series.values[start:until], color="black", label="truth" if truth else "the past"
    )
    axes.axvline(origin - 1, color="grey", linewidth=0.9, linestyle=":")
    number_axis(axes.yaxis)
    time_axis(axes, range(start, end), [*series.labels[start:origin], *times])
    legend_above(axes, columns=4)
    return Picture(figure=figure, caption=caption)


def joined(values: Floats, origin: int, forecast: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The places of a forecast's rows and its quantiles, from the last past value on.

    ``values (rows,)``; ``forecast (horizon, levels)`` is of the rows from ``origin`` on.
    """
    last = np.full((1, forecast.shape[1]), values[origin - 1])
    return np.arange(origin - 1, origin + len(forecast)), np.concatenate([last, forecast])


def _by_horizon(found: Backtest) -> tuple[Picture, Picture]:
    steps = np.arange(1, found.protocol.horizon + 1)
    error_figure, error = panel("steps ahead", "quantile loss", height_in=4.2)
    coverage_figure, coverage = panel("steps ahead", "truths within it", height_in=4.2)
    for name in found.forecasts:
        score, title = found.score(name), TITLES.get(name, "this network")
        width = 2.4 if name == NETWORK else 1.0
        (line,) = error.plot(steps, score.by_horizon, label=title, linewidth=width)
        if score.coverage is not None:
            colour = line.get_color()
            coverage.plot(
                steps, score.coverage_by_horizon, label=title, linewidth=width, color=colour
            )
    coverage.axhline(0.8, color="grey", linestyle="--", label="as it should be")
    coverage.set_ylim(0, 1.02)
    share_axis(coverage.yaxis)
    number_axis(error.yaxis)
    for axes in (error, coverage):
        count_axis(axes.xaxis)
        legend_above(axes, columns=1)
    return (
        Picture(figure=error_figure, caption="Quantile loss by steps ahead: lower is better"),
        Picture(figure=coverage_figure, caption="How much of the truth the 80 % interval holds"),
    )


def _calibration(ahead: Backtest | None, one_step: Backtest) -> Picture:
    figure, axes = panel("quantile", "truths at or below it", height_in=4.0)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="as it should be")
    levels = one_step.protocol.levels
    axes.plot(levels, one_step.score(NETWORK).below, marker="o", label="next value")
    if ahead is not None:
        label = f"1 to {ahead.protocol.horizon} steps ahead"
        axes.plot(levels, ahead.score(NETWORK).below, marker="s", label=label)
    share_axis(axes.xaxis)
    share_axis(axes.yaxis)
    legend_above(axes, columns=1)
    return Picture(figure=figure, caption="Calibration of the quantiles")


def _tail(data: Panel, one_step: Backtest) -> Picture:
    count = one_step.protocol.windows
    forecast = one_step.forecasts[NETWORK][:count, 0][-TAIL_ROWS:]  # of the first series
    truth = one_step.truth[:count, 0][-TAIL_ROWS:]
    series = data.series[0]
    figure, axes = panel("", wrapped(series.name))
    place = np.arange(len(truth))
    _band(axes, place, forecast)
    axes.plot(place, truth, color="black", linewidth=0.9, label="truth")
    labels = series.labels[-len(truth) :]
    number_axis(axes.yaxis)
    time_axis(axes, place, labels)
    legend_above(axes, columns=4)
    caption = f"{_name(series, data)}, {labels[0]} to {labels[-1]}"
    return Picture(figure=figure, caption=caption)


def _band(axes: Axes, place: NDArray[np.int64], forecast: Floats) -> None:
    for (low, high), alpha, label in ((OUTER, 0.2, "80 %"), (INNER, 0.35, "40 %")):
        axes.fill_between(
            place,
            forecast[:, low],
            forecast[:, high],
            alpha=alpha,
            color="C0",
            linewidth=0,
            label=label,
        )
    middle = forecast.shape[1] // 2
    axes.plot(place, forecast[:, middle], color="C0", label="median")


def _name(series: Series, data: Panel) -> str:
    return f"{series.name} (synthetic)" if data.synthetic else series.name
