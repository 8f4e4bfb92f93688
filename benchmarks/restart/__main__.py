"""``make restart``: kill a server with very many sessions, and see how soon they are all back.

One line of JSON goes to stdout. Exits with 1 where an aim is missed or nothing could be measured.
"""

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.errors import UnmeasuredError
from benchmarks.report import rounded
from benchmarks.restart.course import Outcome, Plan, measure

SESSIONS, TAIL_STEPS = 100_000, 40
AIMS = {"first_step_s": 2.0, "restored_s": 60.0, "stop_s": 10.0}
"""Seconds with 100,000 sessions, on two cores."""


def main() -> None:
    given = _arguments()
    console = Console(stderr=True)
    plan = Plan(sessions=given.sessions, tail_steps=given.tail_steps, flags=tuple(given.serve))
    try:
        outcome = measure(plan, lambda line: console.print(line, style="dim"))
    except UnmeasuredError as error:
        sys.exit(str(error))
    found = {
        "first_step_s": max(outcome.after_kill.first_step_s, outcome.after_stop.first_step_s),
        "restored_s": outcome.after_kill.restored_s,
        "stop_s": outcome.stop_s,
    }
    missed = [name for name, aim in AIMS.items() if found[name] > aim]
    _print(console, outcome, missed)
    result = {
        "benchmark": "cellar-restart",
        "sessions": plan.sessions,
        "tail_steps": plan.tail_steps,
        "serve_flags": plan.flags,
        "missed": missed,
        **outcome.as_json(),
    }
    print(json.dumps({**_rounded(result), "machine": machine.describe()}))
    sys.exit(1 if missed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.restart", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="an even number")
    parser.add_argument("--tail-steps", type=int, default=TAIL_STEPS, help="in the mean, each")
    parser.add_argument("--serve", action="append", default=[], help="a flag of cellar-serve's")
    given = parser.parse_args()
    if given.sessions < 2 or given.sessions % 2:
        parser.error("--sessions: name an even number, 2 at least: two streams have them")
    if given.tail_steps < 1:
        parser.error("--tail-steps: name a number from 1 on")
    return given


def _print(console: Console, outcome: Outcome, missed: list[str]) -> None:
    table = Table(title="restart", title_justify="left")
    for column in ("", "after kill -9", "after SIGTERM"):
        table.add_column(column, justify="right" if column else "left")
    starts = (outcome.after_kill, outcome.after_stop)
    for name, digits in (
        ("serving_s", 2),
        ("first_step_s", 3),
        ("restored_s", 1),
        ("p50_ms", 1),
        ("p99_ms", 1),
        ("slowest_ms", 1),
        ("rss_mb", 0),
    ):
        table.add_row(name, *(f"{getattr(start, name):,.{digits}f}" for start in starts))
    console.print(table)
    console.print(f"SIGTERM took {outcome.stop_s:.1f} s")
    console.print(f"missed: {', '.join(missed)}" if missed else "every aim is met")


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = _rounded(value)
        elif isinstance(value, float):
            found[key] = rounded(value)
    return found


if __name__ == "__main__":
    main()
