"""Where the table of a file begins and ends, and which of its lines are the header.

Lines before it say where the file comes from, lines after it who made it. They are told by what
they are not: rows whose fields are numbers and times where those of the others are.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cellar.reading.fields.kinds import Kind, kind_of
from cellar.reading.tables.separators import COMMENTS, told_separator

_SAMPLED = 100
_SEARCHED = 100
"""Lines that may stand before a table, and after it."""
_FEWEST_IN_ORDER, _FEWEST_ALONE = 3, 10
"""Numbers that count are names of columns, beside a name of the rows and without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Rows of a file by their number, from 0."""

    header: int | None
    """None: there is none."""
    first: int
    """The first row of data."""
    end: int
    """Behind the last row of data."""
    before: int
    """Rows with something in them before header and data."""
    after: int


def outline_of(rows: list[list[str]], are_times: Callable[[list[str]], bool]) -> Outline:
    """Find header and data; ``are_times`` says whether numbers are times that go on."""
    kinds = _columns(rows)
    searched = range(min(len(rows), _SEARCHED))
    first = next((place for place in searched if _is_like(rows[place], kinds)), None)
    if first is None:
        names = next((place for place in searched if _is_row(rows[place])), 0)
        return _outlined(rows, names, names + 1, len(rows))
    end = _end(rows, first, kinds)
    header = _header(rows, first)
    if header is None and _counts(rows[first], are_times) and len(rows) > first + 1:
        header = first
    if header is None:
        return _outlined(rows, None, first, end)
    return _outlined(rows, header, header + 1, end)


def _outlined(rows: list[list[str]], header: int | None, first: int, end: int) -> Outline:
    start = first if header is None else header
    return Outline(
        header=header,
        first=first,
        end=end,
        before=sum(map(_is_filled, rows[:start])),
        after=sum(map(_is_filled, rows[end:])),
    )


def _columns(rows: list[list[str]]) -> list[Kind]:
    """The usual kind of each column's fields."""
    filled = [row for row in rows[:: max(1, len(rows) // _SAMPLED)] if _is_row(row)]
    filled = filled[1:] or filled  # the first one may be the header
    counts: list[Counter[Kind]] = []
    for row in filled:
        counts += [Counter() for _ in range(len(row) - len(counts))]
        for place, field in enumerate(row):
            counts[place][kind_of(field)] += 1
    kinds = []
    for count in counts:
        count.pop(Kind.MISSING, None)
        kind, most = count.most_common(1)[0] if count else (Kind.TEXT, 1)
        kinds.append(kind if most * 2 > count.total() else Kind.TEXT)
    return kinds


def _is_like(row: list[str], kinds: list[Kind]) -> bool:
    """Whether a row's fields are numbers and times where those of the others are."""
    if 2 * _width(row) < len(kinds):
        return False
    pairs = [(kind_of(field), kind) for field, kind in zip(row, kinds, strict=False)]
    typed = [own for own, kind in pairs if kind is not Kind.TEXT and own is not Kind.MISSING]
    alike = sum(own is kind for own, kind in pairs if kind is not Kind.TEXT)
    return 2 * alike > len(typed)


def _header(rows: list[list[str]], first: int) -> int | None:
    """The header above the first row of data: the top one of the rows as wide as the data."""
    found, is_apart = None, False
    width = _width(rows[first])
    for place in range(first - 1, -1, -1):
        row = rows[place]
        if not _is_filled(row):
            if found is not None:
                break
            is_apart = True
            continue
        own = _width(row)
        is_other = own != width and (is_apart or own == 1 or found is not None)
        if not _is_row(row) or (is_other and len(row) != len(rows[first])):
            break
        found, width = place, own
    return found


def _end(rows: list[list[str]], first: int, kinds: list[Kind]) -> int:
    """Behind the last row that is like the others; lines after it are no data."""
    typed = sum(kind is not Kind.TEXT for kind in kinds)
    end = len(rows)
    for place in range(len(rows) - 1, max(first, len(rows) - _SEARCHED), -1):
        row = rows[place]
        filled = sum(bool(field.strip()) for field in row)
        if filled and not (filled < max(2, typed) and not _is_like(row, kinds) and typed > 1):
            break
        if filled:
            end = place
    return end


def _counts(row: list[str], are_times: Callable[[list[str]], bool]) -> bool:
    """Whether the numbers of a row are 1, 2, 3, … or times: names of columns, and no data."""
    fields = [field.strip() for field in row]
    numbers = [field for field in fields if kind_of(field) is Kind.NUMBER]
    has_label = any(kind_of(field) is Kind.TEXT for field in fields)
    if len(numbers) < (_FEWEST_IN_ORDER if has_label else _FEWEST_ALONE):
        return False
    if all(field.isascii() and field.isdigit() for field in numbers):
        whole = [int(field) for field in numbers]
        steps = {after - before for before, after in itertools.pairwise(whole)}
        if steps == {1} and (whole[0] in (0, 1) or 1500 <= whole[0] < 2200):
            return True
    return are_times(numbers)


def _is_row(row: list[str]) -> bool:
    """Whether it may be a row of the table: not blank, no comment, no directive, no address.

    The separator that a directive names may have cut it: ``sep=;`` is ``sep=`` then.
    """
    first = row[0].strip() if row else ""
    is_directive = told_separator(first) or first.lower() in ("sep=", '"sep=')
    if not _is_filled(row) or first.startswith(COMMENTS) or is_directive:
        return False
    return "://" not in first


def _width(row: list[str]) -> int:
    """The number of fields, without empty ones at the end."""
    return max((place for place, field in enumerate(row, 1) if field.strip()), default=0)


def _is_filled(row: list[str]) -> bool:
    return any(field.strip() for field in row)
