"""What was watched, as a table, as a picture and as one JSON line."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.soak.watch import Course, Watch

_HOUR_S = 3600


def print_tables(
    console: Console, courses: Sequence[Course], ends: Mapping[str, int], watch: Watch
) -> None:
    """The courses, and how the callers' lives ended."""
    table = Table(title="what the server held, after the warm-up", title_justify="left")
    for number, column in enumerate(("", "first", "last", "most", "per hour", "95 %", "verdict")):
        table.add_column(column, justify="right" if 0 < number < 6 else "left")
    for course in courses:
        warm = course.values[watch.warm_up :]
        slope = course.slope
        table.add_row(
            f"{course.name}, {course.unit}" if course.unit else course.name,
            *(f"{each:,.1f}".removesuffix(".0") for each in (warm[0], warm[-1], max(warm))),
            f"{slope.value * _HOUR_S:+,.1f}",
            f"{slope.low * _HOUR_S:+,.1f} … {slope.high * _HOUR_S:+,.1f}",
            "GROWS" if course.grew else "flat",
        )
    console.print(table)
    names = sorted({end.partition(": ")[0] for end in ends})
    table = Table(title="callers' lives", title_justify="left")
    for column in ("life", "well", "ended otherwise"):
        table.add_column(column, justify="right" if column == "well" else "left", overflow="fold")
    for name in names:
        others = [
            f"{count:,} × {end.partition(': ')[2]}"
            for end, count in sorted(ends.items())
            if end.startswith(f"{name}: ") and not end.endswith(": ok")
        ]
        table.add_row(name, f"{ends.get(f'{name}: ok', 0):,}", escape("\n".join(others)))
    console.print(table)


def draw(courses: Sequence[Course], watch: Watch, path: Path) -> None:
    """A picture of every course over time, its line after the warm-up."""
    figure = Figure(figsize=(9, 2 * len(courses)), layout="constrained")
    all_axes = figure.subplots(len(courses), 1, sharex=True, squeeze=False)[:, 0]
    minutes = [time / 60 for time in watch.times_s]
    for axes, course in zip(all_axes, courses, strict=True):
        axes.plot(minutes, course.values, linewidth=1.0)
        axes.axvspan(minutes[0], minutes[watch.warm_up], color="grey", alpha=0.15, linewidth=0)
        axes.set_ylabel(f"{course.name}\n{course.unit}".strip())
        axes.set_ylim(bottom=0)
        axes.set_title(
            f"{course.slope.value * _HOUR_S:+,.1f} per hour{', GROWS' if course.grew else ''}",
            loc="right",
            fontsize="small",
        )
    all_axes[-1].set_xlabel("minutes; grey is the warm-up")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def as_json(courses: Sequence[Course], ends: Counter[str], **more: Any) -> str:
    """The outcome as one line."""
    return json.dumps(
        {
            "benchmark": "cellar-soak",
            **more,
            "courses": {
                course.name: {
                    "last": round(course.values[-1], 1),
                    "per_hour": [
                        round(each * _HOUR_S, 2)
                        for each in (course.slope.value, course.slope.low, course.slope.high)
                    ],
                    "grows": course.grew,
                }
                for course in courses
            },
            "lives": dict(sorted(ends.items())),
        }
    )


__all__ = ["as_json", "draw", "print_tables"]
