"""Numbers from command lines. An error names the argument, and says what the model reads."""

from __future__ import annotations

import math
import re

from cellar.reading.errors import TableError
from cellar.values.model_info import ModelInfo

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+\.\d*|[+-]?\d{1,3}(?:,\d{3}){2,}")
_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def parse_number(text: str, place: str) -> float:
    """A number; commas between thousands are tolerated where they can be nothing else.

    Args:
        text: 1.5, -2e3, 1,234.5 or 1,234,567; neither 1,5 nor 1,234, which may be two things.
        place: where it stands, for the message.

    Raises:
        TableError: it is not a finite number, or may be meant in two ways.
    """
    text = text.strip()
    if _GROUPED.fullmatch(text):
        return float(text.replace(",", ""))
    number = float(text) if _PLAIN.fullmatch(text) else math.nan
    if math.isfinite(number):
        return number
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        point, none = text.replace(",", "."), text.replace(",", "")
        meant = f"{point} or {none}" if re.fullmatch(r"[+-]?\d{1,3},\d{3}", text) else point
        raise TableError(
            f"{place}: {text!r} may be one number or two; write {meant}, or the numbers apart"
        )
    raise TableError(f"{place}: {text!r} is not a number")


def parse_row(text: str, model: ModelInfo, place: str) -> list[float]:
    """The numbers of one step (model.width,): separated by commas, unless there is only one.

    Raises:
        TableError: one is not a finite number, or there are not as many as the model reads.
    """
    try:
        numbers = [text] if model.width == 1 else text.split(",")
        if len(numbers) == model.width:
            return [parse_number(each, place) for each in numbers]
    except TableError as error:
        raise TableError(f"{error}; {reads(model)}") from None
    count = f"{len(numbers)} number{'s' if len(numbers) > 1 else ''}"
    raise TableError(f"{place}: {text!r} is {count}; {reads(model)}")


def parse_rows(text: str, model: ModelInfo, place: str) -> list[list[float]]:
    """The steps of a sequence (steps, width): separated by blanks, each as ``parse_row`` reads it.

    Raises:
        TableError: one is not as many finite numbers as the model reads, or there is none.
    """
    rows = text.split()
    if not rows:
        raise TableError(f"{place}: no numbers in it; {reads(model)}")
    return [parse_row(row, model, f"{place}, step {number}") for number, row in enumerate(rows, 1)]


def reads(model: ModelInfo) -> str:
    """What a step of a model that reads values is, with an example."""
    if model.width == 1:
        of = f" ({model.features[0]})" if model.features else ""
        return f"model {model.name!r} reads one number per step{of}, such as 1.5"
    names = f" ({', '.join(model.features)}, in this order)" if model.features else ""
    example = ",".join(f"{place}.5" for place in range(1, min(model.width, 4) + 1))
    more = ",…" if model.width > 4 else ""
    return (
        f"model {model.name!r} reads {model.width} numbers per step{names}, such as {example}{more}"
    )
