"""Lets calls in by their tokens, before anything of them is read; ends them when that is over.

gRPC asks its handlers one after the other for the one that serves a call, when it knows the call's
path and metadata and nothing else. This is the first of them: what it refuses is read no further,
however long or slow.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import grpc

from service.auth.access import Access
from service.auth.authenticator import KnownToken
from service.auth.principal import Principal, Role, calling, names
from service.auth.principals import NOTHING
from service.errors import CellarError, PermissionDeniedError
from service.rpc.permissions import LASTING, OPEN, ROLES

_HEADER = "authorization"
_PORT = "grpc"
_ANYBODY = Principal("", NOTHING)  # who calls what is open to all


class Lasting:
    """A call that lasts, and how it ends when its caller may not make it any more.

    Attributes:
        model: the one that it uses, where that is known.
        error: why it ends, if it does.
    """

    __slots__ = ("_end", "_path", "_task", "_token", "error", "model")

    def __init__(self, task: "asyncio.Task[Any]", token: KnownToken, path: str) -> None:
        self.model: str | None = None
        self.error: CellarError | None = None
        self._task = task
        self._token = token
        self._path = path
        self._end: Callable[[CellarError], None] = self._cancel

    def when_over(self, end: Callable[[CellarError], None]) -> None:
        """Have this called then, once; else the task of the call is cancelled."""
        self._end = end

    def _cancel(self, error: CellarError) -> None:
        self._task.cancel()

    def check(self, access: Access) -> None:
        """End it, if its caller may not make it any more."""
        if self.error is not None:
            return
        principal = self._token.principal
        try:
            access.authenticator.recheck(self._token)
            _require_role(principal, self._path, ROLES[self._path])
            if self.model is not None and not principal.grant.may_use(self.model):
                raise PermissionDeniedError(f"model: '{principal.name}' may not use it any more")
        except CellarError as error:
            self.error = error
            self._end(error)


lasting: ContextVar[Lasting | None] = ContextVar("lasting", default=None)
"""The call that is being served, if it is one that lasts and had a token."""


class Gate(grpc.GenericRpcHandler):
    """Admits calls; a server that asks for tokens has one, before all other handlers.

    Those may be generic ones only: gRPC looks at handlers that are registered by their method
    before it looks at any generic one.

    Args:
        access: who may call.
        refusing: makes the handler of a call that is refused, of a path that may be unknown, and
            why.
        unknown: the handler of calls that nobody serves.
    """

    def __init__(
        self, access: Access, *, refusing: Callable[[str, CellarError], Any], unknown: Any
    ) -> None:
        self._access = access
        self._refusing = refusing
        self._unknown = unknown
        self._lasting: set[Lasting] = set()
        access.listen(self.look)

    def service(self, handler_call_details: Any) -> Any:
        """See `grpc.GenericRpcHandler.service`; ``None`` leaves the call to the others.

        It runs in the task of the call, so that what it says of who calls is known there.
        """
        path = handler_call_details.method
        roles = ROLES.get(path)
        if roles is OPEN:
            calling.set(_ANYBODY)
            return None
        headers = [
            value for key, value in handler_call_details.invocation_metadata if key == _HEADER
        ]
        try:
            token = self._access.authenticator.admit(headers, port=_PORT)
            calling.set(token.principal)  # who is refused is in the access log, too
            if roles is None:
                return self._unknown
            _require_role(token.principal, path, roles)
        except CellarError as error:
            return self._refusing(path, error)
        if path in LASTING:
            self._note(token, path)
        return None

    def look(self) -> None:
        """End calls that may not go on; call it every second or so."""
        for each in tuple(self._lasting):
            each.check(self._access)

    def _note(self, token: KnownToken, path: str) -> None:
        task = asyncio.current_task()
        assert task is not None, "a call is a task"
        call = Lasting(task, token, path)
        self._lasting.add(call)
        task.add_done_callback(lambda _: self._lasting.discard(call))
        lasting.set(call)


def _require_role(principal: Principal, path: str, roles: frozenset[Role]) -> None:
    """Check that a principal has one of the roles that a method wants.

    Raises:
        PermissionDeniedError: it has none.
    """
    if not principal.grant.has(*roles):
        has = names(principal.grant.roles).replace(" or ", " and ") or "none"
        method = path.rpartition("/")[2]
        raise PermissionDeniedError(
            f"{method} wants the role {names(roles)}; '{principal.name}' has {has}"
        )
