"""What a series' backtests come to: a table, a verdict in words, and what falls short."""

from collections.abc import Callable, Sequence

from rich.table import Table

from training.families.series.backtesting.baselines import TITLES
from training.reports.numbers import against, figure, percent

KEY = "mean_wQuantileLoss"
SIMPLEST = ("last_value", "seasonal_naive")
"""Baselines that a model has to beat to be worth serving."""
TELLING_WINDOWS = 10
"""Fewer windows do not keep a model back: one or two are won and lost by chance."""


def score_table(scores: dict[str, float], *, source: str, beside: Sequence[str] = ()) -> Table:
    """One row per forecaster: the next value, and several steps ahead where there are such.

    ``beside``: what the network reads beside the value.
    """
    table = Table(title=f"held-out tail of {source}")
    table.add_column("forecast")
    ahead = f"backtest.{KEY}" in scores
    columns: list[tuple[str, str, str, Callable[[float], str]]]
    columns = [("", KEY, "next value: wQL", figure), ("", "nll", "nll", figure)]
    columns.append(("", "coverage80", "in 80 %", percent))
    if ahead:
        steps = f"{scores['backtest.horizon']:.0f} steps ahead"
        columns += [
            ("backtest.", KEY, f"{steps}: wQL", figure),
            ("backtest.", "mase", "MASE", figure),
            ("backtest.", "coverage80", "in 80 %", percent),
        ]
    for _, _, title, _ in columns:
        table.add_column(title, justify="right")
    for name, title in {"": "this network", **TITLES}.items():
        own = f"{name}." if name else ""
        if own + KEY not in scores:
            continue
        cells = [
            written(scores[prefix + own + key]) if prefix + own + key in scores else "–"
            for prefix, key, _, written in columns
        ]
        table.add_row(title, *cells)
    table.caption = verdict(scores)
    if ahead and beside:
        table.caption += f" {given(beside)}"
    return table


def given(beside: Sequence[str]) -> str:
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
                    f"its quantile loss{ahead} is {figure(own)}, that of the {TITLES[name]} "
                    f"{figure(theirs)}"
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
    theirs = scores[f"{prefix}{best}.{KEY}"]
    off = against(own, theirs, "the best of them")
    if own < theirs:
        return f"By quantile loss {where} it beats all baselines: {off} ({TITLES[best]})."
    missed = [TITLES[name] for name in others if own >= scores[f"{prefix}{name}.{KEY}"]]
    return f"By quantile loss {where} it does NOT beat: {'; '.join(missed)} ({off})."


def _others(scores: dict[str, float], prefix: str) -> list[str]:
    return [name for name in TITLES if f"{prefix}{name}.{KEY}" in scores]
