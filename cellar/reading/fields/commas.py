"""What a comma means in a file: its columns vote, and what none can tell is refused."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cellar.reading.errors import TableError

# What can only be meant one way: 1.234,5 and 12,5 against 1,234.5 and 12.5; and what may be both.
_START = r"(?m)^[^\d.,\n]{0,4}"
_END = r"(?:[eE][+-]?\d+)?[^\d.,\n]{0,4}$"
_GROUPS = r"\d{1,3}(?:[POINT]\d{3}){2,}|\d{1,2}(?:[POINT]\d{2})+[POINT]\d{3}"
_SURE = (
    rf"{_START}(?:(?:\d{{1,3}}(?:[POINT]\d{{3}})+|\d{{1,2}}(?:[POINT]\d{{2}})+[POINT]\d{{3}})[MARK]\d*"
    rf"|{_GROUPS}|\d*[MARK](?:\d{{1,2}}|\d{{4,}})|(?:0\d*|\d{{4,}})[MARK]\d*"
    rf"|\d{{1,3}}(?:[ '\u00a0\u202f\u2009\u2019]\d{{3}})+[MARK]\d*){_END}"
)
_EITHER = rf"{_START}[1-9]\d{{0,2}}[MARK]\d{{3}}{_END}"


def _form(form: str, *, mark: str, point: str) -> re.Pattern[str]:
    return re.compile(form.replace("MARK", mark).replace("POINT", point))


_SURELY_COMMA = _form(_SURE, mark=",", point=".")
_SURELY_POINT = _form(_SURE, mark=".", point=",")
_COMMA_EITHER = _form(_EITHER, mark=",", point=".")
_WHOLE = re.compile(rf"{_START}[1-9]\d{{0,2}}{_END}")
_POINT_EITHER = _form(_EITHER, mark=".", point=",")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Fields of a file, none of them missing."""

    name: str
    lines: Sequence[int]
    """Where each stands."""
    fields: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What commas mean, and how many fields have one."""

    is_decimal: bool
    rows: int = 0
    example: str = ""
    """Why."""

    @property
    def note(self) -> str:
        """What was understood, for people; empty where there is nothing to tell."""
        if not self.example and not self.rows:
            return ""
        how = "a decimal comma" if self.is_decimal else "commas between thousands"
        return f"read with {how}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """One field of each kind, as it stands in the file; None where there is none."""

    comma: str | None
    """Can only be read with a decimal comma."""
    point: str | None
    """Can only be read with a decimal point."""
    either_comma: str | None
    """Has one comma that may be either: 1,234."""
    either_point: str | None
    commas: int
    """Fields with a comma."""

    @classmethod
    def of(cls, columns: Iterable[Column]) -> "Votes":
        """Those of the fields of columns."""
        text = "\n".join("\n".join(column.fields) for column in columns)
        has_comma = "," in text
        grouped = has_comma or re.search(r"\.\d{2,3}\.\d", text) is not None
        point = _first(_SURELY_POINT, text)
        return cls(
            comma=_first(_SURELY_COMMA, text) if grouped else None,
            point=point,
            either_comma=_first(_COMMA_EITHER, text) if has_comma else None,
            either_point=_first(_POINT_EITHER, text) if point is None else None,
            commas=len(re.findall(r"(?m),[^,\n]*$", text)) if has_comma else 0,
        )


def meaning_of_commas(
    wanted: Sequence[Column],
    others: Sequence[Column],
    *,
    told: bool | None,
    separator: str | None,
    path: str,
) -> Meaning:
    """What a comma means in the wanted columns.

    ``told`` says so. The wanted columns decide; where none of their fields can be meant in one
    way only, the ``others`` of the file do.

    Raises:
        TableError: fields contradict each other, or may all be meant both ways.
    """
    own = Votes.of(wanted)
    if told is not None:
        return Meaning(is_decimal=told)
    if own.comma is not None and own.point is not None:
        raise TableError(
            f"{path}: {_place(wanted, own.comma)} has a decimal comma and "
            f"{_place(wanted, own.point)} a decimal point; write all in one way, or say which it "
            "is with --decimal-comma or --decimal-point"
        )
    votes = own
    if own.comma is None and own.point is None:
        votes = Votes.of(others)
        if votes.comma is not None and votes.point is not None:
            votes = own
    sure = votes.comma or votes.point
    open_field = own.either_comma
    if own.either_point is not None and (separator == ";" or any(map(_has_whole, wanted))):
        open_field = open_field or own.either_point
    if sure is None and open_field is not None:
        raise TableError(
            f"{path}: is {_place(wanted, open_field)} more than a thousand? no number of the "
            "file tells what its commas and points mean; say so with --decimal-comma or "
            "--decimal-point"
        )
    if votes.comma is not None:
        return Meaning(is_decimal=True, rows=own.commas, example=votes.comma)
    if own.commas:
        example = own.either_comma or votes.point or ""
        return Meaning(is_decimal=False, rows=own.commas, example=example)
    return Meaning(is_decimal=False)


def _has_whole(column: Column) -> bool:
    """Whether a column has 987 beside 1.012: nobody writes thousandths of some numbers only."""
    text = "\n".join(column.fields)
    return _first(_POINT_EITHER, text) is not None and _first(_WHOLE, text) is not None


def _first(form: re.Pattern[str], text: str) -> str | None:
    found = form.search(text)
    return None if found is None else found[0]


def _place(columns: Sequence[Column], field: str) -> str:
    for column in columns:
        for line, text in zip(column.lines, column.fields, strict=True):
            if text == field:
                return f"line {line}, column '{column.name}': '{field}'"
    raise AssertionError("the field was found in one of them")
