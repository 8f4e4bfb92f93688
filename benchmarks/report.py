"""Tables for people, and the result as JSON; README.md has its schema."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.bench import Findings
from benchmarks.rounds import Figure, Metric, Sample, Series, cpu, p50, p99, speed
from benchmarks.targets import TARGETS

SCHEMA = 1
RESULTS = Path(__file__).parent / "results"
_METRICS: Mapping[str, Metric] = {
    "steps_per_s": speed,
    "messages_per_s": lambda sample: sample.messages_per_s,
    "p50_ms": p50,
    "p99_ms": p99,
    "server_cpu_us_per_step": cpu,
    "load_cpu_share": lambda sample: sample.load_share,
}


def print_cases(console: Console, group: str, findings: Findings) -> None:
    """A group's cases, a row each: the median, and the spread of the speed."""
    if not findings.series:
        return
    columns = ("model", "case", "contestant", "steps/s", "low", "high", "p50 ms", "p99 ms")
    table = Table(title=group, title_justify="left")
    for number, column in enumerate((*columns, "CPU µs/step", "load CPU")):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=True)
    for series in findings.series:
        steps = series.figure(speed)
        table.add_row(
            series.model,
            series.case,
            series.contestant,
            f"{steps.value:,.0f}",
            f"{steps.low:,.0f}",
            f"{steps.high:,.0f}",
            f"{series.figure(p50).value:.3f}",
            f"{series.figure(p99).value:.3f}",
            f"{series.figure(cpu).value:.2f}",
            _share(series),
        )
    console.print(table)
    for name, value in findings.notes.items():
        console.print(f"{name}: {value:,.0f}")


def print_figures(console: Console, findings: Mapping[str, Findings]) -> None:
    """The figures that have a key, beside what they should be."""
    table = Table(title="figures", title_justify="left")
    for number, column in enumerate(("key", "value", "low", "high", "target", "", "meaning")):
        table.add_column(column, justify="right" if 0 < number < 5 else "left")
    for found in findings.values():
        for key, figure in found.figures.items():
            target = TARGETS[key]
            verdict = "" if not str(target) else "met" if target.met(figure) else "missed"
            numbers = (figure.value, figure.low, figure.high)
            table.add_row(
                key, *(f"{number:,.4g}" for number in numbers), str(target), verdict, target.meaning
            )
        for key, reason in found.skipped.items():
            target = TARGETS[key]
            table.add_row(key, "—", "", "", str(target), "", escape(f"not measured: {reason}"))
    console.print(table)


def result(
    *,
    benchmark: str,
    findings: Mapping[str, Findings],
    machine: Mapping[str, object],
    **more: object,
) -> dict[str, Any]:
    """The whole outcome as JSON."""
    figures = {key: each for found in findings.values() for key, each in found.figures.items()}
    skipped = {key: why for found in findings.values() for key, why in found.skipped.items()}
    return {
        "benchmark": benchmark,
        "schema": SCHEMA,
        **more,
        **{key: rounded(figure.value) for key, figure in figures.items()},
        **dict.fromkeys(skipped),
        "spread": {key: [rounded(each.low), rounded(each.high)] for key, each in figures.items()},
        "skipped": skipped,
        "notes": {
            name: rounded(value)
            for found in findings.values()
            for name, value in found.notes.items()
        },
        "cases": [
            _case(group, series) for group, found in findings.items() for series in found.series
        ],
        "machine": dict(machine),
    }


def keep(outcome: Mapping[str, Any], name: str, console: Console) -> None:
    """Write a result to ``results/<date>-<name>.json``; those beside ours end in what they are."""
    RESULTS.mkdir(exist_ok=True)
    kind = outcome["benchmark"].removeprefix("cellar").removeprefix("-")
    parts = (outcome["machine"]["date"][:10], name, kind)
    path = RESULTS / f"{'-'.join(filter(None, parts))}.json"
    path.write_text(json.dumps(outcome, indent=1) + "\n", "utf-8")
    console.print(f"kept in {RESULTS.parent.name}/{RESULTS.name}/{path.name}")


def name_of_result(text: str) -> str:
    """A name that `keep` takes, for argparse."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", text):
        raise argparse.ArgumentTypeError("lower-case letters, digits, dots and hyphens")
    return text


def _case(group: str, series: Series) -> dict[str, object]:
    return {
        "group": group,
        "model": series.model,
        "case": series.case,
        "contestant": series.contestant,
        "unit": series.unit,
        "rounds": len(series.samples),
        **{name: _figure(series.figure(metric)) for name, metric in _METRICS.items()},
    }


def _figure(figure: Figure) -> list[float]:
    return [rounded(figure.value), rounded(figure.low), rounded(figure.high)]


def rounded(number: float) -> float:
    """Four digits that count."""
    return float(f"{number:.4g}")


def _share(series: Series) -> str:
    def share(sample: Sample) -> float:
        return sample.load_share

    found = series.figure(share).value
    return f"{found:.0%}" if found else "—"


__all__ = ["SCHEMA", "keep", "name_of_result", "print_cases", "print_figures", "result", "rounded"]
