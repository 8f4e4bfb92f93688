"""Arguments of the client, checked before anything is sent: an error names the one that is wrong.

Kinds and ranges only: the server judges the values, by its own limits.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from cellar.errors import BadInputError

MOST_UINT32 = 2**32 - 1
MOST_UINT64 = 2**64 - 1
ALL_STEPS = 2**53
"""So many steps of history and more are all."""
MOST_CHANNELS = 2**20
"""Channel numbers of a stream are below this."""
MOST_SECONDS = 10 * 365 * 86_400
"""Ten years: more is no time to wait for, and infinity is none that gRPC knows."""
_SHOWN = 60  # characters of a value, in a message


def whole(name: str, value: object, *, least: int = 0, most: int = MOST_UINT32) -> int:
    """A whole number, of Python's or NumPy's.

    Raises:
        BadInputError: it is none, or out of range.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refused(name, f"a whole number from {least} on", value) from None
    if number < least:
        raise refused(name, f"a whole number from {least} on", value)
    if number > most:
        raise refused(name, f"a whole number, at most {most}", value)
    return number


def number(name: str, value: object) -> float:
    """A finite number, of Python's or NumPy's.

    Raises:
        BadInputError: it is none.
    """
    found = math.nan
    if type(value) is float:
        found = value
    elif not isinstance(value, bool) and isinstance(value, Real | Decimal):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    if not math.isfinite(found):
        raise refused(name, "a finite number", value)
    return found


def seconds(name: str, value: object) -> float:
    """A time to wait, above 0.

    Raises:
        BadInputError: it is none.
    """
    try:
        found = number(name, value)
    except BadInputError:
        found = 0.0
    if not 0 < found <= MOST_SECONDS:
        raise refused(name, f"seconds, above 0 and at most {MOST_SECONDS} (ten years)", value)
    return found


def optional_seconds(name: str, value: object) -> float | None:
    """A time to wait, or None.

    Raises:
        BadInputError: it is neither.
    """
    return None if value is None else seconds(name, value)


def flag(name: str, value: object) -> bool:
    """True or False.

    Raises:
        BadInputError: it is neither.
    """
    if value is True or value is False:
        return value
    if not isinstance(value, np.bool_):
        raise refused(name, "True or False", value)
    return bool(value)


def text(name: str, value: object) -> str:
    """A string.

    Raises:
        BadInputError: it is none.
    """
    if not isinstance(value, str):
        raise refused(name, "a string", value)
    return value


def data(name: str, value: object) -> bytes:
    """Bytes.

    Raises:
        BadInputError: it is none.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise refused(name, "bytes", value)
    return bytes(value)


def optional_text(name: str, value: object) -> str | None:
    """A string, or None.

    Raises:
        BadInputError: it is neither.
    """
    return None if value is None else text(name, value)


def texts(name: str, value: object) -> list[str]:
    """Strings; one alone is meant as itself, not as its letters.

    Raises:
        BadInputError: it is neither a string nor several.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes | Mapping):
        raise refused(name, "a string, or a list of strings", value)
    return [text(f"{name}[{place}]", each) for place, each in enumerate(value)]


def history_steps(value: object) -> int | None:
    """How many steps of history a session keeps, for the wire; None: as the server is set.

    Raises:
        BadInputError: it is no number of steps, nor "all".
    """
    if value is None:
        return None
    if value == "all":
        return ALL_STEPS
    if isinstance(value, str):
        raise refused("history_steps", 'a number of steps, or "all"', value)
    return whole("history_steps", value, most=MOST_UINT64)


def channels(value: object) -> npt.NDArray[np.int64]:
    """Channels of a stream (rows,): one number, or several.

    Raises:
        BadInputError: they are no whole numbers.
    """
    try:
        numbers = np.atleast_1d(np.asarray(value))
    except ValueError:
        numbers = np.zeros((0, 0))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise refused("channels", "whole numbers (rows,)", value)
    return numbers.astype(np.int64)


def levels(name: str, value: object) -> tuple[float, ...]:
    """Levels of quantiles, each in (0, 1); one alone is meant as itself.

    Raises:
        BadInputError: one is no such number.
    """
    if not isinstance(value, bool) and isinstance(value, Real | Decimal):
        value = [value]
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        raise refused(name, "levels between 0 and 1, such as [0.1, 0.5, 0.9]", value)
    found = []
    for place, each in enumerate(value):
        level = number(f"{name}[{place}]", each)
        if not 0 < level < 1:
            raise refused(f"{name}[{place}]", "a level between 0 and 1", each)
        found.append(level)
    return tuple(found)


def nearest(name: str, names: Collection[str]) -> str:
    """What was probably meant, as the end of a message; else all that there is."""
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


def refused(name: str, wanted: str, value: object) -> BadInputError:
    """What is wrong with an argument."""
    return unusable(name, f"{wanted}, not {shown(value)}")


def unusable(name: str, message: str) -> BadInputError:
    """The same, of a value that is not shown: it may be a secret."""
    return BadInputError(f"{name}: {message}", metadata={"field": name})


def shown(value: Any) -> str:
    """A value, in a message."""
    try:
        written = repr(value)
    except ValueError:  # a whole number of thousands of digits
        written = f"a number of {value.bit_length()} bits"
    return written if len(written) <= _SHOWN else f"{written[: _SHOWN - 1]}…"
