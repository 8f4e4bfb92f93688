"""Fixed batch sizes, for devices that replay a run of one size faster than they start a new one.

Knows nothing of devices: it only pads.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Inputs, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """What a run of a fixed size takes; rows beyond the first ``rows`` are idle."""

    rows: int
    read: Ints  # (size,)
    write: Ints  # (size,)
    fresh: NDArray[np.bool_]  # (size,)
    inputs: Inputs  # (size, ...)

    @property
    def size(self) -> int:
        """Rows of the run, the idle ones included."""
        return len(self.read)


class Buckets:
    """Powers of two up to a largest batch, and that itself.

    Idle lanes start from the initial state and write the scratch row, so that they touch nobody's
    state; they repeat the first row's input, which is a valid one.

    Args:
        scratch: the slot that takes what must not be kept.
        single: have the largest size only, so that all runs are of one size.
    """

    def __init__(self, *, max_batch: int, scratch: int, single: bool = False) -> None:
        self._scratch = scratch
        below = () if single else (2**power for power in range(max_batch.bit_length()))
        self.sizes: tuple[int, ...] = (*(size for size in below if size < max_batch), max_batch)
        """All sizes, ascending."""

    def size(self, rows: int) -> int:
        """The smallest size that holds some rows.

        Raises:
            ValueError: no rows, or more than the largest size.
        """
        if not 1 <= rows <= self.sizes[-1]:
            raise ValueError(f"{rows} rows are not in 1..{self.sizes[-1]}")
        return self.sizes[bisect_left(self.sizes, rows)]

    def fitting(self, rows: int, bucket: int) -> int:
        """The size of a run of some rows: ``bucket``, or the smallest one if that is 0.

        Raises:
            ValueError: as `size`; or the rows do not fit, or there is no such size.
        """
        if not bucket:
            return self.size(rows)
        if bucket not in self.sizes or rows > bucket:
            sizes = ", ".join(map(str, self.sizes))
            raise ValueError(f"{rows} rows cannot run in a bucket of {bucket}: there are {sizes}")
        return bucket

    def pad(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        bucket: int = 0,
    ) -> Lanes:
        """Fill a batch up to ``bucket``, or to the next size if that is 0.

        Raises:
            ValueError: as `fitting`.
        """
        rows = len(read)
        idle = self.fitting(rows, bucket) - rows
        return Lanes(
            rows=rows,
            read=np.concatenate([read, np.full(idle, self._scratch, np.int64)]),
            write=np.concatenate([write, np.full(idle, self._scratch, np.int64)]),
            fresh=np.concatenate([fresh, np.ones(idle, np.bool_)]),
            inputs=np.concatenate([inputs, np.repeat(inputs[:1], idle, axis=0)]),
        )
