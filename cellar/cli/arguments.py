"""What options and arguments of the command may be. An error says what is wrong with one."""

from __future__ import annotations

import argparse
import math
import re

_MOST_DIGITS = 20  # of 64 bits
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class UsageError(Exception):
    """What was asked does not make sense."""


def whole(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def number(text: str) -> float:
    """A number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return found


def positive(text: str) -> float:
    """A number above 0."""
    found = number(text)
    if not found > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return found


def levels(text: str) -> tuple[float, ...]:
    """Levels of quantiles: .1,.5,.9."""
    found = tuple(number(level) for level in text.split(","))
    if not all(0 < level < 1 for level in found):
        raise argparse.ArgumentTypeError(f"{text!r} are not levels between 0 and 1")
    return found


def model(text: str) -> tuple[str, int]:
    """A model's name, and its version or 0: NAME or NAME/VERSION."""
    name, slash, version = text.rpartition("/")
    if slash and name and version.isdecimal():
        return name, int(version)
    return text, 0


def duration(text: str) -> float:
    """Seconds, above 0: 90s, 5m, 1h or 2d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhd]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 5m, 1h or 2d")
    return positive(str(float(found[1]) * _UNITS[found[2]]))
