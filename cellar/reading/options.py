"""How a file of a series is to be read, where it does not say so itself: as cellar-train has it."""

from __future__ import annotations

from dataclasses import dataclass

from cellar.reading.fields.dates import ORDERS

DATE_ORDERS = tuple(ORDERS)
NO_DATES = "none"
"""Given as the column of dates: the rows are in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """What a caller says of a file.

    Attributes:
        date: the column of times; ``NO_DATES``: the rows are in order; None: found by its name.
        date_form: one of ``DATE_ORDERS``, or a form as strptime takes it; None: as it looks.
        decimal_comma: whether a comma is a decimal one; None: the numbers of the file tell.
        missing: fields that stand for no value, beside the usual ones.
        encoding: how it is written, where that is not UTF-8.
    """

    date: str | None = None
    date_form: str | None = None
    decimal_comma: bool | None = None
    missing: tuple[str, ...] = ()
    encoding: str | None = None
