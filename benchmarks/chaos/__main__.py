"""``make chaos``: callers with recorded histories, a nemesis, and a sequential oracle.

Every reply is held against what its session alone would have been told. Exits with 1 where an
acknowledged step was lost, doubled or different, or where the server did what nobody asked for;
the history and the store are left then.
"""

import argparse
import asyncio
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.chaos.faults.victim import has_store
from benchmarks.chaos.report import as_json, print_tables
from benchmarks.chaos.run import CALLERS, Plan, run

MINUTES = 10.0


def main() -> None:
    given = _arguments()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cellar-chaos-"))
    store = None
    if given.store != "none":
        if has_store():
            store = folder / "store" if given.store is None else Path(given.store)
        elif given.store is not None:
            sys.exit("this server has no --store: leave it out, or name none")
        else:
            console.print("this server has no --store: its process is not killed")
    plan = Plan(
        folder=folder,
        store=store,
        durability="none" if store is None else given.durability,
        kills=store is not None,
        seconds=given.minutes * 60,
        seed=given.seed,
        scale=given.scale,
        pause_s=given.pause_s,
        only=tuple(given.only),
        flags=tuple(given.serve),
    )
    outcome = asyncio.run(run(plan, partial(console.print, markup=False)))
    print_tables(console, outcome)
    print(as_json(plan, outcome))
    sys.exit(0 if outcome.is_clean else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of faults")
    parser.add_argument("--durability", choices=("commit", "interval"), default="commit")
    parser.add_argument("--store", metavar="FOLDER", help="none: sessions end with their process")
    parser.add_argument("--seed", type=int, default=1, help="of all dice; time throws its own")
    parser.add_argument("--scale", type=float, default=1.0, help="how many callers")
    parser.add_argument("--pause-s", type=float, default=2.0, help="between faults, in the mean")
    parser.add_argument("--only", action="append", default=[], choices=CALLERS)
    parser.add_argument("--folder", type=Path, help="where a failure leaves what it was")
    parser.add_argument("--serve", action="append", default=[], help="a flag of cellar-serve's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
