"""What a field looks like by itself: a number, a time, nothing, or a text."""

import re
from enum import StrEnum
from functools import lru_cache

from cellar.reading.fields.dates import shape_of
from cellar.reading.fields.marks import is_mark
from cellar.reading.fields.written import is_number

CLOCK = re.compile(r"\d{1,2}[:.]\d{2}(?:[:.]\d{2}(?:[.,]\d{1,9})?)?(?: ?[AaPp]\.?[Mm]\.?)?")


class Kind(StrEnum):
    """What a field looks like."""

    NUMBER = "number"
    TIME = "time"
    MISSING = "missing"
    TEXT = "text"


@lru_cache(maxsize=100_000)
def kind_of(field: str) -> Kind:
    """Look at a field."""
    field = field.strip()
    if is_mark(field):
        return Kind.MISSING
    if is_number(field):
        return Kind.NUMBER
    if shape_of(field) is not None or CLOCK.fullmatch(field):
        return Kind.TIME
    return Kind.TEXT
