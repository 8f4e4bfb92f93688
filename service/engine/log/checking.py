"""Whether what a store says can be so: it may be of somebody else's, whose checksums hold too.

Knows nothing of how anything is stored.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.store.store import StoreError

_LARGEST = 2**62
_BRANCHES = ("branch", "left", "seed_branch")  # drawn at random
_LONGEST = 4096
_NONSENSE = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


@contextmanager
def read_of(place: str) -> Iterator[None]:
    """Whatever goes wrong in making sense of a part of a store is said of that part.

    Raises:
        StoreError: something has.
    """
    try:
        yield
    except _NONSENSE as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        shown = reason.encode("unicode_escape").decode()[:200]
        raise StoreError(
            f"{place} is not what Cellar writes ({type(error).__name__}: {shown}): another "
            "program wrote this store, or changed it: restore it from a backup"
        ) from error


def check_facts(facts: Any) -> None:
    """Check that the fields of a dataclass are of the kinds that they are declared to be.

    Numbers are finite and not negative, texts can be shown, and none is longer than need be.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, is_one in _checks_of(facts.__class__):
        value = getattr(facts, name)
        if not is_one(value):
            raise ValueError(f"{name} cannot be {repr(value)[:100]}")


@lru_cache
def _checks_of(kind: Any) -> tuple[tuple[str, Callable[[object], bool]], ...]:
    declared = ((one.name, getattr(one.type, "__name__", "")) for one in fields(kind))
    kinds = {name: "branch" if name in _BRANCHES else kind for name, kind in declared}
    return tuple((name, _KINDS[kind]) for name, kind in kinds.items() if kind in _KINDS)


def check_entries(
    columns: Iterable[NDArray[np.int64]], steps: NDArray[np.int64], inputs: int
) -> None:
    """Check that columns of entries have a row for each, and inputs for their steps.

    Args:
        columns: of no negative numbers, (entries,) each.
        steps: of each, (entries,).
        inputs: how many there are.

    Raises:
        ValueError: they have not.
    """
    for column in columns:
        if column.shape != steps.shape or (len(steps) and int(column.min()) < 0):
            raise ValueError(f"a column of {column.shape} beside {steps.shape}, or less than 0")
    # One by one first: a sum of large ones would wrap round to any number.
    if len(steps) and (int(steps.min()) < 1 or int(steps.max()) > inputs):
        raise ValueError(f"an entry has other steps than there are: {inputs} inputs")
    if int(steps.sum()) != inputs:
        raise ValueError(f"entries of {int(steps.sum())} steps have {inputs} inputs")


def whole(value: object) -> int:
    """A whole number that may count sessions, groups or steps.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int) or not _is_whole(value):
        raise ValueError(f"{repr(value)[:100]} is no number of anything")
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_branch(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()


_KINDS = {
    "branch": _is_branch,
    "int": _is_whole,
    "float": _is_number,
    "str": _is_text,
    "bool": lambda value: isinstance(value, bool),
}
