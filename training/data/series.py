"""A CSV column as a series: cleaned as little as needed, and every change of it reported."""

import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.files import read_text
from training.data.synthetic import synthetic_prices
from training.errors import DataError
from training.sections import Note

_DATE_NAMES = {"date", "time", "datetime", "timestamp", "day", "ds"}
_DATE_FORMATS = ("ISO8601", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%b-%Y", "%b %d, %Y", "%Y%m%d")
_MISSING = {"", "null", "na", "n/a", "nan", "none", "-", "nil"}
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_SPIKE = np.log(1.5)
RARE = 0.01
FIRST_LINE = 2
"""The line of the first row in a file with a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values in order of time, in the user's own units."""

    name: str
    values: NDArray[np.float64]
    """(rows,)"""
    labels: tuple[str, ...]
    """One per row: its date, or its line."""
    source: str
    synthetic: bool = False
    notes: tuple[Note, ...] = field(default=())

    @property
    def sha256(self) -> str:
        """Hash of the values."""
        return hashlib.sha256(np.ascontiguousarray(self.values).tobytes()).hexdigest()


def synthetic_series(rows: int, *, seed: int) -> Series:
    """A generated price series."""
    frame = synthetic_prices(rows, seed=seed)
    return Series(
        name="Close",
        values=frame["Close"].to_numpy(np.float64),
        labels=tuple(frame["Date"]),
        source=f"synthetic prices ({rows} rows, seed {seed})",
        synthetic=True,
    )


def read_series(path: Path, *, value: str, date: str | None = None) -> Series:
    """Read one column of a CSV file with a header.

    Rows without a value are dropped, thousands separators are understood, and where a date
    column is found rows are sorted by it; `Series.notes` tells what was done.

    Raises:
        DataError: no such file or column, a broken file, or a value that is no number.
    """
    frame = _read_frame(path)
    _check_column(frame, value, path, "--value")
    if date is not None:
        _check_column(frame, date, path, "--date")
    else:
        named = [name for name in frame.columns if name.strip().lower() in _DATE_NAMES]
        date = named[0] if named else None

    notes: list[Note] = []
    texts = frame[value].str.strip()
    missing = texts.str.lower().isin(_MISSING)
    _note(notes, "dropped: no value", missing, frame, "first")
    numbers = _numbers(texts[~missing], path, value)
    if date is None:
        labels = [f"line {row + FIRST_LINE}" for row in numbers.index]
    else:
        numbers, labels = _sort(numbers, frame.loc[numbers.index, date].str.strip(), date, notes)
    values = np.asarray(numbers, np.float64)
    notes += _oddities(values, labels)
    return Series(
        name=value, values=values, labels=tuple(labels), source=path.name, notes=tuple(notes)
    )


def _read_frame(path: Path) -> pd.DataFrame:
    text = read_text(path)
    header = text.lstrip("\n").partition("\n")[0]
    separator = max(",;\t", key=header.count)
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            index_col=False,
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty; give a CSV file with a header") from error
    except pd.errors.ParserError as error:
        reason = str(error).replace("Error tokenizing data. C error: ", "").strip()
        raise DataError(f"{path}: broken CSV: {reason}; mend that line") from error
    return frame.fillna("")


def _check_column(frame: pd.DataFrame, name: str, path: Path, option: str) -> None:
    if name not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise DataError(f"{path}: no column '{name}' (it has: {known}); choose one with {option}")


def _numbers(texts: "pd.Series[str]", path: Path, value: str) -> "pd.Series[float]":
    separated = texts.str.fullmatch(_THOUSANDS)
    plain = texts.where(~separated, texts.str.replace(",", ""))
    numbers = pd.to_numeric(plain, errors="coerce")
    wrong = numbers.isna() | ~np.isfinite(numbers)
    if wrong.any():
        row = texts.index[wrong][0]
        others = f" (and {int(wrong.sum()) - 1} more rows)" if wrong.sum() > 1 else ""
        raise DataError(
            f"{path}, line {row + FIRST_LINE}, column '{value}': '{texts[row]}' is not a number"
            f"{others}; mend it, or leave the field empty to drop the row"
        )
    return numbers


def _sort(
    numbers: "pd.Series[float]", texts: "pd.Series[str]", column: str, notes: list[Note]
) -> tuple["pd.Series[float]", list[str]]:
    if texts.empty:
        return numbers, []
    parsed = {
        style: pd.to_datetime(texts, format=style, errors="coerce", utc=True)
        for style in _DATE_FORMATS
    }
    style = max(_DATE_FORMATS, key=lambda style: int(parsed[style].notna().sum()))
    dates = parsed[style]
    if dates.isna().all():
        notes.append(
            Note(
                what=f"not sorted: no dates in '{column}'",
                rows=len(texts),
                detail=f"for example '{texts.iloc[0]}'",
            )
        )
        return numbers, [f"line {row + FIRST_LINE}" for row in numbers.index]
    undated = dates.isna()
    if undated.any():
        row = texts.index[undated][0]
        notes.append(
            Note(
                what="dropped: no date",
                rows=int(undated.sum()),
                detail=f"first: line {row + FIRST_LINE}, '{texts[row]}'",
            )
        )
    dates = dates[~undated]
    if not dates.is_monotonic_increasing:
        newest_first = bool(dates.is_monotonic_decreasing)
        detail = "the file was newest first" if newest_first else f"read as {style}"
        notes.append(Note(what=f"sorted by '{column}'", rows=len(dates), detail=detail))
        dates = dates.sort_values(kind="stable")
    repeated = dates.duplicated(keep="last")
    if repeated.any():
        row = dates.index[repeated][0]
        notes.append(
            Note(
                what="dropped: date seen twice",
                rows=int(repeated.sum()),
                detail=f"the later row is kept; first: line {row + FIRST_LINE}, '{texts[row]}'",
            )
        )
        dates = dates[~repeated]
    whole_days = bool((dates == dates.dt.normalize()).all())
    shown = dates.dt.strftime("%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M:%S")
    return numbers.loc[dates.index], list(shown)


def _oddities(values: NDArray[np.float64], labels: list[str]) -> list[Note]:
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
    notes: list[Note], what: str, chosen: "pd.Series[bool]", frame: pd.DataFrame, word: str
) -> None:
    if chosen.any():
        row = frame.index[chosen][0]
        notes.append(
            Note(what=what, rows=int(chosen.sum()), detail=f"{word}: line {row + FIRST_LINE}")
        )
