"""``make bench-compare``: CPU per step of this source tree against a commit's.

A line per case goes to stderr, one JSON line to stdout. Three servers run at once with the same
models and flags: the commit, the commit again, and this tree. What the commit does to itself is
the tolerance.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.compare.cases import GROUPS, make_repository
from benchmarks.compare.comparison import Compared, Comparison
from benchmarks.compare.report import print_case, result
from benchmarks.compare.trees import Tree, checked_out
from benchmarks.errors import UnmeasuredError
from benchmarks.processes import ROOT
from benchmarks.rounds import Pace

ROUNDS = 20
"""Fewer settle nothing: the interval of a median is then as wide as the rounds."""
WARM_UP_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each case and server")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--only", action="append", choices=GROUPS, help="a group; may be repeated")
    parser.add_argument(
        "--serve-flag", action="append", default=[], help="for every server; may be repeated"
    )
    given = parser.parse_args()
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("--rounds and --seconds are at least 1 and more than 0")
    console = Console(stderr=True)
    if given.rounds < ROUNDS:
        console.print(f"{given.rounds} rounds show that it works; a claim takes {ROUNDS}")
    try:
        found = compare(given, console)
    except UnmeasuredError as error:
        sys.exit(f"bench-compare: {error}")
    print(json.dumps(found))
    if found["skipped"]:
        sys.exit(1)


def compare(given: argparse.Namespace, console: Console) -> dict[str, object]:
    """Measure all groups that were asked for.

    Raises:
        UnmeasuredError: the servers do not run, or not the code that they should.
    """
    start = time.monotonic()
    pace = Pace(
        rounds=given.rounds,
        round_s=given.seconds,
        warm_up_s=min(WARM_UP_S, given.seconds),
        quick=False,
    )
    described = machine.describe()
    this = Tree(folder=ROOT, revision=str(described["revision"]))
    with (
        tempfile.TemporaryDirectory(prefix="cellar-compare-") as folder,
        checked_out(given.base) as base,
    ):
        bench = Bench(pace, Path(folder), given.serve_flag)
        try:
            models = make_repository(Path(folder) / "models")
            comparison = Comparison(bench, models, base=base, new=this)
            idle = comparison.check_idle()
            cases, skipped = _measure_all(comparison, given.only or list(GROUPS), console)
        finally:
            bench.end_processes()
    return result(
        cases,
        skipped=skipped,
        machine=described,
        base=base.revision,
        rounds=given.rounds,
        round_s=given.seconds,
        serve_flags=given.serve_flag,
        seconds=round(time.monotonic() - start),
        idle_cpu_shares={name: round(share, 4) for name, share in idle.items()},
    )


def _measure_all(
    comparison: Comparison, groups: list[str], console: Console
) -> tuple[list[tuple[str, Compared]], dict[str, str]]:
    """The cases by group, and why some groups are missing."""
    cases: list[tuple[str, Compared]] = []
    skipped: dict[str, str] = {}
    for group in groups:
        try:
            for prepare in GROUPS[group]:
                cases.append((group, comparison.measure(prepare)))
                print_case(console, *cases[-1])
        except UnmeasuredError as error:
            console.print(f"{group}: not measured: {error}", markup=False)
            skipped[group] = str(error)
    return cases, skipped


if __name__ == "__main__":
    main()
