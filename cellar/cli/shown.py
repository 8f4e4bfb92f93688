"""How predictions are shown, as tables or as JSON, and what is said of errors."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cellar.cli.access import in_options
from cellar.errors import BadInputError, CellarError, ConnectionLostError, UnauthenticatedError
from cellar.values.predictions import Prediction

_WIDE = 1000
"""Columns of a table that goes into a pipe or a file: no line of it is cut."""


def words(prediction: Prediction) -> list[str]:
    """The cells of a prediction."""
    if prediction.quantiles is not None:
        return [f"{value:.6g}" for value in prediction.quantiles]
    if prediction.top:
        top = (
            f"{_name(each.symbol, each.token)} {each.probability:.3f}" for each in prediction.top
        )
        return ["  ".join(top)]
    if prediction.argmax is not None:
        return [_name(prediction.symbol, prediction.argmax)]
    return ["" if prediction.raw is None else "  ".join(f"{each:.6g}" for each in prediction.raw)]


def percent(level: float) -> str:
    """A level, for people."""
    return f"{100 * level:.4g}%"


def _name(symbol: str | None, token: int) -> str:
    return str(token) if symbol is None else repr(symbol)


def json_of(prediction: Prediction) -> dict[str, Any]:
    """What there is of a prediction."""
    facts = {
        "position": prediction.position,
        "argmax": prediction.argmax,
        "symbol": prediction.symbol,
        "top": [[each.token, each.symbol, each.probability] for each in prediction.top] or None,
        "levels": prediction.levels or None,
        "quantiles": None if prediction.quantiles is None else prediction.quantiles.tolist(),
        "raw": None if prediction.raw is None else prediction.raw.tolist(),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def print_json(facts: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(facts, ensure_ascii=False))


def new_table(*headings: str) -> Table:
    """A table; the columns whose heading begins with # hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        number = heading.startswith("#")
        table.add_column(
            heading.lstrip("#"), justify="right" if number else "left", overflow="fold"
        )
    return table


def print_table(table: Table) -> None:
    """Print a table: as wide as it likes, without styles or blanks at the ends, for a pipe."""
    is_seen = sys.stdout is not None and sys.stdout.isatty()
    console = Console(width=None if is_seen else _WIDE, markup=False, highlight=False, emoji=False)
    with console.capture() as text:  # rich would end the process where a pipe is broken
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def told(error: CellarError) -> str:
    """What went wrong: its kind, where the message does not say that, and the message."""
    if isinstance(error, ConnectionLostError):  # which says what is likely to be wrong
        return in_options(error.message)
    if isinstance(error, BadInputError) and not error.reason:  # this side's own
        return error.message
    hint = " (--token-file FILE or CELLAR_TOKEN)" if isinstance(error, UnauthenticatedError) else ""
    return f"{error.reason or error.code or type(error).__name__}: {error.message}{hint}"
