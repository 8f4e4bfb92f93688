"""``make bench``: everything in one run. Tables go to stderr, one JSON line to stdout."""

import argparse
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.bench import Bench, Findings, Group
from benchmarks.errors import UnmeasuredError
from benchmarks.groups import (
    around,
    chunk,
    forecast,
    frames,
    generate,
    gpu,
    int8,
    security,
    sessions,
    state,
    streams,
    tiers,
    unary,
)
from benchmarks.groups.durability import group as durability
from benchmarks.report import keep, name_of_result, print_cases, print_figures, result
from benchmarks.rounds import FULL, QUICK

GROUPS = {
    group.name: group
    for group in (
        frames.GROUP,
        int8.GROUP,
        streams.GROUP,
        unary.GROUP,
        generate.GROUP,
        forecast.GROUP,
        chunk.GROUP,
        durability.GROUP,
        security.GROUP,
        sessions.GROUP,
        state.GROUP,
        tiers.GROUP,
        around.GROUP,
        gpu.GROUP,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute in all: shows that it works")
    parser.add_argument("--only", action="append", choices=GROUPS, help="a group; may be repeated")
    parser.add_argument(
        "--save", metavar="NAME", type=name_of_result, help="keep the result by this name"
    )
    parser.add_argument(
        "--serve-flag", action="append", default=[], help="for every cellar-serve; may be repeated"
    )
    given = parser.parse_args()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    start = time.monotonic()
    findings: dict[str, Findings] = {}
    with tempfile.TemporaryDirectory(prefix="cellar-bench-") as folder:
        bench = Bench(QUICK if given.quick else FULL, Path(folder), given.serve_flag)
        for name in given.only or GROUPS:
            console.print(f"measuring {name}", style="dim")
            findings[name] = _measured(bench, GROUPS[name])
            print_cases(console, name, findings[name])
    print_figures(console, findings)
    for name, group in GROUPS.items():
        findings.setdefault(name, Findings()).skip(group.keys, "not asked for")
    outcome = result(
        benchmark="cellar",
        findings=findings,
        machine=machine.describe(),
        quick=given.quick,
        serve_flags=given.serve_flag,
        seconds=round(time.monotonic() - start),
    )
    if given.save is not None:
        keep(outcome, given.save, console)
    print(json.dumps(outcome))


def _measured(bench: Bench, group: Group) -> Findings:
    findings = Findings()
    try:
        group.measure(bench, findings)
    except UnmeasuredError as error:
        findings.skip(group.keys, str(error))
    finally:
        bench.end_processes()
    if bench.device != "cpu":
        for key in group.beside_cpu:
            findings.figures.pop(key, None)
        reason = f"the server ran on {bench.device}, and what it is held against on the CPU"
        findings.skip(group.beside_cpu, reason)
    return findings


if __name__ == "__main__":
    main()
