"""Layouts that are not one row a step: tickers side by side, and a series in every row.

Both become long form: a row for each step of each series, and a column that names the series.
"""

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from cellar.reading.fields.kinds import Kind, kind_of
from cellar.reading.fields.marks import is_mark
from cellar.reading.tables.headers import Tickers
from training.data.notes import Note
from training.data.series.columns import Layout
from training.data.series.dates.counted import read_numbers
from training.data.series.dates.reading import Reading, Unclear, read
from training.data.series.table.column_table import ColumnTable
from training.errors import DataError

TICKER, SERIES, VALUE, STEP = "Ticker", "series", "value", "date"
_FEWEST_STEPS = 20
"""Columns named V1, V2, … are the steps of a series where there are so many."""
_FEWEST_DATES = 3
_MOST_BESIDE = 6
"""Columns of numbers, such as coordinates, between the names of rows and the steps."""
_NUMBERED = re.compile(r"(\D*?)(\d+)")


def laid_out(table: ColumnTable, layout: Layout) -> ColumnTable:
    """The same series as rows of steps.

    Raises:
        DataError: a file without a header may be read by rows and by columns.
    """
    if layout is not Layout.ROWS and any(Tickers.of(name) for name in table.names):
        return _by_ticker(table)
    if layout is Layout.COLUMNS:
        return table
    labels = _labels(table, told=layout is Layout.ROWS)
    return table if labels is None else _by_row(table, labels)


def _by_ticker(table: ColumnTable) -> ColumnTable:
    """Prices of several tickers below each other."""
    parts = [Tickers.of(name) for name in table.names]
    fields = list(dict.fromkeys(part.field for part in parts if part is not None))
    tickers = list(dict.fromkeys(part.ticker for part in parts if part is not None))
    index = [place for place, part in enumerate(parts) if part is None]
    empty = pd.Series("", index=table.frame.index, dtype=object)
    found = []
    for ticker in tickers:
        columns = {table.names[place]: table.frame.iloc[:, place] for place in index}
        for field in fields:
            wanted = Tickers(field=field, ticker=ticker)
            columns[field] = table.frame.iloc[:, parts.index(wanted)] if wanted in parts else empty
        columns[TICKER] = pd.Series(ticker, index=table.frame.index, dtype=object)
        found.append(pd.DataFrame(columns, dtype=object))
    return replace(table, frame=pd.concat(found), series_column=TICKER)


def _labels(table: ColumnTable, *, told: bool) -> int | None:
    """How many columns name the series that the rows are; None: rows are steps."""
    kinds = [_kind(table.frame.iloc[:, place]) for place in range(len(table.names))]
    texts = next((place for place, kind in enumerate(kinds) if kind is not Kind.TEXT), len(kinds))
    if told:
        dated = _dated_from(table, texts) if table.has_header else None
        if dated is not None:
            return dated
        if texts == len(kinds):
            raise DataError(f"{table.path}: --layout rows: its rows have no numbers in them")
        return texts
    if not table.has_header:
        names = table.frame.iloc[:, 0]
        if texts == 1 and len(kinds) > _FEWEST_STEPS // 2 and names.is_unique and len(names) > 1:
            raise DataError(
                f"{table.path}: every row begins with a name of its own ('{names.iloc[0]}', "
                f"'{names.iloc[1]}', …): is each row a series? say so with --layout rows, or "
                "--layout columns"
            )
        return None
    dated = _dated_from(table, texts)
    if dated is not None:
        return dated
    is_counted = len(kinds) - texts >= _FEWEST_STEPS and _are_counted(table.names[texts:])
    if texts and is_counted and table.frame.iloc[:, :texts].duplicated().sum() == 0:
        return texts
    return None


def _dated_from(table: ColumnTable, texts: int) -> int | None:
    """The column from which on all are named by dates or years; None: they are not."""
    for start in range(texts, texts + _MOST_BESIDE + 1):
        if start > texts + 1 and Kind.TIME in map(_kind, _columns(table, start)):
            return None
        names = table.names[start:]
        if len(names) < _FEWEST_DATES or (start == 0 and len(table.frame) > len(names)):
            continue
        if start > texts and table.frame.iloc[:, :start].duplicated().sum() != 0:
            continue
        found = _steps(names)
        if isinstance(found, Unclear):
            return start
        if found is not None and found.fit == 1 and found.stamps.is_monotonic_increasing:
            return start
    return None


def _columns(table: ColumnTable, end: int) -> "list[pd.Series[str]]":
    return [table.frame.iloc[:, place] for place in range(min(end, len(table.names)))]


def _steps(names: tuple[str, ...]) -> Reading | Unclear | None:
    """The dates that names of columns are."""
    texts = pd.Series(names, dtype=object)
    plain = texts.str.extract(r"^(\d{4})(?: \[.*\])?$", expand=False)
    if plain.notna().all():
        return read_numbers(plain, named=True)
    return read_numbers(texts, named=True) or read(texts)


def _are_counted(names: tuple[str, ...]) -> bool:
    """Whether names are V2, V3, V4, … or 1, 2, 3, …."""
    parts = [_NUMBERED.fullmatch(name) for name in names]
    if not all(parts):
        return False
    prefixes = {part[1] for part in parts if part is not None}
    numbers = [int(part[2]) for part in parts if part is not None]
    return len(prefixes) == 1 and bool((np.diff(numbers) == 1).all())


def _kind(texts: "pd.Series[str]") -> Kind:
    """The usual kind of a column's fields."""
    sample = [kind_of(text) for text in texts.iloc[:: max(1, len(texts) // 50)]]
    told = [kind for kind in sample if kind is not Kind.MISSING]
    if not told:
        return Kind.MISSING
    return max(set(told), key=told.count)


def _by_row(table: ColumnTable, labels: int) -> ColumnTable:
    """The steps of all rows below each other; what is missing at a row's end is its end."""
    fields = table.frame.iloc[:, labels:].to_numpy(object)  # (series, steps)
    there = np.array([[not is_mark(field) for field in row] for row in fields], bool)
    lengths = np.where(there.any(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1), 0)
    names = _row_names(table, labels)
    steps = table.names[labels:]
    dated = _steps(steps) is not None and table.has_header
    is_kept = np.arange(fields.shape[1]) < lengths[:, None]
    columns: dict[str, np.ndarray] = {SERIES: np.repeat(np.array(names, object), lengths)}
    if dated:
        columns[STEP] = np.tile(np.array(steps, object), (len(fields), 1))[is_kept]
    columns[VALUE] = fields[is_kept]
    lines = np.repeat(table.frame.index.to_numpy(), lengths)
    note = Note(
        what="one series per row",
        rows=len(fields),
        detail=f"'{names[0]}' to '{names[-1]}', {lengths.min():,} to {lengths.max():,} steps; "
        "--layout columns takes rows as steps",
    )
    return replace(
        table,
        frame=pd.DataFrame(columns, index=lines, dtype=object),
        has_header=True,
        notes=(*table.notes, note),
        series_column=SERIES,
        rows_are_series=True,
        steps_column=STEP if dated else None,
    )


def _row_names(table: ColumnTable, labels: int) -> list[str]:
    """A name for each row: its first field where that is enough."""
    if not labels:
        return [f"line {line}" for line in table.frame.index]
    for wanted in range(1, labels + 1):
        parts = table.frame.iloc[:, :wanted].to_numpy(object)
        names = [" ".join(row).strip() for row in parts]
        if len(set(names)) == len(names):
            return names
    raise DataError(
        f"{table.path}: two rows are named '{max(names, key=names.count)}'; each row is a series "
        "and wants a name of its own"
    )
