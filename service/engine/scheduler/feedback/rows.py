"""What is known of each row that feeds back: columns, and the calls whose they are."""

import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Branches, Ints, Mask
from service.errors import CellarError, StaleBranchError

PIECE_STEPS = 256  # the most in one piece
PARTIES = 2**15  # that are told apart
BURST = 64.0  # pieces
_FIRST_ROWS = 16


class Fate(IntEnum):
    """What becomes of a row once its batch is answered."""

    GOES_ON = 0
    LENGTH = 1
    STOP = 2
    CANCELLED = 3
    BAD_DRAW = 4


REASONS: dict[int, FinishReason] = {
    Fate.LENGTH: FinishReason.LENGTH,
    Fate.STOP: FinishReason.STOP,
}


def record(step: type[np.generic]) -> np.dtype[np.void]:
    """What is known of each row."""
    return np.dtype(
        [
            ("slot", np.int64),
            ("tenancy", np.int32),  # the slot's: whose it is
            ("branch", np.uint64),  # the session's
            ("number", np.int64),  # among the rows of its call
            ("at", np.int64),  # the session's position
            ("left", np.int64),  # steps to read
            ("filled", np.int64),  # steps that are not in a piece
            ("unread", np.int64),  # steps in pieces that nobody has taken
            ("flying", np.int64),  # steps that it reads in a batch that runs
            ("queued", np.bool_),  # its step waits its turn, or runs, among other work
            ("fate", np.int64),  # a `Fate`
            ("is_paced", np.bool_),
            ("special", np.bool_),  # its call watches it, or was cancelled: looked at one by one
            ("held", np.bool_),  # waits for its client to read
            ("paused", np.bool_),  # waits until its principal may take steps again
            ("party", np.int16),  # whose it is, by the allowance's number; 0: nobody is asked
            ("next", step),  # the step to read next
            ("temperature", np.float32),
            ("top_k", np.int64),
            ("top_p", np.float32),
            ("seed", np.uint64),
        ]
    )


class FeedbackRows:
    """The rows of one shard that feed back: as they stand.

    Args:
        tenancy: how often each slot was released, see `SlotManager`.
        bounds: what drawn values are kept within; ``None`` for tokens.
        most_steps: the most steps that a row reads in one batch.
        wake: tells that rows are ready.
        call_later: calls something after so many seconds.
        count: counts steps that generations have drawn.
        hold: calls something once what sessions in these slots have read may be told.
    """

    def __init__(
        self,
        table: SessionTable,
        tenancy: NDArray[np.int32],
        *,
        bounds: tuple[np.float32, np.float32] | None,
        most_steps: int,
        wake: Callable[[], None],
        call_later: Callable[[float, Callable[[], None]], Any],
        count: Callable[[int], None],
        hold: Callable[[Ints, Callable[[], None]], None] | None = None,
    ) -> None:
        self.ready_rows = 0  # whose next step is known
        self.drawn = "sampled_tokens" if bounds is None else "sampled_values"
        """The column of answers that holds draws."""
        self.in_flight = 0  # steps that rows read in batches that run
        self._table = table
        self._tenancy = tenancy
        self._bounds = bounds
        self._most_steps = most_steps
        self._wake = wake
        self._call_later = call_later
        self._count = count
        self._hold = hold
        step = np.int64 if bounds is None else np.float32
        self._rows = np.zeros(_FIRST_ROWS, record(step))
        self._done = np.zeros((_FIRST_ROWS, PIECE_STEPS), step)  # steps that are not in a piece
        self._ran: Ints | None = None  # (rows, steps, 2) in what, once bits depend on it
        self._calls: list[FeedbackCall | None] = [None] * _FIRST_ROWS  # by row
        self._free = list(range(_FIRST_ROWS))[::-1]
        self._ready: list[Ints] = []
        self._unsent: deque[int] = deque()  # rows with steps that are not in a piece, oldest first
        self._allowance = BURST  # pieces that may be sent now
        self._allowed_s = time.monotonic()
        self._timer: Any = None
        self._has_parties = False  # some row has had one

    def stand(self, call: FeedbackCall, row: int) -> tuple[int, int]:
        """Where a call's row stands, or has ended, and how many steps it has under way."""
        if self._calls[row] is not call:
            return call.stood_at, 0
        own = self._rows[row]
        return int(own["at"]), int(own["flying"]) or int(own["queued"])

    def cancelled_rows(self, rows: Ints) -> Mask:
        """See `ReplyTo.cancelled_rows`: which have ended, as the queue was given up.

        All others that must not go on never become work.
        """
        return np.array([self._calls[row] is None for row in rows.tolist()], np.bool_)

    def branches(self, rows: Ints) -> Branches:
        """The branches that rows read on, (rows,)."""
        branches: Branches = self._rows["branch"][rows]
        return branches

    def _stale(self, row: int) -> CellarError:
        slot = self._rows["slot"][row]
        if self._table.moving[slot]:
            return self._table.moves[int(slot)].error()
        branch, position = self._table.branch[slot], self._table.stands_at(slot)
        return StaleBranchError(branch=int(branch), position=int(position))

    def _recount(self) -> None:
        """Count anew what is counted as it comes."""
        self._free = [row for row, call in enumerate(self._calls) if call is None]
        self._rows["flying"][self._free] = 0
        self.in_flight = int(self._rows["flying"].sum())

    def _grow(self) -> None:
        size = len(self._calls)
        self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._done = np.concatenate([self._done, np.zeros_like(self._done)])
        if self._ran is not None:
            self._ran = np.concatenate([self._ran, np.zeros_like(self._ran)])
        self._calls += [None] * size
        self._free = [*range(2 * size - 1, size - 1, -1), *self._free]
