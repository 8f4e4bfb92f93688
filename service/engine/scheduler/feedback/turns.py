"""Whose rows run where there is no room for all."""

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints


def in_turn(party: NDArray[np.int16]) -> Ints:
    """The places of rows in the order in which they run, (rows,).

    First one of each party's, then the second of each, and so on; those of one as they came.

    Args:
        party: whose each is, (rows,).
    """
    order = np.argsort(party, kind="stable")
    starts = np.flatnonzero(np.diff(party[order], prepend=-1))
    counts = np.diff(starts, append=len(order))
    turns = np.empty(len(order), np.int64)
    turns[order] = np.arange(len(order)) - np.repeat(starts, counts)
    return np.argsort(turns, kind="stable")
