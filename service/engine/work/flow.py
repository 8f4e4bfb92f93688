"""Whose steps they are, where the queues are fair between callers."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from weakref import WeakValueDictionary

caller: ContextVar[Callable[[], str]] = ContextVar("caller", default=lambda: "")
"""Says who calls, such as a connection: his steps are a flow, and what he has the server hold is
one sum."""

asked_model: ContextVar[str] = ContextVar("asked_model", default="none")
"""The model that a call turned out to be about, by its name and version; for metrics, so that it is
always one that is served."""

_FEW = 16  # steps at once of those who wait for each
_LATELY_S = 0.05


class Flow:
    """Callers that share one turn in the queues: those of one connection.

    Attributes:
        pending_steps: that were taken and are not answered.
    """

    __slots__ = ("__weakref__", "_flows", "pending_steps", "retry_s")

    def __init__(self, flows: "Flows") -> None:
        self.pending_steps = 0
        self.retry_s = 0.0  # the time up to which refused ones were told to come again
        self._flows = flows

    def __del__(self) -> None:
        """Nobody is left: what was never answered, by a fault of ours, is not waited for."""
        if self.pending_steps:
            self._flows.active -= 1

    def take(self, steps: int) -> None:
        """Count steps that will be answered."""
        if not self.pending_steps:
            self._flows.add(steps)
        self.pending_steps += steps

    def answered(self, steps: int) -> None:
        """Count them no longer."""
        self.pending_steps -= steps
        if not self.pending_steps:
            self._flows.active -= 1

    @property
    def rivals(self) -> int:
        """Flows that have steps pending, this one too."""
        return self._flows.active + (not self.pending_steps)


class Flows:
    """The flows of one engine, by a name that says who shares one.

    Attributes:
        active: flows that have steps pending.
    """

    def __init__(self) -> None:
        self.active = 0
        self._few_s = -1.0  # when one with few steps came last while others had some pending
        self._named: WeakValueDictionary[str, Flow] = WeakValueDictionary()
        self._nobodys = Flow(self)

    def add(self, steps: int) -> None:
        """One has steps pending that had none."""
        self.active += 1
        if self.active > 1 and steps <= _FEW:
            self._few_s = time.monotonic()

    def some_have_few(self) -> bool:
        """Whether lately one with few steps came beside others."""
        return time.monotonic() < self._few_s + _LATELY_S

    @property
    def current(self) -> Flow:
        """That of who calls, see `caller`."""
        return self.of(caller.get()())

    def of(self, name: str) -> Flow:
        """The flow of a name; it lasts as long as somebody holds it. No name is nobody's."""
        if not name:
            return self._nobodys
        flow = self._named.get(name)
        if flow is None:
            flow = self._named[name] = Flow(self)
        return flow
