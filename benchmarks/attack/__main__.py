"""``make attack``: attack a server in every way there is, and measure who is polite beside it.

Each attack has a server of its own, with TLS and tokens. It exits with 1 where an aim is missed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

import benchmarks.attack.attacker  # noqa: F401 (it knows all attacks)
from benchmarks import machine
from benchmarks.attack.attack import ATTACKS
from benchmarks.attack.course import attacked
from benchmarks.attack.house import house_of
from benchmarks.attack.verdicts import is_missed, print_table
from benchmarks.fuzz.messages.subjects import publish
from benchmarks.report import SCHEMA, keep, name_of_result

_QUICK_S = 3.0


def main() -> None:
    given = _arguments()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="cellar-attack-") as name_of_folder:
        folder = Path(name_of_folder)
        models = publish(folder / "models")
        for number, name in enumerate(given.only or ATTACKS):
            attack, own = ATTACKS[name], folder / str(number)
            own.mkdir()
            # A server for each: what one leaves behind is not the next one's.
            house = house_of(own, models, quota=attack.quota, flags=given.serve)
            try:
                found[name] = asyncio.run(attacked(house, name, attack, given.seconds))
            finally:
                house.close()
            print(json.dumps({"attack": name, **found[name]}), file=sys.stderr, flush=True)
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 180)
    print_table(console, ATTACKS, found)
    outcome = outcome_of(found, seconds=given.seconds, serve_flags=given.serve)
    if given.save is not None:
        keep(outcome, given.save, console)
    print(json.dumps(outcome))
    sys.exit(bool(outcome["missed"]))


def outcome_of(found: Mapping[str, Any], **how: object) -> dict[str, Any]:
    """The whole as JSON."""
    return {
        "benchmark": "cellar-attack",
        "schema": SCHEMA,
        **how,
        "missed": [name for name, each in found.items() if is_missed(ATTACKS[name], each)],
        "attacks": dict(found),
        "machine": machine.describe(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make attack", description=(__doc__ or "").strip())
    parser.add_argument(
        "--only", action="append", choices=ATTACKS, metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=15, help="of each attack")
    parser.add_argument("--quick", action="store_true", help="3 s of each: shows that it works")
    parser.add_argument(
        "--serve", action="append", default=[], metavar="FLAG", help="a flag of cellar-serve"
    )
    parser.add_argument(
        "--save", metavar="NAME", type=name_of_result, help="keep the result by this name"
    )
    parser.epilog = f"Attacks: {', '.join(ATTACKS)}."
    given = parser.parse_args()
    if given.quick:
        given.seconds = _QUICK_S
    return given


if __name__ == "__main__":
    main()
