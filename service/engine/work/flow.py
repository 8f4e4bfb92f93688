"""Whose steps they are, where the queues are fair between callers."""

from weakref import WeakValueDictionary


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

    def take(self, steps: int) -> None:
        """Count steps that will be answered."""
        if not self.pending_steps:
            self._flows.active += 1
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
        nobodys: of work whose caller is not known.
    """

    def __init__(self) -> None:
        self.active = 0
        self._named: WeakValueDictionary[str, Flow] = WeakValueDictionary()
        self.nobodys = Flow(self)

    def of(self, name: str) -> Flow:
        """The flow of a name; it lasts as long as somebody holds it."""
        flow = self._named.get(name)
        if flow is None:
            flow = self._named[name] = Flow(self)
        return flow
