"""Which columns of a file are wanted as series, and how they are read."""

from dataclasses import dataclass
from enum import StrEnum

ALL = "all"
"""Given as a value: every column of numbers."""
NONE = "none"
"""Given as a column: there is no such column."""


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


class Layout(StrEnum):
    """What a row of a file is."""

    AUTO = "auto"
    COLUMNS = "columns"
    """A step of the series, which are columns."""
    ROWS = "rows"
    """A series, whose steps are columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a file are wanted, and how they are read."""

    value: tuple[str, ...] = ()
    """Columns, `ALL` of them, or rows where each is a series."""
    feature: tuple[str, ...] = ()
    time_feature: tuple[TimeFeature, ...] = ()
    series_column: str | None = None
    """`NONE`: the file is one series, whatever its columns look like."""
    date: str | None = None
    """`NONE`: the rows are in order."""
    date_form: str | None = None
    """day-first, month-first, year-first, or a form as strptime takes it."""
    decimal_comma: bool = False
    decimal_point: bool = False
    missing: tuple[str, ...] = ()
    """Fields or numbers that stand for no value, beside the usual ones."""
    encoding: str | None = None
    """How the file is written where it is not UTF-8."""
    layout: Layout = Layout.AUTO
    fill: Fill = Fill.NONE

    @property
    def told_comma(self) -> bool | None:
        """Whether a comma is a decimal one; None: nobody says."""
        return self.decimal_comma if self.decimal_comma or self.decimal_point else None
