"""How long what is queued will take, and who has to come again later."""

import time
from collections.abc import Callable, Mapping

from service.engine.work.flow import Flow
from service.errors import OverloadedError
from service.settings import EngineSettings

_LEAST_STEPS = 64  # that may wait, however slow the model: batches are made of them
_RUNS_AT_ONCE = 4  # between which what is roomy is not reckoned anew
_KEPT = 0.95  # of what was measured, at each run: some twenty runs are remembered
_AROUND_RUNS = 1.5  # what goes on around a run, in its time, until it was measured
_MOST_AT_ONCE = 4.0  # times what was expected: a stall says little of the next run
_LONGEST_RETRY_S = 5.0


class QueueLimit:
    """The bound of one queue, in expected time.

    What a flow waits for is its own steps and as many of each rival's, for the queue takes turns
    (see `FairQueue` and `Flow.before`), but never more than all that is queued. Where that takes
    too long, the flow is refused: others are not.

    Attributes:
        roomy_steps: up to here nobody waits too long.

    Args:
        count: counts steps that were refused.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        count: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.roomy_steps = settings.max_pending_steps
        self._settings = settings
        self._max_batch = settings.max_batch
        self._runs = 0
        self._count = count
        self._clock = clock
        self._seconds = 0.0  # that some steps took, with all that goes on around their runs
        self._steps = 0.0
        self._since_s: float | None = None  # since then the queue was never short

    @property
    def step_s(self) -> float:
        """Seconds from one step to the next while many are queued."""
        return self._seconds / self._steps if self._steps else 0.0

    def expect(self, seconds: Mapping[int, float]) -> None:
        """Start with what runs of so many rows have taken, seconds by rows."""
        rows = max(seconds)
        self._seconds, self._steps = _AROUND_RUNS * seconds[rows], rows
        self._measured()

    def observe(self, steps: int, pending_steps: int) -> None:
        """Learn from a run of so many steps that so many are left now."""
        if self._since_s is not None:
            now_s = self._clock()
            took_s = now_s - self._since_s
            if self._steps:
                took_s = min(took_s, _MOST_AT_ONCE * self.step_s * steps)
            self._seconds = _KEPT * self._seconds + took_s
            self._steps = _KEPT * self._steps + steps
            self._runs += 1
            if self._runs % _RUNS_AT_ONCE == 0:
                self._measured()
            self._since_s = now_s if pending_steps >= self._max_batch else None
        elif pending_steps >= self._max_batch:  # in a short queue runs are small, and dear
            self._since_s = self._clock()

    def has_room(self, pending_steps: int, steps: int, flow: Flow) -> bool:
        """Whether so many steps of a flow may join those that are pending."""
        return not self._is_full(pending_steps, steps, flow) and (
            self._ahead(pending_steps, flow) <= self.roomy_steps
        )

    def check(self, pending_steps: int, steps: int, flow: Flow) -> None:
        """Check that so many steps of a flow may join those that are pending.

        Raises:
            OverloadedError: they would wait for too long, and when to try again.
        """
        most, step_s = self._settings.max_pending_steps, self.step_s
        ahead, full = self._ahead(pending_steps, flow), self._is_full(pending_steps, steps, flow)
        if not full and ahead <= self.roomy_steps:
            return
        self._count(steps)
        # Those who are refused come again one after the other, as they can be served.
        now_s = self._clock()
        roomy_s = now_s + max(ahead - self.roomy_steps, 0) * step_s
        party = flow.party
        party.retry_s = min(max(party.retry_s, roomy_s) + steps * step_s, now_s + _LONGEST_RETRY_S)
        retry_s = max(party.retry_s - now_s, OverloadedError.retry_after_s)
        if full:
            raise OverloadedError(
                f"{pending_steps} steps are queued, the limit is {most}: try again in "
                f"{retry_s:.2g} s",
                retry_after_s=retry_s,
            )
        raise OverloadedError(
            f"{ahead} steps would run first, which takes {ahead * step_s:.2g} s and may take "
            f"{self._settings.max_queue_s:g} s: try again in {retry_s:.2g} s",
            retry_after_s=retry_s,
        )

    @staticmethod
    def _ahead(pending_steps: int, flow: Flow) -> int:
        """Steps that run before the next of a flow."""
        return min(pending_steps, flow.before(1))

    def _is_full(self, pending_steps: int, steps: int, flow: Flow) -> bool:
        """Whether there are too many by number; what comes to an empty queue is not."""
        most = self._settings.max_pending_steps
        if not pending_steps or pending_steps + steps <= most:
            return False
        return flow.before(steps) > most

    def _measured(self) -> None:
        steps = self._settings.max_queue_s / max(self.step_s, 1e-9)
        most = self._settings.max_pending_steps
        self.roomy_steps = int(min(max(steps, _LEAST_STEPS), most))
