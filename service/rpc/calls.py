"""What every call has in common: errors become statuses, and calls are counted."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import structlog

from service.errors import CellarError, InternalError
from service.metrics import Metrics
from service.rpc import status

_log = structlog.get_logger(__name__)
_SERIALISED = frozenset({"Stream"})  # methods that read and write messages as bytes


class Calls:
    """Registers services with every handler wrapped, unary and streaming alike.

    It stands in for the server where services are added to it. An interceptor would do the same
    for every call anew.

    Args:
        server: where the wrapped handlers go.
    """

    def __init__(self, server: grpc.aio.Server, metrics: Metrics) -> None:
        self._server = server
        self._requests = metrics.requests
        self._counters: dict[tuple[str, status.Code], Any] = {}  # looking one up is slow

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Leave it to the next one, which is called with the same handlers."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register a service's handlers by name; all are plain coroutines."""
        wrapped = {method: self._wrapped(handler, method) for method, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, wrapped)

    def _count(self, method: str, code: status.Code) -> None:
        counter = self._counters.get((method, code))
        if counter is None:
            counter = self._counters[method, code] = self._requests.labels(method, code.name)
        counter.inc()

    def _wrapped(self, handler: Any, method: str) -> Any:
        kind = "_".join("stream" if many else "unary" for many in handler[:2])
        inner = getattr(handler, kind)

        async def call(request: Any, context: Any) -> Any:
            code = status.OK
            try:
                return await inner(request, context)
            except CellarError as error:
                code = status.code_of(error)
                await status.abort(context, error)
            except asyncio.CancelledError:
                code = status.CANCELLED
                raise
            except grpc.aio.InternalError:  # gRPC's: what was written reaches nobody any more
                code = status.CANCELLED
                raise asyncio.CancelledError from None
            except Exception as fault:  # ours: the caller learns nothing of its inside
                code = status.INTERNAL
                _log.exception("call failed", method=method, error=type(fault).__name__)
                await status.abort(context, InternalError("internal error; see the server's log"))
            finally:
                self._count(method, code)

        if method in _SERIALISED:
            handler = handler._replace(request_deserializer=None, response_serializer=None)
        return handler._replace(**{kind: call})
