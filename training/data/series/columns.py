"""Which columns of a file are wanted as series, and how they are read."""

from dataclasses import dataclass
from enum import StrEnum


class TimeFeature(StrEnum):
    """What a series model may read of a step's date, sent as a number after the value."""

    HOUR = "hour"
    WEEKDAY = "weekday"
    MONTHDAY = "monthday"
    MONTH = "month"


class Fill(StrEnum):
    """What stands in for values that are missing."""

    NONE = "none"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a file are wanted, and how they are read."""

    value: tuple[str, ...] = ()
    feature: tuple[str, ...] = ()
    time_feature: tuple[TimeFeature, ...] = ()
    series_column: str | None = None
    date: str | None = None
    decimal_comma: bool = False
    fill: Fill = Fill.NONE
