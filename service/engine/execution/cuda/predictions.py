"""Predictions that stay on the device until somebody reads them, and answers that come from there.

Knows nothing of how either is computed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.execution.ahead.runner import Found
from service.engine.execution.cuda.asked.collected import Collected
from service.engine.execution.cuda.heads import DeviceHeads
from service.engine.execution.cuda.steps import Bucket
from service.engine.execution.cuda.stream.exchange import Exchange
from service.engine.work.columns import Floats


class OnDevice:
    """Some rows of the predictions of a run, in place of an array (rows, width).

    A slice of it is one too, and costs nothing; whatever else is done with it copies the rows to
    the host. Answers are computed from it without that (see `service.engine.execution.cuda.heads`).

    Args:
        bucket: whose run they are of.
        start: the first row.
        stop: the row behind the last one.
        is_current: says whether the bucket still holds this run's predictions.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(
        self, bucket: Bucket, start: int, stop: int, is_current: Callable[[], bool]
    ) -> None:
        self._bucket = bucket
        self._is_current = is_current
        self.start = start
        self.stop = stop

    @property
    def bucket(self) -> Bucket:
        """Where they lie.

        Raises:
            RuntimeError: another run has written there since.
        """
        if not self._is_current():
            raise RuntimeError("these predictions were overwritten by a later run")
        return self._bucket

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self), self._bucket.manifest.prediction.width

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            stop = max(start, stop)
            return OnDevice(self._bucket, self.start + start, self.start + stop, self._is_current)
        return self.copy()[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("predictions on a device cannot be read without a copy")
        return np.asarray(self.copy(), dtype)

    def copy(self) -> Floats:
        """The rows, on the host."""
        found: Floats = self.bucket.copied()[self.start : self.stop]
        return found


class UnderWay:
    """A run that has begun, see ``Begun``.

    Attributes:
        collected: what it is asked.
        fault: why nothing of that can be computed, if so; the step itself goes on.
    """

    def __init__(self, exchange: Exchange, heads: DeviceHeads, collected: Collected) -> None:
        self.collected = collected
        self.fault: Exception | None = None
        self._exchange = exchange
        self._heads = heads
        self._flight = collected.flight

    def depart(self) -> None:
        """All of it is queued; its memory is kept for it until it is over."""
        self._exchange.depart(self._flight)
        self._flight.is_held = True

    def is_over(self) -> bool:
        """See ``Begun``."""
        return self._exchange.has_landed(self._flight)

    def finish(self) -> list[Found]:
        """See ``Begun``."""
        self._exchange.land(self._flight)
        return [self._answers(number) for number in range(len(self.collected.asks))]

    def _answers(self, number: int) -> Found:
        if self.fault is not None:
            return self.fault
        try:
            return self._heads.answers(self.collected, number)
        except Exception as fault:  # of the answer: the step was applied
            return fault
