"""Columns of whole numbers, in as few bytes as hold them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints

# By how many bytes a number needs.
_SIZES = tuple(np.dtype(f"u{size}") for size in (1, 1, 2, 4, 4, 8, 8, 8, 8))
_UNSIGNED = {np.dtype(f"i{size}"): np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def whole_numbers(column: NDArray[Any]) -> Ints:
    """A stored column as it is counted with.

    Raises:
        ValueError: it holds other than whole numbers.
    """
    if column.dtype.kind not in "iu":
        raise ValueError(f"a column of {column.dtype} for whole numbers")
    return column.astype(np.int64)


def small(column: NDArray[Any]) -> NDArray[Any]:
    """Integers in as few bytes as hold them: they are most of the journal."""
    unsigned = _UNSIGNED.get(column.dtype)
    numbers = column if unsigned is None else column.view(unsigned)
    if numbers.dtype.kind != "u":
        return np.ascontiguousarray(column)
    largest = int(numbers.max(initial=0))
    if unsigned is not None and largest >> (8 * column.itemsize - 1):  # some are negative
        return np.ascontiguousarray(column)
    return column.astype(_SIZES[(largest.bit_length() + 7) // 8])
