"""What stands between the fields of a file's lines: what makes the most numbers and dates."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cellar.reading.errors import TableError
from cellar.reading.fields.kinds import Kind, kind_of

_SEPARATORS = (";", "\t", "|", ",")
"""In this order where they do as well as each other; whitespace is for files without any."""
SURELY, _LIKELY = 0.9, 0.75
"""Of fields, the share that are numbers and times."""
_LINES = 60
_LETTERS = 200_000
COMMENTS = ("#", "%", "//", "!")
_DIRECTIVE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    typed: float
    """The share of fields that are numbers or times."""
    total: float
    """The same, of all lines."""


def told_separator(line: str) -> str | None:
    """What a first line like ``sep=;`` says; None where it says nothing."""
    found = _DIRECTIVE.fullmatch(line.strip(" \r\n\ufeff"))
    return None if found is None else found[1]


def separator_of(text: str, path: Path) -> str | None:
    """What stands between the fields; None: whitespace.

    Raises:
        TableError: lines like 100 200 may be one number or several.
    """
    sample = _sample(text)
    scores = {separator: _score(sample, separator) for separator in _SEPARATORS}
    best = max(scores, key=lambda separator: scores[separator].total)  # of equals the first
    spaces = _score(sample, None)
    usual = SURELY if scores[best].total else _LIKELY
    if spaces.typed < usual or scores[best].typed >= _LIKELY:
        return best if scores[best].total else ","
    if _is_one_number(sample[-1]):
        if len(sample[0].split()) == 1 and not _is_one_number(sample[0]):
            return ","
        if sum(map(_is_one_number, sample)) >= SURELY * (len(sample) - 1):
            raise TableError(
                f"{path}: is '{sample[-1].strip()}' one number or several? write a comma between "
                "the fields, or no spaces within the numbers"
            )
    return None


def _is_one_number(line: str) -> bool:
    return kind_of(line) is Kind.NUMBER and len(line.split()) > 1


def _sample(text: str) -> list[str]:
    """Lines from the beginning and from the middle on."""
    head = re.split(r"\r\n|\r|\n", text[:_LETTERS])
    middle = re.split(r"\r\n|\r|\n", text[len(text) // 2 : len(text) // 2 + _LETTERS])[1:-1]
    lines = [*head[:_LINES], *(middle[:_LINES] if len(text) > 2 * _LETTERS else [])]
    return [line for line in lines if line.strip() and not line.lstrip().startswith(COMMENTS)]


def _score(lines: list[str], separator: str | None) -> _Score:
    """Of the lines' fields, the share that are numbers or times in rows of the usual width."""
    if separator is None:
        rows = [line.split() for line in lines]
    else:
        rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    widths = Counter(len(row) for row in rows if len(row) > 1)
    if not widths:
        return _Score(typed=0.0, total=0.0)
    width, usual = widths.most_common(1)[0]
    if 2 * usual < len(rows):
        return _Score(typed=0.0, total=0.0)
    fields = [field for row in rows if len(row) == width for field in row]
    kinds = Counter(kind_of(field) for field in fields)
    told = sum(kinds[kind] for kind in (Kind.NUMBER, Kind.TIME))
    typed = told / max(1, len(fields) - kinds[Kind.MISSING])
    return _Score(typed=typed, total=(typed + 0.05) * usual / len(rows))
