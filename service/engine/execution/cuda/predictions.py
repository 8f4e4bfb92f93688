"""Predictions that stay on the device until somebody reads them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.execution.runtime import Block
from service.engine.work.columns import Floats


class OnDevice:
    """Some rows of the predictions of a run, in place of an array (rows, width).

    A slice of it is one too, and costs nothing; whatever else is done with it copies the rows to
    the host. Answers are computed from it without that (see `service.engine.execution.cuda.heads`).

    Args:
        block: where they lie, (size, width).
        start: the first row.
        stop: the row behind the last one.
        is_current: says whether the block still holds this run's predictions.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, block: Block, start: int, stop: int, is_current: Callable[[], bool]) -> None:
        self._block = block
        self._is_current = is_current
        self.start = start
        self.stop = stop

    @property
    def block(self) -> Block:
        """Where they lie.

        Raises:
            RuntimeError: another run has written there since.
        """
        if not self._is_current():
            raise RuntimeError("these predictions were overwritten by a later run")
        return self._block

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self), self._block.shape[1]

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            stop = max(start, stop)
            return OnDevice(self._block, self.start + start, self.start + stop, self._is_current)
        return self.copy()[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("predictions on a device cannot be read without a copy")
        return np.asarray(self.copy(), dtype)

    def copy(self) -> Floats:
        """The rows, on the host."""
        found: Floats = self.block.read()[self.start : self.stop]
        return found
