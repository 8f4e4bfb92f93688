"""``make fuzz``: hostile messages for a real server, and whether anybody else feels them.

Everything that is sent comes from a seed: what is found names the case, or the batch, that shows
it again.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.errors import UnmeasuredError
from benchmarks.fuzz.aftermath import grows
from benchmarks.fuzz.attack import SERVE_FLAGS, Attack
from benchmarks.fuzz.judge import Finding
from benchmarks.fuzz.messages.cases import Case, Key
from benchmarks.fuzz.messages.subjects import publish
from benchmarks.fuzz.report import as_json, print_tables
from benchmarks.fuzz.senders.calls import Outcome
from benchmarks.processes import CellarServer

MESSAGES = 100_000
BATCH = 4000
_DRAIN_S = 40.0


def main() -> None:
    given = _arguments()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 160)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cellar-fuzz-") as folder:
        server = CellarServer(publish(Path(folder)), *SERVE_FLAGS)
        attack = Attack(server, given.seed, partial(console.print, markup=False))
        try:
            asyncio.run(_run(attack, given, console))
            _end(server, attack)
        finally:
            if given.keep_stderr is not None:
                given.keep_stderr.write_text(server.errors(), "utf-8")
            server.close()
    tally = attack.tally
    grown = grows(tally.rss_mb)
    if grown:
        tally.add([Finding("memory grows", "server", f"{grown:.0f} MiB since it was warm")])
    print_tables(console, tally, repeat="make fuzz ARGS='...'")
    seconds = time.monotonic() - start
    print(as_json(tally, seed=given.seed, seconds=round(seconds)))
    failures = len(tally.failures)
    console.print(
        f"{tally.messages:,} messages in {seconds:.0f} s, seed {given.seed}; witnesses were "
        f"{tally.witnessed:,} times at the end of their sequences and waited for "
        f"{tally.slowest_s:.2f} s at most; {failures} new findings, "
        f"{len(tally.found) - failures} known"
    )
    sys.exit(1 if failures else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="how many are sent")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="messages between two looks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", metavar="SEED:N", help="send one batch again")
    parser.add_argument("--case", metavar="SEED:N:ITEM", help="send one case again, and show it")
    parser.add_argument("--keep-stderr", type=Path, metavar="FILE", help="of the server")
    given = parser.parse_args()
    if given.batch is not None:
        given.seed, given.batch = map(int, given.batch.split(":"))
    if given.case is not None:
        given.case = Key.parse(given.case)
    return given


async def _run(attack: Attack, given: argparse.Namespace, console: Console) -> None:
    if given.case is not None:
        case, outcome = await attack.run_case(given.case)
        _show(console, case, outcome)
    elif given.batch is not None:
        await attack.run_one_batch(given.batch, given.batch_size)
    else:
        await attack.run(given.messages, given.batch_size)


def _end(server: CellarServer, attack: Attack) -> None:
    """A server that was asked to end does, whatever it went through."""
    try:
        status = server.terminate(_DRAIN_S)
    except UnmeasuredError as error:
        attack.tally.add([Finding(str(error), "server", "after the last batch")])
    else:
        if status:
            fault = f"it ended with status {status}"
            attack.tally.add([Finding(fault, "server", "after the last batch")])


def _show(console: Console, case: Case, outcome: Outcome) -> None:
    console.print(f"{case.path}, {case.kind}, then {case.ending}", markup=False)
    for message in case.messages:
        cut = "" if len(message) <= 400 else f"… {len(message):,} bytes"
        console.print(message[:400].hex() + cut, markup=False)
    console.print(outcome, markup=False)


if __name__ == "__main__":
    main()
