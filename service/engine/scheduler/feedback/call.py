"""A call whose rows feed back, as the rows see it."""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any

from numpy.typing import NDArray

from service.engine.quotas.allowance import Allowance
from service.engine.work.columns import Floats, Ints
from service.errors import CellarError


class FinishReason(Enum):
    """Why a row ended."""

    LENGTH = "length"
    STOP = "stop"


class FeedbackCall(ABC):
    """A call whose rows feed back.

    Attributes:
        is_paced: it wants what its rows have read as it comes, and tells how much it has taken.
        watches: it looks at each step, and may end a row with it.
        allowance: of the principal whose it is; where it is paced, what it reads is paid from that.
        beside: what each of its rows reads beside its draws, (steps, columns); ``None``: nothing.
        cancelled: nobody waits for it any more.
        error: what ended it.
        is_torn: a piece of it was lost, so that none must follow.
        stood_at: where its last row stood when it ended.
    """

    is_torn = False
    is_paced = False
    watches = False
    allowance: Allowance | None = None
    beside: Floats | None = None
    cancelled = False
    error: CellarError | None = None
    stood_at = 0

    @abstractmethod
    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        """Take what some of its rows have read, (rows, steps); they count from 0 in each call.

        Args:
            rows: which, (rows,).
            steps: what each has read.
            position: where the last of them stands now.
            reason: why it ends with that, if it does.
        """

    @abstractmethod
    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        """Some of its rows have ended; their ``draws`` (rows,) were not read any more."""

    def ran(self, position: int, runs: Ints) -> None:  # noqa: B027
        """Hear what the steps up to a position ran in, where bits depend on that.

        Args:
            position: behind the last of them.
            runs: the bucket and the time steps of the run of each, (steps, 2).
        """

    def is_over(self, step: Any) -> bool:  # noqa: ARG002
        """Whether a row ends with the step it has just read, if the call watches."""
        return False
