"""Numbers from command lines and CSV files. An error names its row."""

from __future__ import annotations

import math


class TableError(Exception):
    """A file, or one of its rows, cannot be read as numbers."""


def parse_number(text: str, place: str) -> float:
    """A number; commas between thousands are tolerated. ``place`` says where it stands.

    Raises:
        TableError: it is not a finite number.
    """
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TableError(f"{place}: {text!r} is not a number")
    return number


def parse_row(text: str, width: int, place: str) -> list[float]:
    """The numbers of a row (width,): separated by commas, unless there is only one.

    Raises:
        TableError: one is not a finite number, or there are not ``width`` of them.
    """
    numbers = [text] if width == 1 else text.split(",")
    if len(numbers) != width:
        raise TableError(f"{place}: {text!r} is not {width} numbers")
    return [parse_number(each, place) for each in numbers]


def parse_rows(text: str, width: int, place: str) -> list[list[float]]:
    """The rows of a sequence (steps, width): separated by blanks, each as ``parse_row`` reads it.

    Raises:
        TableError: one is not ``width`` finite numbers, or there is none.
    """
    rows = text.split()
    if not rows:
        raise TableError(f"{place}: no numbers in it")
    return [parse_row(row, width, f"{place}, row {number}") for number, row in enumerate(rows, 1)]
