"""Series: public data against the baselines that need no network."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bench import Findings
from benchmarks.rounds import Figure
from benchmarks.scores.course import Course, Subject
from benchmarks.scores.series_protocols import SeriesScores, daily_closes, exchange_rate

RATES, CLOSES = "exchange_rate.txt.gz", "MRF.NS.csv"
SEEDS = 5
KEYS = ("exchange_rate_mwql", "exchange_rate_cover80", "mrf_walk_ratio")


def measure(course: Course, findings: Findings) -> None:
    rates: Path = course.data(RATES)
    runs = [exchange_rate(rates, seed=seed) for seed in range(min(SEEDS, course.seeds))]
    show(course.console, RATES, runs)
    findings.figures[KEYS[0]] = Figure.mean_of([run.network.loss for run in runs])
    covers = [run.network.coverage for run in runs]
    findings.figures[KEYS[1]] = Figure.mean_of([c for c in covers if c is not None])
    findings.notes["exchange_rate_seconds"] = Figure.of([run.seconds for run in runs]).value
    closes = daily_closes(course.data(CLOSES), seed=0)
    show(course.console, CLOSES, [closes])
    best = min(score.loss for score in closes.scores.values() if score is not closes.network)
    findings.figures[KEYS[2]] = Figure.of([closes.network.loss / best])


def show(console: Console, source: str, runs: list[SeriesScores]) -> None:
    """The networks, one for each seed, and the baselines in one table."""
    table = Table(title=source, title_justify="left", caption=runs[0].verdict)
    for column in ("forecast", "mean_wQuantileLoss", "MASE", "80 % covers"):
        table.add_column(column, justify="left" if column == "forecast" else "right")
    networks = [(f"network, seed {seed}", run.network) for seed, run in enumerate(runs)]
    others = [(name, score) for name, score in runs[0].scores.items() if name != "network"]
    for name, score in networks + others:
        covers = "–" if score.coverage is None else f"{score.coverage:.1%}"
        table.add_row(name, f"{score.loss:.5f}", f"{score.mase:.3f}", covers)
    console.print(table)


SUBJECT = Subject(name="series", keys=KEYS, measure=measure)
