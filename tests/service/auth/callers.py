"""Calls that come from somebody."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.auth.principal import Grant, Principal, Quota, Role, calling


def principal(name: str, *roles: Role, **quota: float) -> Principal:
    """One who steps, or has other roles."""
    granted = frozenset(roles or (Role.STEP,))
    return Principal(name, Grant(roles=granted, quota=Quota(**quota)))  # type: ignore[arg-type]


@contextmanager
def called_by(who: Principal) -> Iterator[Principal]:
    """What is called in here, this principal calls."""
    token = calling.set(who)
    try:
        yield who
    finally:
        calling.reset(token)
