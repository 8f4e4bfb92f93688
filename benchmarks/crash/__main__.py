"""``make crash-points``: the engine, on a store that ends its process at every call in turn.

Clients of all kinds keep what they were told; the next process has to know it, and to say it again
byte for byte. Exits with 1 where something acknowledged was lost, doubled or different.
"""

import argparse
import asyncio
import json
import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import machine
from benchmarks.crash.run import Outcome, run

POINTS = 10_000
KINDS = ("lost", "doubled", "different", "other")
_TOLD_EVERY = 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.crash", description=__doc__)
    parser.add_argument("--points", type=int, default=POINTS, help="processes that end")
    parser.add_argument("--seed", type=int, default=1, help="of all dice; threads throw their own")
    given = parser.parse_args()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)

    def tell(outcome: Outcome) -> None:
        ended = outcome.points.total()
        if ended % _TOLD_EVERY == 0:
            console.print(f"{ended:,} points, {len(outcome.findings)} findings")

    began_s = time.monotonic()
    outcome = asyncio.run(run(given.points, seed=given.seed, told=tell))
    for title, counts in (("where processes ended", outcome.points), ("what", outcome.counts)):
        table = Table(title=title, title_justify="left")
        table.add_column("kind")
        table.add_column("count", justify="right")
        for kind, number in sorted(counts.items()):
            table.add_row(kind, f"{number:,}")
        console.print(table)
    for finding in outcome.findings:
        console.print(escape(str(finding)), style="bold")
    refusals = {
        kind.removeprefix("refused "): number
        for kind, number in sorted(outcome.counts.items())
        if kind.startswith("refused ")
    }
    print(
        json.dumps(
            {
                "benchmark": "cellar-crash",
                "points": outcome.points.total(),
                "ends": dict(sorted(outcome.points.items())),
                "acknowledged": outcome.counts["acknowledged"],
                **{kind: outcome.of_kind(kind) for kind in KINDS},
                "reads": outcome.counts["reads"],
                "replays": outcome.counts["replays"],
                "stale": outcome.counts["stale"],
                "forecasts": outcome.counts["forecasts"],
                "refusals": refusals,
                "seed": given.seed,
                "seconds": round(time.monotonic() - began_s),
                "machine": machine.describe(),
            }
        )
    )
    sys.exit(1 if outcome.findings else 0)


if __name__ == "__main__":
    main()
