"""Principals: whom calls come from, and what each may do. Knows nothing of tokens or gRPC."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from service.errors import PermissionDeniedError


class Role(StrEnum):
    """What kind of calls a principal may make.

    Attributes:
        STEP: sessions of its own, whatever is done with them, and predictions.
        READ: what the server tells of itself: provenance of models, metrics, reflection.
        ADMIN: everything, and to list and close the sessions of all.
    """

    STEP = "step"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much one principal may have; ``None``: as much as the server's limits leave to anybody.

    Attributes:
        max_sessions: that are open at once.
        max_steps_per_s: steps in a second, over time.
        max_pending_steps: steps that are taken and not answered, at once.
        max_waiting_bytes: what it has the server hold, see `BufferMemory`.
        max_idle_timeout_s: the longest that one of its sessions may be idle.
        max_generations: generations and forecasts at once.
    """

    max_sessions: int | None = None
    max_steps_per_s: float | None = None
    max_pending_steps: int | None = None
    max_waiting_bytes: int | None = None
    max_idle_timeout_s: float | None = None
    max_generations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a principal may do; it can change while the principal is at work.

    Attributes:
        roles: see `Role`.
        models: names of models, or patterns such as ``price-*``; ``None``: all.
        quota: see `Quota`.
    """

    roles: frozenset[Role] = frozenset(Role)
    models: tuple[str, ...] | None = None
    quota: Quota = field(default_factory=Quota)

    def has(self, *roles: Role) -> bool:
        """Whether it has one of these roles; an admin has all."""
        return Role.ADMIN in self.roles or not self.roles.isdisjoint(roles)

    def may_use(self, model: str) -> bool:
        """Whether it may know of a model."""
        return self.models is None or any(fnmatchcase(model, name) for name in self.models)


class Principal:
    """Whom calls come from.

    Attributes:
        name: never changes, and nobody else has it; empty: whoever calls where nobody is asked.
        grant: what it may do now.
    """

    __slots__ = ("grant", "name")

    def __init__(self, name: str, grant: Grant) -> None:
        self.name = name
        self.grant = grant


NOBODY = Principal("", Grant())
"""Who calls where there are no tokens: he may do everything."""

calling: ContextVar[Principal] = ContextVar("calling", default=NOBODY)
"""Whom the call comes from that is being served."""


def names(roles: Iterable[Role]) -> str:
    """Roles as people read them."""
    return " or ".join(sorted(roles))


def require_model(model: str) -> None:
    """Check that who calls may use the model of a session that is his own.

    Where a model is named, `Registry.find` knows none that the caller may not use. To look at such
    a session, and to close it, is left to its owner: it counts among his.

    Raises:
        PermissionDeniedError: he may not any more.
    """
    principal = calling.get()
    if principal.grant.models is not None and not principal.grant.may_use(model):
        raise PermissionDeniedError(
            f"model: '{principal.name}' may not use '{model}' any more: ask who runs the server"
        )
