"""``make scores``: everything in one run. Tables go to stderr, one JSON line to stdout."""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.bench import Findings
from benchmarks.errors import UnmeasuredError
from benchmarks.report import keep, name_of_result, print_figures, result
from benchmarks.scores import characters, labels, series, throughput
from benchmarks.scores.course import Course, Subject

SUBJECTS = {
    subject.name: subject
    for subject in (characters.SUBJECT, throughput.SUBJECT, series.SUBJECT, labels.SUBJECT)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scores", description=__doc__)
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="may be repeated")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many per score")
    parser.add_argument(
        "--budget", type=float, default=180.0, help="seconds of training on tiny Shakespeare"
    )
    parser.add_argument(
        "--save", metavar="NAME", type=name_of_result, help="keep the result by this name"
    )
    given = parser.parse_args()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    start = time.monotonic()
    findings: dict[str, Findings] = {}
    with tempfile.TemporaryDirectory(prefix="cellar-scores-") as folder:
        course = Course(
            folder=Path(folder), console=console, seeds=given.seeds, budget_s=given.budget
        )
        for name in given.only or SUBJECTS:
            console.rule(name)
            findings[name] = measured(course, SUBJECTS[name])
    print_figures(console, findings)
    for name, subject in SUBJECTS.items():
        findings.setdefault(name, Findings()).skip(subject.keys, "not asked for")
    outcome = result(
        benchmark="cellar-scores",
        findings=findings,
        machine=machine.describe(),
        seeds=given.seeds,
        budget_s=given.budget,
        seconds=round(time.monotonic() - start),
    )
    if given.save:
        keep(outcome, given.save, console)
    print(json.dumps(outcome))


def measured(course: Course, subject: Subject) -> Findings:
    """What a subject found, and why the rest is missing."""
    findings = Findings()
    try:
        subject.measure(course, findings)
    except UnmeasuredError as error:
        findings.skip(subject.keys, str(error))
    return findings


if __name__ == "__main__":
    main()
