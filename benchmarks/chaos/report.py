"""What a run came to, for people and as one JSON line."""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import machine
from benchmarks.chaos.run import Outcome, Plan

KINDS = ("lost", "doubled", "different")


def print_tables(console: Console, outcome: Outcome) -> None:
    """The tables: faults, refusals, findings."""
    history, verdict = outcome.history, outcome.verdict
    for title, counts in (("faults", history.faults), ("refusals", history.refusals)):
        table = Table(title=title, title_justify="left")
        table.add_column("kind")
        table.add_column("count", justify="right")
        for kind, count in sorted(counts.items()):
            table.add_row(kind, f"{count:,}")
        console.print(table)
    for words in (*verdict.findings, *outcome.failures):
        console.print(escape(words), style="bold")
    told = ", ".join(f"{verdict.counts[kind]:,} {kind}" for kind in KINDS)
    console.print(
        f"{history.acknowledged:,} steps acknowledged: {told}; {verdict.compared:,} predictions "
        f"held against the session alone ({outcome.judged_s:.0f} s), {verdict.one_by_one:,} steps "
        f"in a batch of one; {outcome.reads:,} positions read"
    )
    if outcome.left_at is not None:
        console.print(escape(f"the history and the store are in {outcome.left_at}"), style="bold")


def as_json(plan: Plan, outcome: Outcome) -> str:
    """The outcome as one line."""
    history, verdict = outcome.history, outcome.verdict
    return json.dumps(
        {
            "benchmark": "cellar-chaos",
            "acknowledged": history.acknowledged,
            **{kind: verdict.counts[kind] for kind in KINDS},
            "faults": dict(sorted(history.faults.items())),
            "reads": outcome.reads,
            "stale_refused": history.stale_refused,
            "compared": verdict.compared,
            "one_by_one": verdict.one_by_one,
            "refusals": dict(sorted(history.refusals.items())),
            "eras": len(history.eras),
            "store": None if plan.store is None else "lmdb",
            "durability": plan.durability,
            "seed": plan.seed,
            "seconds": round(outcome.seconds),
            "failures": outcome.failures,
            "machine": machine.describe(),
        }
    )


__all__ = ["KINDS", "as_json", "print_tables"]
