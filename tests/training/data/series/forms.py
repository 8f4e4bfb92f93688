"""Times and numbers in the forms that people write, and what chooses among them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

T = TypeVar("T")


class Chooser(Protocol):
    """What makes a case one and no other."""

    def one_of(self, choices: Sequence[T]) -> T:
        """One of several things."""

    def whole(self, least: int, most: int) -> int:
        """A whole number."""

    def noise(self) -> random.Random:
        """What nothing depends on: digits of values, the order of rows in none."""


class RandomChooser:
    """Chooses by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one_of(self, choices: Sequence[T]) -> T:
        """One of several things."""
        return self._random.choice(choices)

    def whole(self, least: int, most: int) -> int:
        """A whole number."""
        return self._random.randint(least, most)

    def noise(self) -> random.Random:
        """What nothing depends on."""
        return random.Random(self._random.random())


# ---- times ----


@dataclass(frozen=True, slots=True)
class DateForm:
    """A way to write a time."""

    name: str
    write: Callable[[datetime], str]
    has_clock: bool = False


def _unpadded(form: str) -> Callable[[datetime], str]:
    def write(time: datetime) -> str:
        day, month, year, short = time.day, time.month, time.year, time.year % 100
        return form.format(d=day, m=month, y=year, s=f"{short:02}")

    return write


def _strf(form: str) -> DateForm:
    return DateForm(form, lambda time: time.strftime(form), "%H" in form or "%I" in form)


_PLAIN_DAYS = (
    "%Y-%m-%d %Y/%m/%d %Y.%m.%d %d/%m/%Y %m/%d/%Y %d-%m-%Y %m-%d-%Y %d.%m.%Y %d.%m.%y %d/%m/%y "
    "%m/%d/%y %d-%b-%Y %d-%b-%y %Y%m%d %d%b%Y %Y-%b-%d"
)
_DAYS = [
    *map(_strf, _PLAIN_DAYS.split()),
    *map(_strf, ["%b %d, %Y", "%B %d, %Y", "%d %B %Y", "%a, %d %b %Y", "%A %d %B %Y", "%d. %b %Y"]),
    DateForm("d/m/Y", _unpadded("{d}/{m}/{y}")),
    DateForm("m/d/yy", _unpadded("{m}/{d}/{s}")),
    DateForm("Y-m-d", _unpadded("{y}-{m}-{d}")),
    DateForm("s", lambda time: str(_epoch(time)), True),
    DateForm("ms", lambda time: str(_epoch(time) * 1000), True),
    DateForm("us", lambda time: str(_epoch(time) * 1000_000), True),
    DateForm("s.0", lambda time: f"{_epoch(time)}.0", True),
]
_MONTHS = [
    *map(_strf, ["%Y-%m", "%b-%y", "%b %Y", "%Y-%b", "%m/%Y", "%YM%m", "%B %Y"]),
    *_DAYS,
]
_QUARTERS = [
    DateForm("YQq", lambda time: f"{time.year}Q{(time.month + 2) // 3}"),
    DateForm("Y-Qq", lambda time: f"{time.year}-Q{(time.month + 2) // 3}"),
    DateForm("Qq Y", lambda time: f"Q{(time.month + 2) // 3} {time.year}"),
    *_MONTHS,
]
_WEEKS = [DateForm("ISO week", lambda time: time.strftime("%G-W%V")), *_DAYS]
_CLOCKS = [
    " %H:%M", " %H:%M:%S", "T%H:%M:%S", "T%H:%M:%SZ", " %H:%M:%S+00:00", " %H:%M:%S UTC",
    " %H.%M.%S", " %I:%M:%S %p", " %I:%M %p", " %H:%M:%S.000", ", %H:%M",
    "T%H:%M:%S.000Z", " %H:%M:%S+0000",
]  # fmt: skip


def _epoch(time: datetime) -> int:
    return round((time - datetime(1970, 1, 1)) / timedelta(seconds=1))


def times_of(chooser: Chooser, rows: int) -> tuple[str, list[datetime]]:
    """Times, most of them evenly spaced, and what they are."""
    kinds = [
        "day",
        "weekday",
        "hour",
        "15 minutes",
        "week",
        "month",
        "quarter",
        "any days",
        "holes",
    ]
    kind = chooser.one_of(kinds)
    year = chooser.one_of([1998, 2012, 2019, 2021, 2023])
    start = datetime(year, chooser.whole(1, 12), chooser.whole(1, 28))
    if kind in ("day", "hour", "15 minutes", "week"):
        step = {
            "day": timedelta(days=1),
            "hour": timedelta(hours=1),
            "15 minutes": timedelta(minutes=15),
            "week": timedelta(days=7),
        }[kind]
        if kind == "week":
            start -= timedelta(days=start.weekday())
        return kind, [start + step * row for row in range(rows)]
    if kind in ("any days", "holes"):
        noise, found = chooser.noise(), [start]
        while len(found) < rows:
            away = noise.randint(1, 40) if kind == "any days" else noise.choice([1] * 9 + [12])
            found.append(found[-1] + timedelta(days=away))
        return kind, found
    if kind == "weekday":
        days = (start + timedelta(days=day) for day in range(2 * rows + 4))
        return kind, [day for day in days if day.weekday() < 5][:rows]
    months = 1 if kind == "month" else 3
    first = start.month - (start.month - 1) % months - 1
    return kind, [
        datetime(start.year + (first + months * row) // 12, (first + months * row) % 12 + 1, 1)
        for row in range(rows)
    ]


def date_form(chooser: Chooser, kind: str) -> DateForm:
    """A way to write times of a kind, so that each of them can be told."""
    by_kind = {"month": _MONTHS, "quarter": _QUARTERS, "week": _WEEKS}
    form = chooser.one_of(by_kind.get(kind, _DAYS))
    if kind in ("hour", "15 minutes") and not form.has_clock:
        clock = chooser.one_of(_CLOCKS)
        write = form.write
        return DateForm(form.name + clock, lambda time: write(time) + time.strftime(clock), True)
    return form


# ---- numbers ----


@dataclass(frozen=True, slots=True)
class NumberForm:
    """A way to write a number."""

    name: str
    digits: int
    comma: bool
    write: Callable[[float], str]


def _grouped(number: float, digits: int, group: str, *, comma: bool) -> str:
    text = f"{abs(number):,.{digits}f}"
    if group == "indian":
        whole, _, rest = f"{abs(number):.{digits}f}".partition(".")
        head, tail = whole[:-3], whole[-3:]
        pairs = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
        text = ",".join([*pairs, tail]) + (f".{rest}" if rest else "")
        group = ","
    mark = "," if comma else "."
    return "".join({",": group, ".": mark}.get(letter, letter) for letter in text)


def number_form(chooser: Chooser) -> NumberForm:
    """A way to write numbers."""
    digits = chooser.one_of([0, 1, 2, 3, 4, 6])
    comma = chooser.one_of([False, False, True])
    groups = ["", "", "", " ", "'", "." if comma else ",", *([] if comma else ["indian"])]
    group = chooser.one_of(groups)
    around = chooser.one_of(["", "", "", "", "$", "€", "%", "()", "\u2212", " EUR"])

    def write(number: float) -> str:
        text = _grouped(number, digits, group, comma=comma)
        minus = number < 0 and float(f"{number:.{digits}f}") != 0
        if around == "()":
            return f"({text})" if minus else text
        sign = ("\u2212" if around == "\u2212" else "-") if minus else ""
        before = around if around in ("$", "€") else ""
        after = around if around in ("%", " EUR") else ""
        return f"{sign}{before}{text}{after}"

    name = f"{digits} digits, {'comma' if comma else 'point'}, group '{group}', '{around}'"
    return NumberForm(name, digits, comma, write)


def values_of(chooser: Chooser, rows: int, digits: int) -> list[float]:
    """A walk, rounded to what is written."""
    level = chooser.one_of([0.5, 3.0, 100.0, 2500.0, 1_250_000.0])
    value, found = level * (1 + chooser.whole(0, 50) / 100), []
    signed = chooser.one_of([False, False, True])
    noise = chooser.noise()
    for _ in range(rows):
        value += level * noise.randint(-100, 100) / 2000
        value = value if signed else abs(value) + level / 1000
        shown = -value if signed and noise.randint(0, 1) else value
        found.append(float(f"{shown:.{digits}f}"))
    return found
