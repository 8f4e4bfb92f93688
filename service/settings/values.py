"""How people write sizes, times and words: the same in flags, variables and files."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

_SIZE = re.compile(r"(\d[\d_]*(?:\.\d+)?) *([a-z]*)", re.IGNORECASE)
_BYTES: Mapping[str, int] = {
    "": 1,
    "b": 1,
    **{f"{letter}{unit}": 1000**n for n, letter in enumerate("kmgt", 1) for unit in ("", "b")},
    **{f"{letter}i{unit}": 1024**n for n, letter in enumerate("kmgt", 1) for unit in ("", "b")},
}
_TIME = re.compile(r"(?:\d+(?:\.\d+)? *(?:ms|us|µs|[smhd]) *)+", re.ASCII | re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?) *(ms|us|µs|[smhd])", re.ASCII | re.IGNORECASE)
_SECONDS: Mapping[str, float] = {
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
}
_NOTHING = ("off", "none", "null", "no", "false", "disabled")


def size(value: object) -> object:
    """Bytes of a size such as 4Gi, 4GiB (2^30), 4G, 4GB (10^9), 512m or 65536.

    Raises:
        ValueError: it is text, and no size.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    scale = _BYTES.get(found[2].lower()) if found else None
    if found is None or scale is None:
        raise ValueError("say a size such as 4Gi, 4GiB, 4G, 512M, or a number of bytes")
    number = found[1].replace("_", "")
    return int(number) * scale if number.isdigit() else round(float(number) * scale)


def seconds(value: object) -> object:
    """Seconds of a time such as 90, 90s, 5m, 1h30m or 250ms.

    Raises:
        ValueError: it is text, and no time.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
    if _TIME.fullmatch(text):
        return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART.findall(text))
    try:
        return float(text)
    except ValueError:
        raise ValueError("say a time such as 90s, 5m, 1h or 250ms, or seconds") from None


def is_nothing(value: object) -> bool:
    """Whether a value is a word for nothing, such as "off" or "none", in any case."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return value is None or value is False


def nothing(value: object) -> object:
    """None for a word for nothing, and any other value as it is."""
    return None if is_nothing(value) else value


def lower(value: object) -> object:
    """A word in lower case."""
    return value.strip().lower() if isinstance(value, str) else value


def _zero(value: object) -> object:
    return 0 if is_nothing(value) else value


def _level(value: object) -> object:
    word = lower(value)
    return {"warn": "warning", "err": "error"}.get(word, word) if isinstance(word, str) else word


Size = Annotated[int, BeforeValidator(size)]
"""Bytes, written in any of the ways that `size` reads."""
Seconds = Annotated[float, BeforeValidator(seconds), Field(allow_inf_nan=False)]
"""Seconds, written in any of the ways that `seconds` reads."""
OrNone = BeforeValidator(nothing)
"""Before a type that has None: "off", "none" and the like mean that."""
OrZero = BeforeValidator(_zero)
"""Before a number of which 0 means that it is off: "off" and the like mean that too."""
Word = BeforeValidator(lower)
"""Before a choice: its words in any case."""
Level = BeforeValidator(_level)
"""Before a level of the log: in any case, and as others call it."""
