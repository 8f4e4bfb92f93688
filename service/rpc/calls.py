"""What every call has in common: errors become statuses, and calls are counted."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from service.engine.work.memory import caller
from service.errors import BadInputError, CellarError, InternalError, unapplied
from service.metrics import Metrics
from service.rpc import status
from service.rpc.accept_queue import AcceptQueue, calls_of_newest_server

_log = structlog.get_logger(__name__)
_CHEAP = frozenset({"GetSession", "CloseSession", "ListModels", "GetModel"})  # as a refusal is
_SERIALISED = frozenset({"Stream"})  # methods that read and write messages as bytes


class Calls:
    """Registers services with every handler wrapped, unary and streaming alike.

    It stands in for the server where services are added to it. An interceptor would do the same
    for every call anew.

    Args:
        server: where the wrapped handlers go.
    """

    def __init__(self, server: grpc.aio.Server, metrics: Metrics, *, max_queue_s: float) -> None:
        self._server = server
        self._accept_queue = AcceptQueue(
            max_queue_s,
            running=lambda: self.running,
            started=calls_of_newest_server(),
            show=metrics.waiting_calls.set,
        )
        self._requests = metrics.requests
        self._counters: dict[tuple[str, status.Code], Any] = {}  # looking one up is slow
        self.running = 0

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
        is_work = method not in _CHEAP
        # Read here and not by gRPC, which would tell the caller of UNKNOWN exceptions.
        parse = None if method in _SERIALISED else handler.request_deserializer

        async def call(request: Any, context: Any) -> Any:
            code = status.OK
            self.running += 1
            try:
                if is_work:
                    self._accept_queue.check()
                caller.set(context.peer)
                if parse is not None:
                    request = _parsed(request, parse, method)
                return await inner(request, context)
            except CellarError as error:
                code = status.code_of(error)
                await status.abort(context, error)
            except asyncio.CancelledError:
                code = status.CANCELLED
                raise
            except Exception as fault:  # ours: the caller learns nothing of its inside
                code = status.INTERNAL
                _log.exception("call failed", method=method, error=type(fault).__name__)
                await status.abort(context, InternalError("internal error; see the server's log"))
            finally:
                self.running -= 1
                self._count(method, code)

        if method in _SERIALISED:
            handler = handler._replace(response_serializer=None)
        return handler._replace(request_deserializer=None, **{kind: call})


def _parsed(data: bytes, parse: Callable[[bytes], Any], method: str) -> Any:
    try:
        return parse(data)
    except DecodeError as error:
        raise BadInputError("message", f"it is no request of {method}: {error}") from error
    except MemoryError as fault:
        raise unapplied(fault) from fault
