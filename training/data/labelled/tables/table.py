"""A file of fields as a table: separator, quotes, header and columns without content.

Knows nothing of what the columns mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellar.reading.tables.separators import told_separator
from training.data.delimited import Row, first_line, rows_of
from training.data.labelled.tables.headers import has_header, is_number
from training.data.notes import Note
from training.errors import DataError

SEPARATORS = "\t,;|"
_NEEDS_QUOTES = frozenset(",;\t\n\r")
LOOKED_AT = 200
"""Rows that the separator is found by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows with as many fields as the header has names; a file without one has numbers as names."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    has_header: bool = True
    notes: tuple[Note, ...] = ()

    def place(self, name: str, option: str) -> int:
        """The number of a column; ``option`` is what to choose one with.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.header:
            raise DataError(
                f"{self.path}: no column '{name}' (it has: {self.listed()}); choose one with "
                f"{option}"
            )
        return self.header.index(name)

    def column(self, name: str) -> tuple[str, ...]:
        """The fields of a column that there is."""
        place = self.header.index(name)
        return tuple(row.fields[place] for row in self.rows)

    def named(self, names: Sequence[str]) -> str | None:
        """The first column with one of these names, whatever its capitals."""
        known = {name.lower().replace(" ", "_"): name for name in reversed(self.header)}
        return next((known[name] for name in names if name in known), None)

    def listed(self, most: int = 12) -> str:
        """The names of the columns, for messages."""
        more = f" and {len(self.header) - most} more" if len(self.header) > most else ""
        return ", ".join(self.header[:most]) + more


def table_of(
    text: str, path: Path, *, header: bool | None = None, names: Sequence[str] = ()
) -> Table:
    """Read a text of fields between tabs, commas, semicolons, bars or, for numbers, spaces.

    Blank rows are none. ``header`` says whether the first row names the columns; where it does not,
    ``names`` that a person gave to columns and what the rows hold tell.

    Raises:
        DataError: it is empty, its separator or header cannot be told, or a row has another number
            of fields.
    """
    rows, notes = _rows(text, path)
    if not rows:
        raise _no_rows(path)
    first, *others = rows
    if not has_header(rows, path=path, given=header, names=names):
        width = max(len(row.fields) for row in rows)
        shown = tuple(str(number) for number in range(1, width + 1))
        notes.append(
            Note(what="no header", rows=len(rows), detail=f"columns are named 1 to {width}")
        )
        if any(len(row.fields) < width for row in rows):
            if not all(is_number(field) for row in rows for field in row.fields[1:]):
                odd = next(row for row in rows if len(row.fields) != len(first.fields))
                raise _ragged(path, odd, f"line {first.line} has {len(first.fields)}")
            rows = [
                replace(row, fields=(*row.fields, *[""] * (width - len(row.fields))))
                for row in rows
            ]
        return _without_empty(
            Table(path=path, header=shown, rows=tuple(rows), has_header=False, notes=tuple(notes))
        )
    if repeated := [row for row in others if row.fields == first.fields]:
        others = [row for row in others if row.fields != first.fields]
        detail = f"first: line {repeated[0].line}"
        notes.append(Note(what="dropped: the header again", rows=len(repeated), detail=detail))
    if not others:
        raise _no_rows(path)
    for row in others:
        if len(row.fields) != len(first.fields):
            raise _ragged(path, row, f"the header names {len(first.fields)}")
    table = Table(
        path=path,
        header=tuple(name or f"Unnamed: {place}" for place, name in enumerate(first.fields)),
        rows=tuple(others),
        notes=tuple(notes),
    )
    table = _without_empty(table)
    if len(set(table.header)) != len(table.header):
        twice = next(name for name in table.header if table.header.count(name) > 1)
        raise DataError(f"{path}: the header names '{twice}' twice; give each column its own name")
    return table


def _rows(text: str, path: Path) -> tuple[list[Row], list[Note]]:
    """The rows that are not blank, read with the separator that gives all the same width."""
    line = first_line(text)
    told = told_separator(line)
    if told is not None:
        text = text.replace(line, "", 1)  # blank, so that the others keep their numbers
        rows = [row for row in rows_of(text, told, path=path, strict=True) if any(row.fields)]
        detail = f"it says what is between the fields: '{line.strip()}'"
        return rows, [Note(what="left out: the first line", rows=1, detail=detail)]
    separator = _separator(text, path)
    if separator == "\t" and (raw := _raw(text)) is not None:
        _check_not_merged(text, path, raw[0])
        return raw
    rows = [row for row in rows_of(text, separator, path=path, strict=True) if any(row.fields)]
    return rows, []


def _raw(text: str) -> tuple[list[Row], list[Note]] | None:
    """Rows between tabs whose quotes are letters like others; None: quotes are what CSV means.

    Files of texts between tabs come with quotes that nobody closed. They are such where every line
    has the same number of fields as it stands, but no CSV writer would have written one of them.
    """
    if '"' not in text:
        return None
    rows = []
    needless, others, odd = 0, 0, 0
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        fields = tuple(field.strip() for field in line.split("\t"))
        if not any(fields):
            continue
        rows.append(Row(line=number, fields=fields))
        for field in fields:
            inner = field[1:-1].replace('""', "")
            if not field.startswith('"'):
                others += 1
                odd += '"' in field
            elif len(field) < 2 or not field.endswith('"') or '"' in inner:
                odd += 1
            else:
                needless += inner == field[1:-1] and not _NEEDS_QUOTES & set(inner)
    if len({len(row.fields) for row in rows}) != 1 or not (odd or (needless and others)):
        return None
    count = sum('"' in field for row in rows for field in row.fields)
    detail = "taken as part of the fields: not all are such as CSV has around them"
    return rows, [Note(what="quotes", rows=count, detail=detail)]


def _check_not_merged(text: str, path: Path, raw: list[Row]) -> None:
    """Refuse lines that are a row each as they stand, and fewer but whole ones as CSV has them.

    Raises:
        DataError: they are both.
    """
    try:
        rows = [row for row in rows_of(text, "\t", path=path, strict=True) if any(row.fields)]
    except DataError:
        return
    if len(rows) < len(raw) and {len(row.fields) for row in rows} == {len(raw[0].fields)}:
        pairs = zip(rows, raw, strict=False)
        merged = next((row for row, line in pairs if row.line != line.line), rows[-1])
        raise DataError(
            f"{path}, line {merged.line}: is the quote that ends here part of the text, or does it "
            "hold several lines together? Write the table with commas between fields"
        )


def _separator(text: str, path: Path) -> str | None:
    """What stands between fields; None: spaces, between numbers.

    Raises:
        DataError: several would do as well.
    """
    head = first_line(text)
    found = [separator for separator in SEPARATORS if separator in head]
    if not found:
        return None if len(head.split()) > 1 and all(map(is_number, head.split())) else ","
    fitting = [separator for separator in found if _width(text, separator, path) > 1]
    if "\t" in fitting:
        return "\t"  # hardly ever part of a text
    if len(fitting) > 1:
        widths = {separator: _width(text, separator, path) for separator in fitting}
        best = max(fitting, key=lambda separator: widths[separator])
        if list(widths.values()).count(widths[best]) > 1 or widths[best] < 4:
            shown = " or ".join(f"'{separator}'" for separator in fitting)
            raise DataError(
                f"{path}: every line has as many {shown}, so that it is unclear which stands "
                "between the fields; put fields that hold one in quotes"
            )
        return best
    return fitting[0] if fitting else max(found, key=head.count)


def _width(text: str, separator: str, path: Path) -> int:
    """The number of fields of each of the first rows; 0 where it differs."""
    widths = set()
    if separator == "\t" and (raw := _raw(text)) is not None:
        return len(raw[0][0].fields)
    try:
        rows = rows_of(text, separator, path=path, strict=True)
        for count, row in enumerate(filter(lambda row: any(row.fields), rows)):
            widths.add(len(row.fields))
            if count == LOOKED_AT or len(widths) > 1:
                break
    except DataError:
        return 0
    return widths.pop() if len(widths) == 1 else 0


def _without_empty(table: Table) -> Table:
    """The table less columns that neither the header nor any row says anything of."""
    unnamed = {n for n, name in enumerate(table.header) if name.startswith("Unnamed: ")}
    if not table.has_header:
        unnamed = set(range(len(table.header)))
    filled = {n: sum(bool(row.fields[n]) for row in table.rows) for n in unnamed}
    dropped = {n for n, count in filled.items() if not count}
    notes = list(table.notes)
    if dropped:
        detail = "without a name or any content"
        notes.append(Note(what="ignored: empty columns", rows=len(dropped), detail=detail))
    if not dropped:
        return table
    kept = [n for n in range(len(table.header)) if n not in dropped]
    return replace(
        table,
        header=tuple(table.header[n] for n in kept),
        rows=tuple(replace(row, fields=tuple(row.fields[n] for n in kept)) for row in table.rows),
        notes=tuple(notes),
    )


def _no_rows(path: Path) -> DataError:
    return DataError(f"{path}: no rows; give a table with a header and a row for each sequence")


def _ragged(path: Path, row: Row, expected: str) -> DataError:
    return DataError(
        f"{path}, line {row.line}: {len(row.fields)} fields, but {expected}; put fields that hold "
        "a separator in quotes"
    )
