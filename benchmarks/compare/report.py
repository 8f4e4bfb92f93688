"""A comparison for people, a line per case, and as JSON; the README has the schema."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from benchmarks.compare.comparison import Compared
from benchmarks.compare.verdict import Interval
from benchmarks.report import SCHEMA, rounded
from benchmarks.rounds import cpu, speed


def print_case(console: Console, group: str, compared: Compared) -> None:
    """One case: costs, ratios with their intervals, and the verdict."""
    base, new = compared.base, compared.new
    before, now = base.figure(cpu).value, new.figure(cpu).value
    console.print(
        f"{group}, {base.case}: {before:.4g} → {now:.4g} CPU µs/step, "
        f"× {_text(compared.cpu)}, itself × {_text(compared.itself)}, "
        f"{base.unit}/s × {_text(compared.speed)}: [bold]{compared.verdict}[/bold]",
        highlight=False,
        soft_wrap=True,
    )


def result(
    cases: list[tuple[str, Compared]],
    *,
    skipped: Mapping[str, str],
    machine: Mapping[str, object],
    **more: object,
) -> dict[str, Any]:
    """The whole outcome."""
    return {
        "benchmark": "cellar-compare",
        "schema": SCHEMA,
        **more,
        "worse": [f"{group}, {found.new.case}" for group, found in cases if _is_worse(found)],
        "skipped": dict(skipped),
        "cases": [_case(group, compared) for group, compared in cases],
        "machine": dict(machine),
    }


def _is_worse(compared: Compared) -> bool:
    return compared.verdict is compared.verdict.WORSE


def _case(group: str, compared: Compared) -> dict[str, object]:
    base, new = compared.base, compared.new
    return {
        "group": group,
        "model": base.model,
        "case": base.case,
        "unit": base.unit,
        "rounds": len(base.samples),
        "verdict": str(compared.verdict),
        "cpu_ratio": _numbers(compared.cpu),
        "self_cpu_ratio": _numbers(compared.itself),
        "speed_ratio": _numbers(compared.speed),
        "base_cpu_us_per_step": rounded(base.figure(cpu).value),
        "cpu_us_per_step": rounded(new.figure(cpu).value),
        "base_steps_per_s": rounded(base.figure(speed).value),
        "steps_per_s": rounded(new.figure(speed).value),
    }


def _numbers(interval: Interval) -> list[float]:
    return [rounded(interval.median), rounded(interval.low), rounded(interval.high)]


def _text(interval: Interval) -> str:
    return f"{interval.median:.3f} ({interval.low:.3f}–{interval.high:.3f})"


__all__ = ["print_case", "result"]
