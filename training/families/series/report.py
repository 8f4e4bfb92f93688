"""What a series' backtests look like: tables, a verdict in words, and figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from training.data.series.panel import Panel
from training.families.series.backtesting.backtest import Backtest, Floats
from training.families.series.backtesting.baselines import TITLES
from training.reports.sections import Section

NETWORK = "network"
KEY = "mean_wQuantileLoss"
SIMPLEST = ("last_value", "seasonal_naive")
"""Baselines that a model has to beat to be worth serving."""
TELLING_WINDOWS = 10
"""Fewer windows do not keep a model back: one or two are won and lost by chance."""
FANS = 4
"""Windows drawn."""
BEFORE = 60
"""Rows of the past drawn before a fan."""
TAIL_ROWS = 150
"""Steps drawn of the one-step tail."""
OUTER, INNER = (0, -1), (2, -3)
"""Of the levels .1 … .9: those around 80 % and 40 %."""


def score_table(scores: dict[str, float], *, source: str, beside: Sequence[str] = ()) -> Table:
    """One row per forecaster: the next value, and several steps ahead where there are such.

    ``beside``: what the network reads beside the value.
    """
    table = Table(title=f"held-out tail of {source}")
    table.add_column("forecast")
    ahead = f"backtest.{KEY}" in scores
    columns = [("", KEY, "next value: wQL", ".6f"), ("", "nll", "nll", ".4f")]
    columns.append(("", "coverage80", "in 80 %", ".1%"))
    if ahead:
        steps = f"{scores['backtest.horizon']:.0f} steps"
        columns.append(("backtest.", KEY, f"{steps}: wQL", ".6f"))
        columns += [
            ("backtest.", "mase", "MASE", ".3f"),
            ("backtest.", "coverage80", "in 80 %", ".1%"),
        ]
    for _, _, title, _ in columns:
        table.add_column(title, justify="right")
    for name, title in {"": "this network", **TITLES}.items():
        own = f"{name}." if name else ""
        if own + KEY not in scores:
            continue
        cells = [
            f"{scores[prefix + own + key]:{style}}" if prefix + own + key in scores else "–"
            for prefix, key, _, style in columns
        ]
        table.add_row(title, *cells)
    table.caption = verdict(scores)
    if ahead and beside:
        table.caption += f" {_given(beside)}"
    return table


def _given(beside: Sequence[str]) -> str:
    """Say what forecasts of several steps knew of the future."""
    return (
        f"Several steps ahead the network was given the true {', '.join(beside)} of each step, "
        "which the baselines do not read: it is worth as much as these can be known beforehand."
    )


def verdict(scores: dict[str, float]) -> str:
    """Say plainly whether the network was worth training."""
    said = [_verdict(scores, "", "on the next value")]
    if f"backtest.{KEY}" in scores:
        horizon, windows = scores["backtest.horizon"], scores["backtest.windows"]
        where = f"on {horizon:.0f} steps ahead"
        said.append(_verdict(scores, "backtest.", where))
        if not _is_walk(scores):
            won = scores["backtest.windows_won"]
            said.append(f"It is ahead of the best of them in {won:.0f} of {windows:.0f} windows.")
    if not _is_walk(scores):
        said.append("One run on one tail of data is weak evidence either way.")
    return " ".join(said)


def shortfall(scores: dict[str, float]) -> str | None:
    """Which point forecast that needs no network has the lower quantile loss; None: none.

    On the next value; and several steps ahead, if there are windows enough to tell.
    """
    enough = scores.get("backtest.windows", 0) >= TELLING_WINDOWS
    for prefix in ("", "backtest.") if enough else ("",):
        for name in SIMPLEST:
            own, theirs = scores.get(prefix + KEY), scores.get(f"{prefix}{name}.{KEY}")
            if own is not None and theirs is not None and not own <= theirs:
                ahead = f" {scores['backtest.horizon']:.0f} steps ahead" if prefix else ""
                return (
                    f"its quantile loss{ahead} is {own:.6f}, that of the {TITLES[name]} "
                    f"{theirs:.6f}"
                )
    return None


def _is_walk(scores: dict[str, float]) -> bool:
    return scores["nll"] == scores["fitted_walk.nll"]


def _verdict(scores: dict[str, float], prefix: str, where: str) -> str:
    own = scores[prefix + KEY]
    if _is_walk(scores):
        if prefix:
            others = [name for name in _others(scores, prefix) if name != "fitted_walk"]
        else:
            return (
                "Training found nothing that validates better than the fitted random walk: "
                "this model IS that walk."
            )
    else:
        others = _others(scores, prefix)
    best = min(others, key=lambda name: scores[f"{prefix}{name}.{KEY}"])
    share = own / max(scores[f"{prefix}{best}.{KEY}"], 1e-300) - 1
    if share < 0:
        return (
            f"By quantile loss {where} it beats all baselines: {-share:.1%} below the best of "
            f"them ({TITLES[best]})."
        )
    missed = [TITLES[name] for name in others if own >= scores[f"{prefix}{name}.{KEY}"]]
    return (
        f"By quantile loss {where} it does NOT beat: {'; '.join(missed)} "
        f"({share:.1%} above the best)."
    )


def _others(scores: dict[str, float], prefix: str) -> list[str]:
    return [name for name in TITLES if f"{prefix}{name}.{KEY}" in scores]


def sections(
    panel: Panel, *, ahead: Backtest | None, one_step: Backtest, beside: Sequence[str] = ()
) -> list[Section]:
    """The figures of a report; ``beside``: what the network reads beside the value."""
    found = []
    if ahead is not None:
        horizon, windows = ahead.protocol.horizon, ahead.protocol.windows
        found = [
            Section(
                title="Forecasts over the truth",
                text=f"{horizon} steps ahead from rows that training never saw; bands hold 40 % "
                f"and 80 % of the sampled paths.{f' {_given(beside)}' if beside else ''}",
                figure=_fans(panel, ahead),
            ),
        ]
    text = (
        "How often the truth was at or below each quantile: on the diagonal the probabilities can "
        "be taken at their word."
    )
    if ahead is not None:
        windows = ahead.protocol.windows
        text = f"Over {windows} windows of every series. Error: lower is better. {text}"
    return [
        *found,
        Section(
            title="Error and calibration", text=text, figure=_error_and_calibration(ahead, one_step)
        ),
        Section(
            title="The next value, step by step",
            text="The end of the held-out rows, each predicted from all before it.",
            figure=_tail(panel, one_step),
        ),
    ]


def _fans(panel: Panel, found: Backtest) -> Figure:
    count = min(FANS, len(found.windows))
    chosen = np.linspace(0, len(found.windows) - 1, count).round().astype(int)
    rows = -(-count // 2)
    figure = Figure(figsize=(10, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, place in zip(grid, chosen, strict=False):
        window = found.windows[place]
        series = panel.series[window.series]
        start = max(0, window.origin - BEFORE)
        forecast = found.forecasts[NETWORK][place]  # (horizon, levels)
        ahead = np.arange(window.origin, window.origin + len(forecast))
        shown = np.arange(start, ahead[-1] + 1)
        _band(axes, ahead, forecast)
        axes.plot(shown, series.values[shown], color="black", linewidth=0.9, label="truth")
        axes.set_title(f"{series.name} from {series.labels[window.origin]}", fontsize=9)
        axes.set_xticks(
            [start, window.origin], [series.labels[at] for at in (start, window.origin)]
        )
        axes.tick_params(labelsize=8)
    for axes in grid[count:]:
        axes.set_axis_off()
    grid[0].legend(fontsize=8)
    return figure


def _error_and_calibration(ahead: Backtest | None, one_step: Backtest) -> Figure:
    columns = 1 if ahead is None else 3
    figure = Figure(figsize=(1.2 + 3.4 * columns, 3.4), layout="constrained")
    *by_horizon, calibration = figure.subplots(1, columns, squeeze=False)[0]
    if ahead is not None:
        _draw_by_horizon(by_horizon[0], by_horizon[1], ahead)
    calibration.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    levels = one_step.protocol.levels
    calibration.plot(levels, one_step.score(NETWORK).below, marker="o", label="next value")
    if ahead is not None:
        label = f"1 to {ahead.protocol.horizon} ahead"
        calibration.plot(levels, ahead.score(NETWORK).below, marker="s", label=label)
    calibration.set_xlabel("quantile level")
    calibration.set_ylabel("truths at or below it")
    calibration.legend(fontsize=8)
    return figure


def _draw_by_horizon(error: Axes, coverage: Axes, found: Backtest) -> None:
    steps = np.arange(1, found.protocol.horizon + 1)
    for name in found.forecasts:
        score, title = found.score(name), TITLES.get(name, "this network")
        width = 2.0 if name == NETWORK else 1.0
        (line,) = error.plot(steps, score.by_horizon, label=title, linewidth=width)
        if score.coverage is not None:
            color = line.get_color()
            coverage.plot(steps, score.coverage_by_horizon, linewidth=width, color=color)
    coverage.axhline(0.8, color="grey", linewidth=0.8, linestyle="--")
    coverage.set_ylim(0, 1)
    error.set_ylabel(KEY)
    coverage.set_ylabel("truths within the 80 % interval")
    error.legend(fontsize=7)
    for axes in (error, coverage):
        axes.set_xlabel("steps ahead")


def _tail(panel: Panel, one_step: Backtest) -> Figure:
    count = one_step.protocol.windows
    forecast = one_step.forecasts[NETWORK][:count, 0][-TAIL_ROWS:]  # of the first series
    truth = one_step.truth[:count, 0][-TAIL_ROWS:]
    series = panel.series[0]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(truth))
    _band(axes, place, forecast)
    axes.plot(place, truth, color="black", linewidth=0.9, label="truth")
    labels = series.labels[-len(truth) :]
    ticks = np.linspace(0, len(truth) - 1, min(5, len(truth))).astype(int)
    axes.set_xticks(ticks, [labels[tick] for tick in ticks])
    axes.set_ylabel(f"{series.name}{' (synthetic)' if panel.synthetic else ''}")
    axes.legend(fontsize=8)
    return figure


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
    axes.plot(place, forecast[:, middle], color="C0", linewidth=0.9, label="median")
