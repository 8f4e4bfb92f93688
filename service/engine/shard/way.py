"""What the ways through a tick have in common, and what goes them."""

from collections.abc import Callable
from typing import Protocol

from service.engine.execution.executor import Execution
from service.engine.scheduler.scheduler import Scheduler
from service.engine.sessions.table import SessionTable
from service.engine.shard.costs import RunCosts
from service.engine.shard.slot_manager import Residents
from service.metrics import Metrics


class Run(Protocol):
    """Something on its way through a tick: it is run, committed, and its callers are answered.

    All but ``run`` happens on the event loop.
    """

    @property
    def is_short(self) -> bool:
        """Whether it may hold up the event loop."""

    @property
    def seconds(self) -> float:
        """How long it ran."""

    def run(self) -> None:
        """Run it, on any thread."""

    def commit(self) -> None:
        """Count what has run, and let what waits for it go on."""

    def deliver(self) -> None:
        """Answer whoever asked."""


class Way:
    """A way through a tick of one shard.

    Args:
        table: where each session stands.
        scheduler: the queue.
        execution: what runs batches.
        residents: who lives in which slot.
        costs: what runs cost.
        metrics: where to count.
        model: under which name to count and log.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        table: SessionTable,
        scheduler: Scheduler,
        execution: Execution,
        residents: Residents,
        costs: RunCosts,
        metrics: Metrics,
        *,
        model: str,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._execution = execution
        self._residents = residents
        self._costs = costs
        self._metrics = metrics
        self._count_steps = metrics.steps.labels(model)
        self._model = model
        self._clock = clock
