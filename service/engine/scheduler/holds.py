"""Lets what is queued for sessions wait for something that is no work, and go on."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.slots import SlotManager
from service.engine.work.columns import Ints


class Holds:
    """Those of one shard.

    Args:
        slots: frees those of sessions that have ended.
        give_up: is told of a fault that left the queue in doubt.
        wake: tells that work may run that could not before.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        slots: SlotManager,
        *,
        give_up: Callable[[Exception], None],
        wake: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._give_up = give_up
        self._wake = wake

    def hold(self, slots: Ints) -> Callable[[], None]:
        """Let what is queued for these from here on wait; returns what lets it go on."""
        token = self._scheduler.hold(slots)
        return lambda: self._go_on(slots, lambda: self._scheduler.release(token))

    def hold_each(self, slots: Ints) -> NDArray[np.int32]:
        """The same of each by itself, see `Scheduler.hold_each`."""
        return self._scheduler.hold_each(slots)

    def let_go(self, slots: Ints, tickets: NDArray[np.int32]) -> None:
        """See `Scheduler.let_go`."""
        self._go_on(slots, lambda: self._scheduler.let_go(slots, tickets))

    def _go_on(self, slots: Ints, release: Callable[[], None]) -> None:
        try:
            release()
            if self._slots.leaving:  # nothing else may be queued for one that has ended
                self._slots.finished(slots)
        except Exception as fault:
            self._give_up(fault)
        self._wake()
