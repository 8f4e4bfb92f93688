"""Whose steps they are, where the queues are fair between callers."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from weakref import WeakValueDictionary

from service.auth.principal import calling
from service.engine.quotas.allowance import Allowance, Allowances

caller: ContextVar[Callable[[], str]] = ContextVar("caller", default=lambda: "")
"""Says who calls, such as a connection: his steps are a flow, and what he has the server hold is
one sum."""

asked_model: ContextVar[str] = ContextVar("asked_model", default="none")
"""The model that a call turned out to be about, by its name and version; for metrics, so that it is
always one that is served."""

_FEW = 16  # steps at once of those who wait for each
_LATELY_S = 0.05


class Flow:
    """Callers that share one turn in the queues: those of one connection, and of one principal.

    Attributes:
        allowance: the principal's; ``None`` where nobody is asked who he is.
        pending_steps: that were taken and are not answered.
    """

    __slots__ = ("__weakref__", "_flows", "allowance", "pending_steps", "retry_s")

    def __init__(self, flows: "Flows", allowance: Allowance | None = None) -> None:
        self.allowance = allowance
        self.pending_steps = 0
        self.retry_s = 0.0  # the time up to which refused ones were told to come again
        self._flows = flows

    def __del__(self) -> None:
        """Nobody is left: what was never answered, by a fault of ours, is not waited for."""
        if self.pending_steps:
            self.answered(self.pending_steps)

    @property
    def party(self) -> "Allowance | Flow":
        """Whom the queues are fair between: the principal, or a flow of nobody's."""
        return self.allowance or self

    def charge(self, steps: int, *, pending: int | None = None) -> None:
        """Take steps of the principal's, see `Allowance.charge`.

        Raises:
            QuotaExceededError, BadInputError: they may not be taken.
        """
        if self.allowance is not None:
            self.allowance.charge(steps, pending=pending)

    def generating(self) -> AbstractContextManager[None]:
        """A generation or forecast is in progress, see `Allowance.generating`.

        Raises:
            QuotaExceededError: as many of the principal's are as may be.
        """
        return nullcontext() if self.allowance is None else self.allowance.generating()

    def take(self, steps: int) -> None:
        """Count steps that will be answered."""
        if not self.pending_steps:
            self._flows.add(self, steps)
        self.pending_steps += steps
        if self.allowance is not None:
            self.allowance.pending_steps += steps

    def answered(self, steps: int) -> None:
        """Count them no longer."""
        self.pending_steps -= steps
        if self.allowance is not None:
            self.allowance.answered(steps)
        if not self.pending_steps:
            self._flows.remove(self)

    @property
    def rivals(self) -> int:
        """Parties that have steps pending, this one's too."""
        return self._flows.active + (not self.party.pending_steps)

    def before(self, steps: int) -> int:
        """So many steps run, at most, until so many more of this flow have.

        They are its own and as many of each other flow of its principal's, but no more than those
        have, and with them as many of each other party.
        """
        own, steps = self.allowance, self.pending_steps + steps
        if own is not None:
            flows = own.active + (not self.pending_steps)
            steps = min(steps - self.pending_steps + own.pending_steps, steps * flows)
        return steps * self.rivals


class Flows:
    """The flows of one engine, by a name that says who shares one.

    Attributes:
        active: parties that have steps pending, see `Flow.party`.
    """

    def __init__(self, allowances: Allowances | None = None) -> None:
        self.active = 0
        self._allowances = allowances or Allowances()
        self._beside_s = -1.0  # when several parties had steps pending last
        self._few_s = -1.0  # when one with few steps came last while others had some pending
        self._named: WeakValueDictionary[tuple[str, Allowance | None], Flow] = WeakValueDictionary()
        self._nobodys = Flow(self)

    def add(self, flow: Flow, steps: int) -> None:
        """One has steps pending that had none."""
        own, others = flow.allowance, self.active
        if own is None:
            self.active += 1
        else:
            own.active += 1
            if own.active == 1:
                self.active += 1
            else:
                others += 1  # of its own
        if self.active > 1:
            self._beside_s = time.monotonic()
        if others > 0 and steps <= _FEW:
            self._few_s = time.monotonic()

    def remove(self, flow: Flow) -> None:
        """It has none any more."""
        own = flow.allowance
        if own is not None:
            own.active -= 1
            if own.active:
                return
        self.active -= 1

    def some_have_few(self) -> bool:
        """Whether lately one with few steps came beside others."""
        return time.monotonic() < self._few_s + _LATELY_S

    def are_shared(self) -> bool:
        """Whether lately several parties had steps pending."""
        return time.monotonic() < self._beside_s + _LATELY_S

    @property
    def current(self) -> Flow:
        """That of who calls, see `caller` and `calling`."""
        principal = calling.get()
        own = self._allowances.of(principal) if principal.name else None
        return self.of(caller.get()(), own)

    def of(self, name: str, allowance: Allowance | None = None) -> Flow:
        """The flow of a name; it lasts as long as somebody holds it. No name is nobody's."""
        if not name and allowance is None:
            return self._nobodys
        flow = self._named.get((name, allowance))
        if flow is None:
            flow = self._named[name, allowance] = Flow(self, allowance)
        return flow
