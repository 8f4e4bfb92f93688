"""Columns of a file as series: cleaned as little as needed, and every change of them reported."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series import dates
from training.data.series.column_table import ColumnTable, read_columns
from training.data.series.columns import Columns, Fill, TimeFeature
from training.data.series.numbers import is_missing, is_number, meaning_of_commas, numbers_of
from training.data.series.synthetic import synthetic_prices
from training.errors import DataError

_SPIKE = np.log(1.5)
RARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values in order of time, in the user's own units, and what stands beside them."""

    name: str
    values: NDArray[np.float64]
    """(rows,)"""
    beside: NDArray[np.float64]
    """(rows, features): the panel's features, then its time features."""
    labels: tuple[str, ...]
    """One per row: its date, or its line."""

    def head(self, rows: int) -> "Series":
        """The first rows."""
        return replace(
            self, values=self.values[:rows], beside=self.beside[:rows], labels=self.labels[:rows]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One or more series with the same columns."""

    series: tuple[Series, ...]
    source: str
    features: tuple[str, ...] = ()
    times: tuple[TimeFeature, ...] = ()
    synthetic: bool = False
    notes: tuple[Note, ...] = field(default=())

    def head(self, rows: int) -> "Panel":
        """The first rows of each series; the notes are of them all."""
        return replace(self, series=tuple(series.head(rows) for series in self.series))

    @property
    def sha256(self) -> str:
        """Hash of everything a network reads."""
        digest = hashlib.sha256()
        for series in self.series:
            for numbers in (series.values, series.beside):
                digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()


def synthetic_panel(rows: int, *, seed: int, times: tuple[TimeFeature, ...] = ()) -> Panel:
    """A generated price series."""
    frame = synthetic_prices(rows, seed=seed)
    stamps = pd.DatetimeIndex(pd.to_datetime(frame["Date"]))
    series = Series(
        name="Close",
        values=frame["Close"].to_numpy(np.float64),
        beside=_stack(dates.time_columns(stamps, times), rows),
        labels=tuple(frame["Date"]),
    )
    source = f"synthetic prices ({rows} rows, seed {seed})"
    return Panel(series=(series,), source=source, times=times, synthetic=True)


def read_panel(path: Path, columns: Columns) -> Panel:
    """Read series from a file; `Panel.notes` tells what was dropped, filled, merged or is odd.

    Several value columns are several series; so are the groups of ``series_column``. Rows without
    a value are dropped, or filled with the last one; where dates are found rows are sorted by them.

    Raises:
        DataError: no such file or column, a broken file, or a field that is no number.
    """
    table = read_columns(path)
    reader = _Reader(table, columns)
    values = columns.value or reader.values()
    notes = [*table.notes, *reader.decide_on_commas(values)]
    every: list[Series] = []
    groups = reader.groups(notes)
    for group, rows in groups.items():
        for value in values:
            name = group or value
            series, found = reader.read(value, rows, name if len(groups) * len(values) > 1 else "")
            every.append(series)
            notes += found
    return Panel(
        series=tuple(
            replace(series, name=name)
            for series, name in zip(every, _names(every, groups), strict=True)
        ),
        source=path.name,
        features=columns.feature,
        times=columns.time_feature,
        notes=_merged(notes),
    )


class _Reader:
    """Reads one series after the other from a table."""

    def __init__(self, table: ColumnTable, columns: Columns) -> None:
        self.table = table
        self.columns = columns
        self.decimal_comma = columns.decimal_comma
        names = list(table.frame.columns)
        if columns.date is not None:
            table.column(columns.date, "--date")
            self.dated: tuple[str, ...] = (columns.date,)
        elif table.has_header:
            self.dated = dates.find_columns(names)
        else:
            first = table.frame.iloc[0]
            likely = [n for n in names if not is_number(first[n]) and dates.is_date(first[n])]
            self.dated = tuple(likely[:1])
        if columns.time_feature and not self.dated:
            raise DataError(
                f"{table.path}: time features need dates, and no column is named like one; "
                "name it with --date"
            )

    def decide_on_commas(self, values: tuple[str, ...]) -> list[Note]:
        """Find out once, for all columns that are read, what a comma means."""
        wanted = [(name, "--value") for name in values]
        wanted += [(name, "--feature") for name in self.columns.feature]
        fields = pd.concat([self.table.column(name, option) for name, option in wanted])
        self.decimal_comma, notes = meaning_of_commas(
            fields[~is_missing(fields)], told=self.columns.decimal_comma
        )
        return notes

    def values(self) -> tuple[str, ...]:
        """The columns to predict where none is named."""
        frame = self.table.frame
        others = {*self.dated, *self.columns.feature, self.columns.series_column}
        if not self.table.has_header:
            return tuple(name for name in frame.columns if name not in others)
        candidates = [
            name
            for name in frame.columns
            if name not in others and all(is_number(text) for text in frame[name].head(50))
        ]
        if len(candidates) != 1:
            known = ", ".join(map(str, frame.columns))
            raise DataError(
                f"{self.table.path}: which column is to be predicted (it has: {known})? "
                "name it with --value, repeatedly for several series"
            )
        return tuple(candidates)

    def groups(self, notes: list[Note]) -> "dict[str, pd.Index[int]]":
        """The rows of each series in the file."""
        name = self.columns.series_column
        if name is None:
            return {"": self.table.frame.index}
        keys = self.table.column(name, "--series-column")
        unnamed = keys == ""
        _note(notes, f"dropped: no '{name}'", unnamed)
        groups = {
            str(key): rows.index for key, rows in keys[~unnamed].groupby(keys[~unnamed], sort=False)
        }
        notes.append(
            Note(what=f"series told apart by '{name}'", rows=len(keys), detail=f"{len(groups)}")
        )
        return groups

    def read(self, value: str, rows: "pd.Index[int]", where: str) -> tuple[Series, list[Note]]:
        """Read one series; ``where`` names it in notes where there are several."""
        notes: list[Note] = []
        wanted = (value, *self.columns.feature)
        options = ("--value", *["--feature"] * len(self.columns.feature))
        numbers = pd.DataFrame(index=rows)
        for name, option in zip(wanted, options, strict=True):
            numbers[name] = self._numbers(name, rows, option)
        stamps = None
        if self.dated:
            numbers, stamps = self._sorted(numbers, notes)
        numbers, stamps = self._complete(numbers, stamps, notes, where)
        if stamps is not None:
            labels = dates.shown(pd.DatetimeIndex(stamps))
        else:
            labels = tuple(f"line {line}" for line in numbers.index)
        values = numbers[value].to_numpy(np.float64)
        notes += _oddities(values, labels)
        beside = [numbers[name].to_numpy(np.float64) for name in self.columns.feature]
        if self.columns.time_feature:
            if stamps is None:
                raise DataError(
                    f"{self.table.path}: time features need dates, and '{self.dated[0]}' has none"
                )
            beside += dates.time_columns(stamps, self.columns.time_feature)
        series = Series(
            name=value, values=values, beside=_stack(beside, len(values)), labels=labels
        )
        return series, notes

    def _numbers(self, name: str, rows: "pd.Index[int]", option: str) -> "pd.Series[float]":
        """A column's numbers, NaN where there is none."""
        texts = self.table.column(name, option).loc[rows]
        missing = is_missing(texts)
        numbers = numbers_of(
            texts[~missing],
            column=name,
            path=str(self.table.path),
            decimal_comma=self.decimal_comma,
        )
        return numbers.reindex(rows)

    def _sorted(
        self, numbers: pd.DataFrame, notes: list[Note]
    ) -> tuple[pd.DataFrame, pd.DatetimeIndex | None]:
        """Rows in order of their dates, each date once; as they are where there are no dates."""
        names = "' and '".join(self.dated)
        fields = self.table.frame.loc[numbers.index, list(self.dated)]
        texts = fields.agg(" ".join, axis=1) if len(self.dated) > 1 else fields.iloc[:, 0]
        stamps, form = dates.parse(texts)
        if stamps.isna().all():
            detail = f"for example '{texts.iloc[0]}'" if len(texts) else ""
            notes.append(
                Note(what=f"not sorted: no dates in '{names}'", rows=len(texts), detail=detail)
            )
            return numbers, None
        order = dates.order_note(texts, form)
        notes += [order] if order is not None else []
        undated = stamps.isna()
        _note(notes, "dropped: no date", undated, texts)
        # A row without a value must not displace one that has it.
        empty = numbers.iloc[:, 0].isna() & (stamps.duplicated(keep=False))
        stamps = stamps[~undated & ~empty]
        if not stamps.is_monotonic_increasing:
            newest_first = bool(stamps.is_monotonic_decreasing)
            detail = "the file was newest first" if newest_first else f"read as {form}"
            notes.append(Note(what=f"sorted by '{names}'", rows=len(stamps), detail=detail))
            stamps = stamps.sort_values(kind="stable")
        repeated = stamps.duplicated(keep="last")
        _note(notes, "dropped: date seen twice, the later row is kept", repeated, texts)
        stamps = stamps[~repeated]
        return numbers.loc[stamps.index], pd.DatetimeIndex(stamps)

    def _complete(
        self,
        numbers: pd.DataFrame,
        stamps: pd.DatetimeIndex | None,
        notes: list[Note],
        where: str,
    ) -> tuple[pd.DataFrame, pd.DatetimeIndex | None]:
        """Drop or fill what is missing."""
        missing = numbers.isna().any(axis=1)
        if self.columns.fill is Fill.FORWARD:
            leading = numbers.ffill().isna().any(axis=1)
            _note(notes, "filled with the last value: no value", missing & ~leading)
            _note(notes, "dropped: no value yet", leading)
            numbers, missing = numbers.ffill(), leading
        else:
            _note(notes, "dropped: no value", missing)
        numbers = numbers[~missing]
        if stamps is None:
            return numbers, None
        stamps = stamps[~missing.to_numpy()]
        calendar = dates.Calendar.of(stamps)
        if calendar is None:
            return numbers, stamps
        if self.columns.fill is Fill.NONE:
            note = dates.gap_note(calendar, stamps)
            notes += [note] if note is not None else []
            return numbers, stamps
        every = calendar.filled(stamps, where=f"{self.table.path}{f', {where}' if where else ''}")
        if len(every) > len(stamps):
            notes.append(
                Note(
                    what="filled with the last value: no row",
                    rows=len(every) - len(stamps),
                    detail=f"first: {dates.shown(every.difference(stamps))[0]}",
                )
            )
        return numbers.set_index(stamps).reindex(every).ffill().reset_index(drop=True), every


def _names(every: list[Series], groups: "dict[str, pd.Index[int]]") -> list[str]:
    if "" in groups:
        return [series.name for series in every]
    return list(groups)


def _stack(columns: list[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0))


def _oddities(values: NDArray[np.float64], labels: tuple[str, ...]) -> list[Note]:
    """Changes of half and more that the next row takes back: kept, and pointed out."""
    if len(values) < 3 or (values <= 0).any():
        return []
    changes = np.diff(np.log(values))
    back = (np.abs(changes[:-1]) > _SPIKE) & (np.abs(changes[:-1] + changes[1:]) < _SPIKE / 2)
    rows = np.flatnonzero(back) + 1
    if not 0 < len(rows) <= RARE * len(values):
        return []  # where jumps are common they are the data's nature
    detail = f"first: {labels[rows[0]]}, {values[rows[0]]:g} after {values[rows[0] - 1]:g}"
    return [Note(what="kept, but look: a jump taken back at once", rows=len(rows), detail=detail)]


def _note(
    notes: list[Note],
    what: str,
    chosen: "pd.Series[bool]",
    texts: "pd.Series[str] | None" = None,
) -> None:
    if chosen.any():
        line = chosen.index[chosen][0]
        field = f", '{texts[line]}'" if texts is not None else ""
        detail = f"first: line {line}{field}"
        notes.append(Note(what=what, rows=int(chosen.sum()), detail=detail))


def _merged(notes: list[Note]) -> tuple[Note, ...]:
    """One note for each thing that was done, whatever the number of series."""
    found: dict[str, Note] = {}
    for note in notes:
        before = found.get(note.what)
        rows = note.rows + (before.rows if before else 0)
        found[note.what] = Note(
            what=note.what, rows=rows, detail=before.detail if before else note.detail
        )
    return tuple(found.values())
