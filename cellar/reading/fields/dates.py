"""The ways to write a date: what a field looks like, and how fields like it are read.

Knows nothing of tables. A shape is what can be seen of a field; which of its numbers is the day
and which the month, only many fields can tell.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

ORDERS = {"day-first": "%d", "month-first": "%m", "year-first": "%y"}
"""Orders in which dates are written, and what begins the forms of each."""
_FOREIGN = {
    "januar": "jan", "januari": "jan", "janvier": "jan", "enero": "jan", "gennaio": "jan",
    "janeiro": "jan", "februar": "feb", "februari": "feb", "fevrier": "feb", "février": "feb",
    "febrero": "feb", "febbraio": "feb", "fevereiro": "feb", "marzo": "mar", "märz": "mar",
    "mars": "mar", "março": "mar", "maart": "mar", "avril": "apr", "abril": "apr",
    "aprile": "apr", "mai": "may", "mayo": "may", "maggio": "may", "maio": "may", "mei": "may",
    "juni": "jun", "juin": "jun", "junio": "jun", "giugno": "jun", "junho": "jun",
    "juli": "jul", "juillet": "jul", "julio": "jul", "luglio": "jul", "julho": "jul",
    "août": "aug", "agosto": "aug", "augustus": "aug", "septembre": "sep", "septiembre": "sep",
    "settembre": "sep", "setembro": "sep", "oktober": "oct", "octobre": "oct", "octubre": "oct",
    "ottobre": "oct", "outubro": "oct", "novembre": "nov", "noviembre": "nov", "novembro": "nov",
    "dezember": "dec", "decembre": "dec", "décembre": "dec", "diciembre": "dec",
    "dicembre": "dec", "dezembro": "dec", "mär": "mar", "mrz": "mar", "okt": "oct", "dez": "dec",
    "ene": "jan", "abr": "apr", "ago": "aug", "dic": "dec", "sept": "sep",
}  # fmt: skip
_WEEKDAYS = (
    "mon|tue|wed|thu|fri|sat|sun|monday|tuesday|wednesday|thursday|friday|saturday|sunday|tues|thur"
)


class Layout(StrEnum):
    """In which order the parts of a date stand."""

    YEAR_FIRST = "2020-12-31"
    YEAR_LAST = "31/12/2020"
    TWO_DIGITS = "31/12/20"
    COMPACT = "20201231"
    DAY_NAME_YEAR = "31 Dec 2020"
    NAME_DAY_YEAR = "Dec 31 2020"
    YEAR_NAME_DAY = "2020 Dec 31"
    NAME_YEAR = "Dec 2020"
    YEAR_NAME = "2020 Dec"
    YEAR_MONTH = "2020-12"
    MONTH_YEAR = "12/2020"
    QUARTER = "2020-Q4"
    WEEK = "2020-W53"


_DATES: dict[Layout, str] = {
    Layout.YEAR_FIRST: r"\d{4}(?P<a>[-/. ])\d{1,2}(?P=a)\d{1,2}",
    Layout.YEAR_LAST: r"\d{1,2}(?P<b>[-/. ])\d{1,2}(?P=b)\d{4}",
    Layout.TWO_DIGITS: r"\d{1,2}(?P<c>[-/.])\d{1,2}(?P=c)\d{2}",
    Layout.COMPACT: r"\d{8}(?=[T ,])",
    Layout.DAY_NAME_YEAR: r"\d{1,2}(?:st|nd|rd|th|\.)?[-/ .]?\s?[^\W\d_]{3,10}\.?[-/ ,]{0,2}"
    r"(?:\d{4}|\d{2})",
    Layout.NAME_DAY_YEAR: r"[^\W\d_]{3,10}\.?[-/ ]\d{1,2}(?:st|nd|rd|th)?[-/ ,]{1,2}"
    r"(?:\d{4}|\d{2})",
    Layout.YEAR_NAME_DAY: r"\d{4}[-/ ][^\W\d_]{3,10}\.?[-/ ]\d{1,2}",
    Layout.NAME_YEAR: r"[^\W\d_]{3,10}\.?[-/ ,']{0,2}(?:\d{4}|\d{2})",
    Layout.YEAR_NAME: r"(?:\d{4}|\d{2})[-/ ]?[^\W\d_]{3,10}",
    Layout.YEAR_MONTH: r"\d{4}(?:[-/]|[Mm])\d{1,2}",
    Layout.MONTH_YEAR: r"\d{1,2}[-/]\d{4}",
    Layout.QUARTER: r"\d{4}[-/: ]?[Qq][1-4]|[Qq][1-4][-/: ]?\d{4}|[1-4][Qq][-/: ]?\d{4}",
    Layout.WEEK: r"\d{4}-?[Ww]\d{1,2}(?:-?[1-7])?",
}
_HOUR = r"(?:(?<=\d{4}[-/.]\d\d[-/.]\d\d[T ])|(?<=\d\d[-/.]\d\d[-/.]\d{4}[T ])|(?<=\d{8}[T ]))\d\d"
"""The hour alone, where the date before it is whole: elsewhere two digits may be a year."""
_CLOCK = (
    r"(?:(?P<join>[Tt]|,? +|[_:-])(?P<clock>\d{1,2}[:.]\d{2}(?:[:.]\d{2}(?:[.,]\d{1,9})?)?|\d{4,6}"
    rf"|{_HOUR})(?P<half> ?[AaPp]\.?[Mm]\.?)?)?"
)
_ZONE = r"(?P<zone> ?(?:[Zz]|[+-]\d{2}:?\d{2}|[+-]\d{2})| \(?[A-Z]{2,5}\)?)?"
_SHAPES = {
    layout: re.compile(
        rf"(?:(?:{_WEEKDAYS})\.?,?\s+)?(?P<date>{date}){_CLOCK}{_ZONE}", re.IGNORECASE
    )
    for layout, date in _DATES.items()
}
_NAMED = frozenset(
    (
        Layout.DAY_NAME_YEAR,
        Layout.NAME_DAY_YEAR,
        Layout.YEAR_NAME_DAY,
        Layout.NAME_YEAR,
        Layout.YEAR_NAME,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What can be seen of a field."""

    layout: Layout
    mark: str
    """Between the parts of the date."""
    short_year: bool
    join: str
    """Between date and clock; empty: there is no clock."""
    clock: str
    """The clock's form for strptime."""
    zone: str
    """``+`` for an offset, else the letters of a zone; empty: none."""


def shape_of(text: str) -> Shape | None:
    """Look at a field; None where it is no date."""
    if not 6 <= len(text) <= 50 or not any(letter.isdigit() for letter in text):
        return None
    for layout, form in _SHAPES.items():
        found = form.fullmatch(text)
        if found is not None and (layout not in _NAMED or _has_month(found["date"])):
            return _shape(layout, found)
    return None


def _shape(layout: Layout, found: re.Match[str]) -> Shape:
    date, zone = found["date"], (found["zone"] or "").strip()
    marks = [letter for letter in date if not letter.isalnum()]
    return Shape(
        layout=layout,
        mark=marks[0] if marks else "",
        short_year=re.search(r"\d{4}", date) is None,
        join=found["join"] or "",
        clock=_clock_form(found["clock"], half=found["half"] is not None),
        zone="+" if zone[:1] in ("+", "-") else zone.strip("()").upper(),
    )


def _clock_form(clock: str | None, *, half: bool) -> str:
    if clock is None:
        return ""
    hour = "%I" if half else "%H"
    if clock.isdigit():
        return {2: hour, 4: f"{hour}%M", 5: f"{hour}%M%S", 6: f"{hour}%M%S"}[len(clock)]
    mark = next(letter for letter in clock if not letter.isdigit())
    parts = re.split(r"[:.,]", clock)
    form = mark.join((hour, "%M", "%S")[: min(3, len(parts))]) + (".%f" if len(parts) > 3 else "")
    return form + (" %p" if half else "")


def _has_month(text: str) -> bool:
    return month_of(re.sub(r"[\W\d_]|(?<=\d)(?:st|nd|rd|th)", "", text)) is not None


def month_of(name: str) -> str | None:
    """The English name in three letters of a month's name; None where it is none."""
    plain = name.lower()
    if plain in _FOREIGN:
        return _FOREIGN[plain]
    full = "january february march april may june july august september october november december"
    known = [month for month in full.split() if month == plain or month[:3] == plain]
    return known[0][:3] if known else None


def candidates(shape: Shape) -> tuple[str, ...]:
    """How the date of a shape may be read, as strptime writes it, after `normalised`."""
    mark = shape.mark
    year = "%y" if shape.short_year else "%Y"
    match shape.layout:
        case Layout.YEAR_FIRST:
            return (f"%Y{mark}%m{mark}%d",)
        case Layout.YEAR_LAST:
            return (f"%d{mark}%m{mark}%Y", f"%m{mark}%d{mark}%Y")
        case Layout.TWO_DIGITS:
            order = (("%d", "%m", "%y"), ("%m", "%d", "%y"), ("%y", "%m", "%d"))
            return tuple(mark.join(parts) for parts in order)
        case Layout.COMPACT:
            return ("%Y%m%d",)
        case Layout.DAY_NAME_YEAR:
            return (f"%d %b {year}",)
        case Layout.NAME_DAY_YEAR:
            return (f"%b %d {year}",)
        case Layout.YEAR_NAME_DAY:
            return ("%Y %b %d",)
        case Layout.NAME_YEAR:
            return (f"%b {year}",)
        case Layout.YEAR_NAME:
            return (f"{year} %b",)
        case Layout.YEAR_MONTH:
            return ("%Y %m",)
        case Layout.MONTH_YEAR:
            return ("%m %Y",)
        case Layout.QUARTER:
            return ("%Y %m",)
        case Layout.WEEK:
            return ("%G-W%V-%u",)


_TIDIED = (
    (re.compile(r"(?i)(?<=[\d ])([ap])\.?m\.?(?!\w)"), r"\1M"),
    (re.compile(r"(?<=\d)(?=[aApP]M\b)"), " "),
    (re.compile(r"(?m)(:\d{2}),(\d{1,9})"), r"\1.\2"),
    (re.compile(rf"(?mi)^(?:{_WEEKDAYS})\.?,?\s+"), ""),
)


def normalised(text: str, layout: Layout, *, sample: str) -> str:
    """Many fields, one a line, in the words and marks that `candidates` of the layout read.

    What is not in the ``sample`` of them is not looked for in all.
    """
    for form, new in _TIDIED:
        tidied = form.sub(new, sample)
        if tidied != sample:
            sample, text = tidied, form.sub(new, text)
    if layout in _NAMED:
        text = re.sub(r"(?i)(?<=\d)(?:st|nd|rd|th)\b", "", text)
        names = {name: month_of(name) for name in set(re.findall(r"[^\W\d_]{3,}", text))}
        text = re.sub(r"[^\W\d_]{3,}", lambda found: names[found[0]] or found[0], text)
        date = r"(?m)^(\d+)[-/ .,']*([a-z]{3})[-/ .,']*(\d+)"
        if layout is Layout.NAME_DAY_YEAR:
            return re.sub(r"(?m)^([a-z]{3})\.?[-/ ](\d{1,2})[-/ ,]{1,2}(\d+)", r"\1 \2 \3", text)
        if layout is Layout.NAME_YEAR:
            return re.sub(r"(?m)^([a-z]{3})[-/ .,']*(\d+)", r"\1 \2", text)
        if layout is Layout.YEAR_NAME:
            return re.sub(r"(?m)^(\d+)[-/ ]?([a-z]{3})", r"\1 \2", text)
        return re.sub(date, r"\1 \2 \3", text)
    if layout is Layout.YEAR_MONTH:
        return re.sub(r"(?m)^(\d{4})[-/Mm](\d{1,2})", r"\1 \2", text)
    if layout is Layout.MONTH_YEAR:
        return re.sub(r"(?m)^(\d{1,2})[-/](\d{4})", r"\1 \2", text)
    if layout is Layout.QUARTER:
        return re.sub(r"(?m)^.*$", lambda found: _quarter(found[0]), text)
    if layout is Layout.WEEK:
        return re.sub(
            r"(?m)^(\d{4})-?[Ww](\d{1,2})(?:-?([1-7]))?",
            lambda found: f"{found[1]}-W{int(found[2]):02}-{found[3] or 1}",
            text,
        )
    return text


def _quarter(text: str) -> str:
    year = re.search(r"\d{4}", text)
    quarter = re.search(r"[Qq]([1-4])(?!\d)|^([1-4])[Qq]", text)
    if year is None or quarter is None:
        return text
    return f"{year[0]} {3 * int(quarter[1] or quarter[2]) - 2}"


def zone_of(text: str, shapes: list[Shape]) -> tuple[str | None, str]:
    """The zone of fields, and the fields without its letters; None: some have one, some not."""
    zones = {shape.zone for shape in shapes}
    if zones == {""}:
        return "", text
    if "" in zones and len(zones) > 1 and "+" in zones | {"Z"}:
        return None, text
    if zones <= {"+", "Z", "UTC", "GMT"} and "+" in zones:
        text = re.sub(r"(?m) ?(?:UTC|GMT|[Zz])$", "+00:00", text)
        text = re.sub(r"(?m) ?([+-]\d{2})$", r"\1:00", text)
        return "+", re.sub(r"(?m) ([+-]\d{2}:?\d{2})$", r"\1", text)
    if len(zones) > 1:
        return None, text
    (zone,) = zones
    return ("UTC" if zone == "Z" else zone), re.sub(rf"(?mi) ?\(?{zone}\)?$", "", text)
