"""Numbers from command lines and CSV files. An error names its row."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

_DATES = frozenset(("date", "datetime", "timestamp", "time", "ds", "datum", "fecha"))
_FORMS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%Y%m%d", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y"),
)


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


def read_column(path: Path, name: str | None) -> list[float]:
    """The numbers in a column of a CSV file with a header (rows,), in order of its dates.

    Rows are sorted by the column that is named like a date; without one they are in order.

    Args:
        path: the file, in UTF-8.
        name: the column; None takes the only one.

    Raises:
        TableError: there is no such column, no row, a row that is not a number, or dates whose
            order is not clear.
        OSError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = csv.DictReader(file)
            columns = list(rows.fieldnames or ())
            if name is None and len(columns) != 1:
                raise TableError(f"{path}: choose a column with --value: {', '.join(columns)}")
            column = columns[0] if name is None else name
            if column not in columns:
                raise TableError(f"{path}: no column {column!r}, only {', '.join(columns)}")
            dated = next((each for each in columns if _is_date(each) and each != column), None)
            numbers, dates = [], []
            for row in rows:
                place = f"{path}, line {rows.line_num}"
                numbers.append(parse_number(row[column] or "", place))
                dates.append((row[dated] or "").strip() if dated is not None else "")
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}: {error}") from error
    if not numbers:
        raise TableError(f"{path}: no rows")
    if dated is None:
        return numbers
    return [numbers[row] for row in _order(dates, f"{path}, column {dated!r}")]


def _is_date(name: str) -> bool:
    return name.strip().strip("<>").lower() in _DATES


def _order(dates: Sequence[str], place: str) -> list[int]:
    """The rows from the oldest on.

    Raises:
        TableError: no form of dates fits all of them, or two do that order them differently.
    """
    orders = []
    for form in ("", *_FORMS):
        try:
            times = [_time(date, form) for date in dates]
        except ValueError:
            continue
        order = sorted(range(len(dates)), key=times.__getitem__)
        if len(set(times)) < len(times) and order != list(range(len(dates))):
            raise TableError(
                f"{place}: several rows have one time, and the file is not in order; write dates "
                "with the time of the day into it, or give the rows oldest first"
            )
        orders.append(order)
        if not form:
            break
    if not orders:
        raise TableError(
            f"{place}: {dates[0]!r} and the others are no dates that order the rows; write them as "
            "2026-12-31, or give the rows oldest first and the column another name"
        )
    if any(order != orders[0] for order in orders):
        raise TableError(
            f"{place}: {dates[0]!r} may begin with the day or the month, and the order depends on "
            "it; write 2026-12-31"
        )
    return orders[0]


def _time(date: str, form: str) -> float:
    """Seconds since 1970: of a form, or of ISO 8601 and numbers; times without a zone are UTC."""
    if form:
        time = datetime.strptime(date, form)
    elif len(date) != len("20261231") and date.replace(".", "", 1).isdigit():
        return float(date)
    else:
        if date.isdigit():
            raise ValueError(date)
        time = datetime.fromisoformat(date)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
