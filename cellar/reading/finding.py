"""Which columns say when a row is: found as training finds them, or refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from cellar.reading.errors import TableError
from cellar.reading.fields import names
from cellar.reading.fields.kinds import CLOCK
from cellar.reading.fields.names import Rank
from cellar.reading.options import NO_DATES, ReadingOptions
from cellar.reading.tables.table import Table
from cellar.reading.times import (
    COUNT,
    Times,
    date_of,
    numbers_of,
    read_elapsed,
    read_times,
)

_PARTS = {"year": (1500, 2199), "month": (1, 12), "day": (1, 31)}
_CLOCK_PARTS = {"hour": (23, 3600), "minute": (59, 60), "second": (59, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The times of a table's rows, and the columns that they are in."""

    times: Times
    columns: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Further columns of times."""

    @property
    def name(self) -> str:
        """The columns, for messages."""
        return " and ".join(map(repr, self.columns))


def find_times(table: Table, taken: Collection[str], options: ReadingOptions) -> Found | None:
    """Find and read the times of rows; None: there are none.

    Args:
        table: the file.
        taken: columns that are read as numbers.
        options: what a caller says of it.

    Raises:
        TableError: the column that is named has no times, or it is not clear which has.
    """
    if options.date == NO_DATES and NO_DATES not in table.names:
        return None
    if not table.rows:
        return None
    finder = _Finder(table, taken, options.date_form)
    return finder.found() if options.date is None else finder.told(options.date)


class _Finder:
    def __init__(self, table: Table, taken: Collection[str], form: str | None) -> None:
        self._table = table
        self._form = form
        self._names = [
            name for name in table.names if name not in taken and table.names.count(name) == 1
        ]

    def told(self, name: str) -> Found:
        """The times of a column that a caller names."""
        times = self._read(name, is_named=True) or read_elapsed(self._table.fields(name))
        if times is None:
            numbers = numbers_of(self._table.fields(name))
            if numbers is None or not _ascends(numbers):
                raise TableError(
                    f"{self._place(name)}: {self._table.fields(name)[0]!r} and the others are no "
                    "times; name another column with --date, or --date none"
                )
            times = Times(readings={COUNT: numbers}, has_clock=True)
        return self._completed(Found(times=times, columns=(name,)))

    def found(self) -> Found | None:
        """The times of the column that is named like it, or looks like it."""
        ranked: dict[Rank, list[str]] = {}
        for name in self._names:
            ranked.setdefault(names.rank_of(name), []).append(name)
        for rank in sorted(ranked):
            if rank is not Rank.EXACT and (parts := self._parts()) is not None:
                return parts
            good: dict[str, Times] = {}
            for name in ranked[rank]:
                times = self._read(name, is_named=rank <= Rank.LIKELY)
                if times is not None and self._is_sure(name, times, rank):
                    good[name] = times
            if good:
                return self._chosen(good)
            if rank is Rank.EXACT and (parts := self._parts()) is not None:
                return parts
        return self._counted()

    def _read(self, name: str, *, is_named: bool) -> Times | None:
        texts = self._table.fields(name)
        if names.is_clock(name) and all(CLOCK.fullmatch(text) for text in texts):
            return None  # of the day alone; 10.12.14 may look like a date
        return read_times(texts, self._place(name), form=self._form, is_named=is_named)

    def _is_sure(self, name: str, times: Times, rank: Rank) -> bool:
        """Whether numbers in a column without a telling name are times.

        Where it makes no difference they are none.

        Raises:
            TableError: they may be, and would order the rows otherwise.
        """
        if rank <= Rank.LIKELY or numbers_of(self._table.fields(name)) is None:
            return True
        if not all(_ascends(each) for each in times.readings.values()):
            raise TableError(
                f"{self._place(name)} may be times, or numbers; say --date {name!r}, or --date none"
            )
        return False

    def _chosen(self, good: dict[str, Times]) -> Found:
        """Of columns with times the first; refused where another orders the rows otherwise."""
        name, *others = good
        for other in others:
            first, second = good[name].readings, good[other].readings
            pairs = [(one, two) for one in first.values() for two in second.values()]
            if not all(_order(one) == _order(two) for one, two in pairs):
                raise TableError(
                    f"{self._table.path}: {name!r} and {other!r} are both times and order the rows "
                    "differently; name the one to sort by with --date"
                )
        return self._completed(Found(times=good[name], columns=(name,), others=tuple(others)))

    def _completed(self, found: Found) -> Found:
        """With the time of the day where it stands in a column of its own."""
        times = found.times
        if times.has_clock:
            return found
        (name,) = found.columns
        for clock in self._names:
            if clock == name or not names.is_clock(clock):
                continue
            texts = self._table.fields(clock)
            if not all(CLOCK.fullmatch(text) for text in texts):
                if all(_is_each_once(each) for each in times.readings.values()):
                    continue  # no row is earlier for it
                raise TableError(
                    f"{self._place(clock)}: {texts[0]!r} and the others are no times of the day "
                    "that order the rows; write 23:59"
                )
            readings = {}
            for form, days in times.readings.items():
                pairs = zip(days, texts, strict=True)
                both = [f"{date_of(day):%Y-%m-%d} {text}" for day, text in pairs]
                joined = read_times(both, self._place(clock))
                if joined is not None:
                    (readings[form],) = joined.readings.values()
            return replace(
                found,
                times=replace(times, readings=readings, has_clock=True),
                columns=(name, clock),
            )
        return found

    def _parts(self) -> Found | None:
        """Year, month, day and hour in columns of their own."""
        parts = names.parts_of(tuple(self._names))
        if "year" not in parts or len(parts) < 2:
            return None
        used = [part for part in (*_PARTS, *_CLOCK_PARTS) if part in parts]
        numbers = {part: self._whole(parts[part]) for part in used}
        odd = {"doy", "quarter", "week"} & parts.keys()
        is_whole = "month" in numbers and ("day" in numbers or not set(used) & set(_CLOCK_PARTS))
        if odd or not is_whole:
            raise TableError(
                f"{self._table.path}: dates in the columns {', '.join(parts.values())}; write them "
                "into one, as 2026-12-31, or take the rows as they come with --date none"
            )
        found = []
        for row in range(len(self._table.rows)):
            try:
                date = datetime(
                    numbers["year"][row],
                    numbers["month"][row],
                    numbers["day"][row] if "day" in numbers else 1,
                    tzinfo=UTC,
                )
                for part, (most, _) in _CLOCK_PARTS.items():
                    if part in numbers and not 0 <= numbers[part][row] <= most:
                        raise ValueError(part)
            except ValueError:
                line = self._table.lines[row]
                raise TableError(f"{self._table.path}, line {line}: no such date") from None
            clock = sum(
                numbers[part][row] * seconds
                for part, (_, seconds) in _CLOCK_PARTS.items()
                if part in numbers
            )
            found.append(date.timestamp() + clock)
        times = Times(readings={" ".join(used): found}, has_clock=True)
        return Found(times=times, columns=tuple(parts[part] for part in used))

    def _whole(self, name: str) -> list[int]:
        texts = self._table.fields(name)
        if not all(text.isascii() and text.isdigit() for text in texts):
            raise TableError(
                f"{self._place(name)}: not all are whole numbers; write dates as 2026-12-31, or "
                "take the rows as they come with --date none"
            )
        return [int(text) for text in texts]

    def _counted(self) -> Found | None:
        """Numbers that count from a start; or nothing that could order rows."""
        for name in self._names:
            if names.is_elapsed(name):
                times = read_elapsed(self._table.fields(name))
                if times is not None:
                    return Found(times=times, columns=(name,))
        for name in self._names:
            if names.rank_of(name) is Rank.NOTHING:
                continue
            numbers = numbers_of(self._table.fields(name))
            if numbers is not None and _ascends(numbers):  # whatever it is, the order is the same
                times = Times(readings={COUNT: numbers}, has_clock=True)
                return Found(times=times, columns=(name,))
            if names.must_be_read(name) or numbers is not None:
                raise TableError(
                    f"{self._place(name)}: {self._table.fields(name)[0]!r} and the others are no "
                    "dates that order the rows; write them as 2026-12-31, or take the rows as they "
                    "come with --date none"
                )
        return None

    def _place(self, name: str) -> str:
        return f"{self._table.path}, column {name!r}"


def _ascends(numbers: Sequence[float]) -> bool:
    return all(before < after for before, after in pairwise(numbers))


def _is_each_once(numbers: Sequence[float]) -> bool:
    return len(set(numbers)) == len(numbers)


def _order(times: Sequence[float]) -> list[int]:
    return sorted(range(len(times)), key=times.__getitem__)
