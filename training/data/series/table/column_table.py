"""A file of columns, as text: CSV with a header, or plain columns of numbers; packed or not."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellar.reading.errors import TableError
from cellar.reading.tables.headers import merged_header
from cellar.reading.tables.outline import Outline, outline_of
from cellar.reading.tables.separators import separator_of, told_separator
from training.data.archives import is_archive, read_files
from training.data.delimited import all_rows_of, first_line, place_of
from training.data.files import decode, read_text, unpacked
from training.data.notes import Note
from training.data.series.dates.counted import read_numbers
from training.errors import DataError, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnTable:
    """Fields as text, stripped; the index is each row's line in the file."""

    path: Path
    frame: pd.DataFrame
    has_header: bool
    separator: str | None = ","
    notes: tuple[Note, ...] = field(default=())
    """What a user must know of the lines and the columns."""
    series_column: str | None = None
    """The column that tells several series apart, where the layout says so."""
    steps_column: str | None = None
    """The column of times, where the layout says so."""

    rows_are_series: bool = False
    """Each row of the file was a series; the table has a row for each of its steps."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.frame.columns)

    @property
    def shown(self) -> str:
        """The columns, for messages."""
        return listed(self.names)

    def column(self, name: str, option: str) -> "pd.Series[str]":
        """The fields of a column.

        Raises:
            DataError: there is none of that name, or there are two.
        """
        place = place_of(name, self.names, path=self.path, option=option)
        if self.names.count(name) > 1:
            raise DataError(f"{self.path}: two columns are named '{name}'; rename one")
        return self.frame.iloc[:, place]


def read_columns(path: Path, encoding: str | None = None) -> ColumnTable:
    """Read a file; rows that are short are filled up, and lines around the table left out.

    It may be packed with gzip, or be alone in an archive. It is UTF-8 unless ``encoding`` says
    otherwise.

    Raises:
        DataError: it is missing, empty, broken, or in another encoding.
    """
    text = _only_text(path, encoding) if is_archive(path) else read_text(path, encoding)
    first = first_line(text)
    if not first.strip():
        raise DataError(f"{path}: the file is empty; give a CSV file with a header")
    separator = told_separator(first) or _separator_of(text, path)
    rows = all_rows_of(text, separator, path=path)
    outline = outline_of(rows.fields, _are_times)
    header, start = merged_header(rows.fields, outline)
    body = rows.fields[start : outline.end]
    lines = np.asarray(rows.lines[start : outline.end], np.int64)
    width = _width(body) if header is None else len(header)
    _check_widths(path, body, lines, width, has_header=header is not None)
    if width > 1:
        filled = [place for place, row in enumerate(body) if any(row)]
        if len(filled) < len(body):
            body, lines = [body[place] for place in filled], lines[filled]
    notes = _around(outline)
    if encoding is not None:
        notes.insert(0, Note(what="encoding", rows=len(lines), detail=f"read as {encoding}"))
    if header is None:
        detail = f"columns are named 1 to {width}"
        notes.append(Note(what="no header", rows=len(lines), detail=detail))
    return ColumnTable(
        path=path,
        frame=_frame(header, body, lines, width),
        has_header=header is not None,
        separator=separator,
        notes=tuple(notes),
    )


def _separator_of(text: str, path: Path) -> str | None:
    try:
        return separator_of(text, path)
    except TableError as error:
        raise DataError(str(error)) from None


def _only_text(path: Path, encoding: str | None) -> str:
    """The text of the one file in an archive."""
    files = read_files(path, encoding)
    if len(files) != 1:
        names = listed(["/".join(parts) for parts in files]) or "no files"
        raise DataError(f"{path}: an archive of {names}; unpack it and give one file")
    ((parts, data),) = files.items()
    place = path.joinpath(*parts)
    return decode(unpacked(data, place), place, encoding)


def _are_times(numbers: list[str]) -> bool:
    times = read_numbers(pd.Series(numbers, dtype=object), named=True)
    return times is not None and times.fit == 1 and times.stamps.is_monotonic_increasing


def _frame(
    header: list[str] | None, body: list[list[str]], lines: NDArray[np.int64], width: int
) -> pd.DataFrame:
    """Rows as columns with names; those without a name and a field are left out."""
    if set(map(len, body)) - {width}:
        body = [row[:width] + [""] * (width - len(row)) for row in body]
    columns = [list(map(str.strip, [row[place] for row in body])) for place in range(width)]
    names = [str(number) for number in range(1, width + 1)]
    kept = list(range(width))
    if header is not None:
        names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
        kept = [place for place in kept if header[place].strip() or any(columns[place])]
    frame = pd.DataFrame({place: columns[place] for place in kept}, index=lines, dtype=object)
    frame.columns = pd.Index([names[place] for place in kept], dtype=object)
    return frame


def _around(outline: Outline) -> list[Note]:
    """Tell of lines that are not part of the table."""
    notes = []
    if outline.before:
        detail = "before the header" if outline.header is not None else "before the first row"
        notes.append(
            Note(what="left out: lines before the table", rows=outline.before, detail=detail)
        )
    if outline.after:
        notes.append(
            Note(
                what="left out: lines after the table",
                rows=outline.after,
                detail="they are no rows",
            )
        )
    return notes


def _width(body: list[list[str]]) -> int:
    """The usual number of fields."""
    widths = Counter(map(len, filter(any, body)))
    return widths.most_common(1)[0][0] if widths else 1


def _check_widths(
    path: Path,
    body: list[list[str]],
    lines: NDArray[np.int64],
    width: int,
    *,
    has_header: bool,
) -> None:
    """Refuse rows with more in them than there are columns."""
    lengths = np.fromiter(map(len, body), np.int64, len(body))
    for place in np.flatnonzero(lengths > width):
        if not any(field.strip() for field in body[place][width:]):
            continue
        if has_header and place == 0:
            raise DataError(
                f"{path}, line {lines[place]}: more fields than the header has; a number with a "
                'comma in it wants quotes ("1,234.50"), or another separator between the fields'
            )
        raise DataError(
            f"{path}: broken CSV: Expected {width} fields in line {lines[place]}, saw "
            f"{lengths[place]}; mend that line"
        )
