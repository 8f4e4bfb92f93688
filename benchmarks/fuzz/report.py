"""What was sent and how it ended, for people and as one JSON line."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.fuzz.judge import Finding
from benchmarks.fuzz.known import known

_SHOWN = 3


@dataclass(slots=True)
class Tally:
    """Counts of a run.

    Attributes:
        messages: sent so far, frames and requests of strangers included.
        ends: calls by method, and how they ended.
        kinds: messages by how they came about.
        witnessed: rounds of the witnesses.
        found: findings, by what and where: how to see each again.
        rss_mb: resident memory after each batch.
        slowest_s: the longest that a witness waited for an answer.
    """

    messages: int = 0
    ends: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    kinds: Counter[str] = field(default_factory=Counter)
    witnessed: int = 0
    found: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    rss_mb: list[float] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, findings: list[Finding]) -> None:
        """Take note of findings."""
        for each in findings:
            self.found[each.what, each.where].append(each.how)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """What was found, but for what is known."""
        return [key for key in self.found if known(Finding(*key, "")) is None]


def print_tables(console: Console, tally: Tally, *, repeat: str) -> None:
    """The tables: what ended how, what was sent, what was found."""
    statuses = sorted({status for ends in tally.ends.values() for status in ends})
    table = Table(title="calls by method and status", title_justify="left")
    table.add_column("method")
    for status in statuses:
        table.add_column(status.replace("_", " "), justify="right")
    for method, ends in sorted(tally.ends.items()):
        table.add_row(method, *(f"{ends[each]:,}" if ends[each] else "" for each in statuses))
    console.print(table)
    table = Table(title="messages by kind", title_justify="left")
    for column in ("kind", "messages"):
        table.add_column(column, justify="right" if column == "messages" else "left")
    for kind, count in sorted(tally.kinds.items()):
        table.add_row(kind, f"{count:,}")
    console.print(table)
    if tally.found:
        _print_findings(console, tally, repeat)


def _print_findings(console: Console, tally: Tally, repeat: str) -> None:
    table = Table(title="findings", title_justify="left")
    for column in ("where", "what", "times", "", f"again: {repeat}"):
        table.add_column(column, justify="right" if column == "times" else "left", overflow="fold")
    for (what, where), hows in sorted(tally.found.items(), key=lambda each: each[0][::-1]):
        listed = known(Finding(what, where, ""))
        mark = "new" if listed is None else f"known: {listed.why}"
        shown = "\n".join(hows[:_SHOWN])
        table.add_row(where, escape(what), f"{len(hows):,}", escape(mark), escape(shown))
    console.print(table)


def as_json(tally: Tally, **more: Any) -> str:
    """The outcome as one line."""
    return json.dumps(
        {
            "benchmark": "cellar-fuzz",
            **more,
            "messages": tally.messages,
            "kinds": dict(tally.kinds),
            "ends": {method: dict(ends) for method, ends in sorted(tally.ends.items())},
            "witness_rounds": tally.witnessed,
            "witness_slowest_s": round(tally.slowest_s, 3),
            "rss_mb": [round(each, 1) for each in tally.rss_mb],
            "findings": [
                {"where": where, "what": what, "times": len(hows), "again": hows[:_SHOWN],
                 "known": known(Finding(what, where, "")) is not None}
                for (what, where), hows in tally.found.items()
            ],
        }
    )  # fmt: skip


__all__ = ["Tally", "as_json", "print_tables"]
