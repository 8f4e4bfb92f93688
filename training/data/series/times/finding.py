"""Which columns say when: found by their content, and by their names where these are telling.

What cannot be read, or may be read in two ways, is refused: rows in a wrong order are worse than
none.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellar.reading.fields import names
from cellar.reading.fields.kinds import Kind, kind_of
from cellar.reading.fields.names import Rank
from training.data.notes import Note
from training.data.series.columns import NONE, Columns
from training.data.series.dates.calendar import shown
from training.data.series.dates.counted import read_elapsed, read_numbers
from training.data.series.dates.reading import (
    FEWEST_TELLING,
    LEAST_FIT,
    Reading,
    Unclear,
    known,
    read,
    sampled,
)
from training.data.series.table.column_table import ColumnTable
from training.data.series.times.pieces import clock_texts, read_parts
from training.errors import DataError

_SMELL = re.compile(r"(?=.*(?<!\d)(?:19|20)\d{2}(?!\d)).*[^\W\d_]{3}|\d+\D+\d+\D+\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When each row of a table is."""

    reading: Reading
    columns: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Further columns of times, which are no values."""

    @property
    def name(self) -> str:
        """The columns, for messages."""
        return "' and '".join(self.columns)

    @property
    def note(self) -> Note:
        """What was understood."""
        reading = self.reading
        there = reading.stamps[known(reading.stamps)]
        first, last = shown(pd.DatetimeIndex([there.min(), there.max()]), elapsed=reading.elapsed)
        said = [f"{first} to {last}", f"read as {reading.form}"]
        said += [reading.chosen] if reading.chosen else []
        said += [f"times are {_zone(reading.zone)}"] if reading.zone else []
        return Note(what=f"times in '{self.name}'", rows=len(there), detail=", ".join(said))


def find_times(table: ColumnTable, columns: Columns) -> Times | None:
    """Find and read the times of rows; None: there are none.

    Raises:
        DataError: the column that is named has no dates, a column that is named like one cannot
            be read, or the dates may be read in several ways.
    """
    if columns.date == NONE and NONE not in table.names:
        return None
    finder = _Finder(table, columns)
    if columns.date is not None:
        return finder.told(columns.date)
    if table.steps_column is not None:
        return finder.told(table.steps_column)
    return finder.found()


class _Finder:
    def __init__(self, table: ColumnTable, columns: Columns) -> None:
        self._table = table
        self._form = columns.date_form
        taken = {*columns.value, *columns.feature, columns.series_column, table.series_column}
        twice = {name for name in table.names if table.names.count(name) > 1}
        self._names = [name for name in table.names if name not in taken | twice]

    def told(self, name: str) -> Times:
        """The times of a column that the user names."""
        texts = self._table.column(name, "--date")
        found = self._read(name, named=True)
        if found is None:
            found = read_elapsed(texts)
        if found is None:
            line, field = _first_unread(texts)
            raise DataError(
                f"{self._table.path}: no dates in column '{name}' (line {line}: '{field}'): no "
                f"form of dates fits {LEAST_FIT:.0%} of its rows; name another with --date, say "
                "how they are written with --date-form (%d.%m.%Y), or take the rows as they come "
                f"with --date {NONE}"
            )
        return self._completed(self._decided(found, name), name)

    def found(self) -> Times | None:
        """The times of the column that is named like it, or looks like it."""
        ranked: dict[Rank, list[str]] = {}
        for name in self._names:
            rank = names.rank_of(name) if self._table.has_header else Rank.LIKELY
            ranked.setdefault(rank, []).append(name)
        for rank in sorted(ranked):
            if rank is not Rank.EXACT and (parts := self._parts()) is not None:
                return parts
            readings = {
                name: self._read(name, named=rank <= Rank.LIKELY and self._table.has_header)
                for name in ranked[rank]
            }
            good = {name: found for name, found in readings.items() if found is not None}
            if good:
                return self._chosen(good)
            if rank is Rank.EXACT and (parts := self._parts()) is not None:
                return parts
        for name in self._names:
            texts = self._table.column(name, "--date")
            if names.is_elapsed(name) and (elapsed := read_elapsed(texts)) is not None:
                return Times(reading=elapsed, columns=(name,))
        self._refuse_what_looks_like_dates()
        self._refuse_numbers_without_a_name()
        return None

    def _read(self, name: str, *, named: bool) -> Reading | Unclear | None:
        texts = self._table.column(name, "--date")
        sample = sampled(texts)
        kinds = [kind_of(text) for text in sample]
        if not sample:
            return None
        if self._form is None and kinds.count(Kind.NUMBER) >= (LEAST_FIT - 0.05) * len(kinds):
            return read_numbers(texts, named=named)
        return read(texts, self._form)

    def _parts(self) -> Times | None:
        found = read_parts(self._table, names.parts_of(tuple(self._names)))
        return None if found is None else Times(reading=found[0], columns=found[1])

    def _chosen(self, found: dict[str, Reading | Unclear]) -> Times:
        """Of columns with times, the first; refused where another orders the rows otherwise."""
        readings = {name: self._decided(each, name) for name, each in found.items()}
        name, *others = readings
        order = readings[name].stamps
        for other in others:
            if not _same_order(order, readings[other].stamps):
                raise DataError(
                    f"{self._table.path}: '{name}' and '{other}' are both times and order the rows "
                    "differently; name the one to sort by with --date"
                )
        return self._completed(readings[name], name, tuple(others))

    def _completed(self, reading: Reading, name: str, others: tuple[str, ...] = ()) -> Times:
        """With the time of the day where it stands in a column of its own."""
        alone = Times(reading=reading, columns=(name,), others=others)
        if reading.has_clock or reading.elapsed:
            return alone
        for clock in self._names:
            if clock == name or (self._table.has_header and not names.is_clock(clock)):
                continue
            texts = clock_texts(
                self._table.column(clock, "--date"),
                is_hour=names.plain(clock) != "time",
                is_named=self._table.has_header,
            )
            if texts is None:
                continue
            dates = self._table.column(name, "--date")
            pairs = zip(reading.stamps.strftime("%Y-%m-%d"), texts, strict=True)
            both = pd.Series(
                [f"{day} {hour}" for day, hour in pairs], index=dates.index, dtype=object
            )
            found = read(both)
            if isinstance(found, Reading):
                form = f"{reading.form} {found.form.partition(' ')[2]}"
                joined = Reading(
                    stamps=found.stamps,
                    form=form,
                    zone=found.zone or reading.zone,
                    chosen=reading.chosen,
                    has_clock=True,
                )
                return Times(reading=joined, columns=(name, clock), others=others)
        return alone

    def _decided(self, found: Reading | Unclear, name: str) -> Reading:
        if isinstance(found, Reading):
            return found
        raise DataError(
            f"{self._table.path}: column '{name}': '{found.example}' and all others may be read as "
            f"{' or '.join(found.forms)}; say which it is with --date-form day-first, month-first "
            "or year-first, or write 2020-12-31"
        )

    def _refuse_what_looks_like_dates(self) -> None:
        for name in self._names:
            texts = self._table.column(name, "--date")
            sample = sampled(texts)
            if not sample:
                continue
            smell = np.mean([_looks_like_a_date(text) for text in sample])
            is_smelly = smell >= LEAST_FIT and len(set(sample)) > len(sample) / 2
            is_named = names.must_be_read(name) or self._counts_periods(name, sample)
            if is_named or is_smelly:
                line, field = _first_unread(texts)
                looks = "is named like dates" if is_named else "looks like dates"
                raise DataError(
                    f"{self._table.path}: column '{name}' {looks}, and no form of them fits "
                    f"{LEAST_FIT:.0%} of its rows (line {line}: '{field}'); say how they are "
                    "written with --date-form (%d.%m.%Y), name another column with --date, or take "
                    f"the rows as they come with --date {NONE}"
                )

    def _counts_periods(self, name: str, sample: list[str]) -> bool:
        """Whether a column is named like times and tells rows apart: Week 1, 2004H2, FY2004/05."""
        if not self._table.has_header or names.rank_of(name) is Rank.NOTHING:
            return False
        told = [text for text in sample if kind_of(text) in (Kind.TEXT, Kind.TIME)]
        numbered = sum(any(map(str.isdigit, text)) for text in told)
        return numbered >= LEAST_FIT * len(sample) and len(set(told)) > len(sample) / 2

    def _refuse_numbers_without_a_name(self) -> None:
        for name in self._names:
            found = self._read(name, named=True)
            if not isinstance(found, Reading):
                continue
            is_nameless = not self._table.has_header or name.startswith("Unnamed: ")
            stamps = found.stamps[known(found.stamps)]
            in_order = stamps.is_monotonic_increasing or stamps.is_monotonic_decreasing
            is_doubtful = found.form != "%Y" and (in_order or len(stamps) < FEWEST_TELLING)
            if is_nameless or is_doubtful:
                raise DataError(
                    f"{self._table.path}: column '{name}' may be times ({found.form}), or numbers; "
                    f"say --date '{name}', or --date {NONE}"
                )


def _same_order(first: pd.DatetimeIndex, second: pd.DatetimeIndex) -> bool:
    """Whether rows are in the same order by both, ties aside."""
    both = known(first) & known(second)
    one, other = first[both].asi8, second[both].asi8
    by_one, by_other = np.lexsort((other, one)), np.lexsort((one, other))
    return bool((np.diff(other[by_one]) >= 0).all() or (np.diff(one[by_other]) >= 0).all())


def _looks_like_a_date(text: str) -> bool:
    kind = kind_of(text)
    return kind is Kind.TIME or (kind is Kind.TEXT and _SMELL.search(text) is not None)


def _first_unread(texts: "pd.Series[str]") -> tuple[int, str]:
    """A field that shows what the others are like."""
    place = next((place for place, text in enumerate(texts) if text), 0)
    return int(texts.index[place]), str(texts.iloc[place])[:40] if len(texts) else ""


def _zone(zone: str) -> str:
    return f"at {zone}" if zone[:1] in "+-" else f"in {zone}"
