"""``python -m tests.standin``: the table of what a batch calls, by head.

``--json`` writes all counts as one JSON document instead. Over the stand-in both run in a process
of their own (``--inside``), which the loader gives its libraries. ``--beside TREE`` times another
source tree, which has `tests.standin` too, in turn with this one.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import structlog

from tests.standin.build import UnbuiltError
from tests.standin.process import ROOT, run_inside
from tests.standin.scenes import play

MODELS = (("char", "lstm"), ("char", "gru"), ("series", "lstm"), ("series", "gru"))
SIZES = (16, 512)
ROUNDS = 5
COLUMNS = ("launches", "graph_launches", "graph_nodes", "h2d", "d2h", "d2d", "waits", "pageable")
HEADINGS = ("launches", "graphs", "nodes", "h2d", "d2h", "d2d", "waits", "pageable")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.standin", description=__doc__)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=200, help="how often a batch is timed")
    parser.add_argument("--json", action="store_true", help="all counts, as JSON")
    parser.add_argument("--beside", type=Path, metavar="TREE", help="time another tree in turn")
    given = parser.parse_args()
    if given.inside:
        # What the runner logs is for people, and stdout is for the counts.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        models = [(kind, cell, size) for kind, cell in MODELS for size in SIZES]
        scenes = [play(*model, times=given.times) for model in models]
        print(json.dumps([asdict(scene) for scene in scenes]))
        return
    try:
        if given.beside is not None:
            print(beside(given.beside.resolve(), times=given.times))
            return
        found = all_scenes(times=given.times)
    except UnbuiltError as error:
        sys.exit(f"stand-in: {error}")
    print(json.dumps(found) if given.json else table(found))


def all_scenes(*, times: int, tree: Path = ROOT) -> list[dict[str, Any]]:
    """Each model at each size, as `Scene` has it; of the code of a source tree.

    Raises:
        UnbuiltError: there is no stand-in here.
    """
    inside = run_inside("-m", "tests.standin", "--inside", f"--times={times}", tree=tree)
    found: list[dict[str, Any]] = json.loads(inside)
    return found


def beside(tree: Path, *, times: int) -> str:
    """A line for each model, size and head: host microseconds there and here, and their ratio.

    Of each the median of several runs, which take turns; the ratio is taken within a turn.
    """
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        there = {_key(batch): batch for batch in _batches(all_scenes(times=times, tree=tree))}
        for batch in _batches(all_scenes(times=times)):
            if (other := there.get(_key(batch))) is not None:
                pair = other["host_us"], batch["host_us"]
                found.setdefault(_key(batch), []).append(pair)
    lines = [
        f"{'model':<12} {'batch':>5}  {'head':<16} {'us there':>9} {'us here':>9} {'ratio':>6}"
    ]
    for (model, size, head), pairs in found.items():
        before, after = (median(pair[number] for pair in pairs) for number in range(2))
        ratio = median(now / then for then, now in pairs)
        name = f"{model:<12} {size:>5}  {head:<16}"
        lines.append(f"{name} {before:>9.1f} {after:>9.1f} {ratio:>6.2f}")
    return "\n".join(lines)


def _batches(scenes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [batch for scene in scenes for batch in scene["batches"]]


def _key(batch: dict[str, Any]) -> tuple[str, int, str]:
    return batch["model"], batch["size"], batch["head"]


def table(scenes: list[dict[str, Any]]) -> str:
    """A line for each model, size and head."""
    heads = "".join(f"{heading:>9}" for heading in HEADINGS)
    lines = [f"{'model':<12} {'batch':>5}  {'head':<16}{heads} {'us':>8}"]
    for scene in scenes:
        for batch in scene["batches"]:
            numbers = "".join(f"{batch['counts'][column]:>9}" for column in COLUMNS)
            name = f"{batch['model']:<12} {batch['size']:>5}  {batch['head']:<16}"
            lines.append(f"{name}{numbers} {batch['host_us']:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
