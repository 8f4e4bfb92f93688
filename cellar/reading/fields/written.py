"""Numbers as people write them: 1,234.5 and 1.234,5, $5, 5 %, 1.2M, (3.5) and 12,34,567."""

import re
from dataclasses import dataclass

from cellar.reading.fields.marks import is_mark

UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "bn": 1e9, "Bn": 1e9, "T": 1e12}
_CURRENCY = r"US\$|A\$|C\$|HK\$|R\$|[$€£¥₹₽₩]|Rs\.?|USD|EUR|GBP|CHF|INR|JPY"
_FIELD = re.compile(
    r"(?P<open>\()?\s*"
    rf"(?P<before>[+\-\u2212\u2013]?)\s*(?P<currency>{_CURRENCY})?\s*"
    r"(?P<after>[+\-\u2212\u2013]?)\s*"
    r"(?P<body>(?:\d[\d.,' \u00a0\u202f\u2009\u2019]*|[.,]\d+))"
    r"(?P<exponent>[eE][+\-\u2212]?\d+)?\s*"
    rf"(?P<unit>%|k|K|M|B|bn|Bn|T)?\s*(?P<money>{_CURRENCY})?\s*"
    r"(?P<close>\))?",
    re.ASCII,
)
_SPACE = " '\u00a0\u202f\u2009\u2019"
_PLAIN = re.compile(r"\d+(\.\d*)?|\.\d+")
_WESTERN = re.compile(rf"\d{{1,3}}([,{_SPACE}])\d{{3}}(\1\d{{3}})*(\.\d*)?")
_INDIAN = re.compile(r"\d{1,2}(,\d{2})*,\d{3}(\.\d*)?")
_SWAPPED = str.maketrans(",.", ".,")
_SPACES = str.maketrans("", "", "," + _SPACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number, and what was written around it."""

    value: float
    unit: str = ""
    currency: str = ""
    in_brackets: bool = False


def number_of(text: str, *, decimal_comma: bool) -> Number | None:
    """Read one field; None where it is no number."""
    found = _FIELD.fullmatch(text.strip())
    if found is None or bool(found["open"]) != bool(found["close"]):
        return None
    signs = found["before"] + found["after"]
    if len(signs) > 1 or (signs and found["open"]) or (found["currency"] and found["money"]):
        return None
    body = found["body"].rstrip(_SPACE)
    body = body.translate(_SWAPPED) if decimal_comma else body
    if not any(form.fullmatch(body) for form in (_PLAIN, _WESTERN, _INDIAN)):
        return None
    exponent = (found["exponent"] or "").replace("\u2212", "-")
    value = float(body.translate(_SPACES) + exponent)
    unit = found["unit"] or ""
    negative = bool(found["open"]) or (signs not in ("", "+"))
    return Number(
        value=value * UNITS.get(unit, 1.0) * (-1.0 if negative else 1.0),
        unit=unit,
        currency=found["currency"] or found["money"] or "",
        in_brackets=bool(found["open"]),
    )


def is_number(text: str) -> bool:
    """Whether a field is a number in some reading, or says that there is none."""
    if is_mark(text):
        return True
    return any(number_of(text, decimal_comma=comma) is not None for comma in (False, True))
