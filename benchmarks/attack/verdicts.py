"""What attacks did, held against what they may do, in one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.attack.attack import Attack

OK, MISSED = "ok", "MISSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of one attack.

    Attributes:
        what: was measured.
        alone, beside: without and with the attack.
        ratio: of both.
        aim: what it should be, for people; empty where it is only printed.
        verdict: `OK`, `MISSED`, or empty.
    """

    what: str
    alone: str
    beside: str
    ratio: str
    aim: str = ""
    verdict: str = ""


def lines_of(attack: Attack, found: Mapping[str, Any]) -> list[Line]:
    """The figures of an attack; the first has its aim."""
    lines = []
    for index, share in enumerate(("p50", "p99")):
        for key, what in (("step_ms", "step"), ("new_ms", "newcomer")):
            alone, beside = found["alone"][key][index], found["beside"][key][index]
            ratio = beside / max(alone, 1e-3)
            held = attack.aim is not None and share == "p50" and key == "step_ms"
            is_served = found["beside"]["steps"] > 0  # else there is nothing to hold
            is_met = attack.aim is None or (is_served and ratio <= attack.aim)
            lines.append(
                Line(
                    what=f"{what}, {share}, ms",
                    alone=f"{alone:.2f}",
                    beside=f"{beside:.2f}",
                    ratio=f"{ratio:.2f}",
                    aim=f"≤ {attack.aim:g}" if held else "",
                    verdict=(OK if is_met else MISSED) if held else "",
                )
            )
    failed, calls = found["failed"], found["beside"]["steps"] + found["beside"]["news"]
    if failed or found["died"]:
        is_met = attack.most_failed >= 1 or failed <= attack.most_failed * calls
        is_met = is_met and not found["died"]
        lines.append(
            Line(
                what="it died" if found["died"] else "calls that failed",
                alone="0",
                beside=f"{failed}",
                ratio="",
                aim="0" if attack.most_failed == 0 else "",
                verdict=OK if is_met else MISSED,
            )
        )
    return sorted(lines, key=lambda line: not line.aim)


def is_missed(attack: Attack, found: Mapping[str, Any]) -> bool:
    """Whether an aim was not met."""
    return any(line.verdict == MISSED for line in lines_of(attack, found))


def note_of(found: Mapping[str, Any]) -> str:
    """What the attack was in fact, and what it took."""
    per_s = found["per_s"]
    said = [f"a second {per_s['sent']:,.0f} sent"]
    said += [f"{per_s[key]:,.0f} {key}" for key in ("answered", "refused", "cut") if per_s[key]]
    if found["open"]:
        said.append(f"{found['open']:,} connections open")
    if found["held_s"] is not None:
        said.append(f"cut after {found['held_s']:.1f} s")
    cores = ", ".join(
        f"{who} {found[f'{who}_cpu']:.2f}" for who in ("server", "attacker", "polite", "others")
    )
    said.append(f"cores: {cores}")
    if found["refusal_cpu_us"] is not None:
        said.append(f"a refusal {found['refusal_cpu_us']:,} µs of the server's CPU")
    if found["grown_mb"] > 10:
        said.append(f"{found['grown_mb']:,} MiB more")
    return "; ".join(said)


def print_table(
    console: Console, attacks: Mapping[str, Attack], found: Mapping[str, Mapping[str, Any]]
) -> None:
    """One table of all of it."""
    table = Table(title="polite principals alone, and beside each attack", title_justify="left")
    for head in ("attack", "what"):
        table.add_column(head)
    for head in ("alone", "beside", "ratio", "aim"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("what it was")
    for name, each in found.items():
        left = f"{name}: {each['says']}"
        for number, line in enumerate(lines_of(attacks[name], each)):
            cells = (line.what, line.alone, line.beside, line.ratio, line.aim, line.verdict)
            table.add_row(left if not number else "", *cells, note_of(each) if not number else "")
        table.add_section()
    console.print(table)
