"""How the server is: what gRPC's health service, /livez and /readyz tell, in one place.

Knows no protocol.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from service.engine.engine import Engine

_BEAT_S = 1.0
# How long the event loop may stand still until the server counts as stuck. A collection of garbage,
# or sessions of a store that are placed, take seconds at most.
STILL_S = 15.0


class Phase(Enum):
    """Where a server is in its life."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """How one version of a model is.

    Attributes:
        version: ``None`` where what is in the repository has none.
        reason: why it is unavailable.
    """

    name: str
    version: int | None
    status: Literal["loading", "served", "unavailable"]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the server was when its event loop turned last.

    Attributes:
        reason: why it is not ready; empty where it is.
        models: by name and version. One that is unavailable does not make a server unready that
            serves others.
        at: when that was, in seconds of the clock.
    """

    phase: Phase
    reason: str
    models: tuple[ModelState, ...]
    at: float

    @property
    def is_ready(self) -> bool:
        """Whether it takes new work."""
        return self.phase is Phase.SERVING


class Health:
    """Looks at an engine on its event loop, and tells any thread.

    Attributes:
        state: what was seen last.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []
        self.state = self._look()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have something called, on the event loop, when the phase is another one."""
        self._listeners.append(listener)

    def look(self) -> None:
        """See how the engine is now; call it on the event loop when that has changed."""
        before, self.state = self.state, self._look()
        if self.state.phase is not before.phase:
            for listener in self._listeners:
                listener()

    async def beat(self) -> None:
        """Look every second, so that it is seen when the event loop stands still."""
        while True:
            self.look()
            await asyncio.sleep(_BEAT_S)

    @property
    def fault(self) -> str | None:
        """Why the process cannot serve any more, if so; for any thread."""
        state = self.state
        if state.phase is Phase.FAILED:
            return state.reason
        still_s = self._clock() - state.at
        if still_s > STILL_S:
            return f"the event loop has stood still for {still_s:.0f} s"
        return None

    def _look(self) -> State:
        engine = self._engine
        if engine.failed.is_set():
            phase, reason = Phase.FAILED, f"{engine.failure}, and the server ends"
        elif engine.draining:
            phase, reason = Phase.DRAINING, "the server is shutting down"
        elif engine.loading:
            phase, reason = Phase.LOADING, "the server is loading its models"
        else:
            phase, reason = Phase.SERVING, ""
        return State(phase=phase, reason=reason, models=_models(engine), at=self._clock())


def _models(engine: Engine) -> tuple[ModelState, ...]:
    registry = engine.registry
    found = [
        ModelState(name=name, version=version, status="loading")
        for name, version in registry.awaited
    ]
    found += [
        ModelState(name=served.name, version=served.version, status="served")
        for served in registry.all()
        if (served.name, served.version) not in registry.awaited
    ]
    found += [
        ModelState(
            name=model.name, version=model.version, status="unavailable", reason=model.reason
        )
        for model in registry.unavailable()
    ]
    return tuple(sorted(found, key=lambda model: (model.name, model.version or 0)))
