"""What every call has in common: errors become statuses, and calls are counted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog

from service.errors import CellarError, InternalError
from service.metrics import Metrics
from service.rpc import status

_log = structlog.get_logger(__name__)
_OURS = "/cellar.v1."
_SERIALISED = frozenset({"Stream"})  # methods that write messages as bytes


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps our own methods, unary and streaming alike; all are plain coroutines."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.requests
        self._handlers: dict[str, Any] = {}  # by path: wrapping one is slow
        self._counters: dict[tuple[str, grpc.StatusCode], Any] = {}  # looking one up is slow

    def _count(self, method: str, code: grpc.StatusCode) -> None:
        counter = self._counters.get((method, code))
        if counter is None:
            counter = self._counters[method, code] = self._requests.labels(method, code.name)
        counter.inc()

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        """Wrap the handler of one call."""
        path: str = handler_call_details.method
        known = self._handlers.get(path)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not path.startswith(_OURS):
            return handler
        handler = self._handlers[path] = self._wrapped(handler, path.rpartition("/")[2])
        return handler

    def _wrapped(self, handler: Any, method: str) -> Any:
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        inner = next(
            found
            for found in (
                handler.unary_unary,
                handler.unary_stream,
                handler.stream_unary,
                handler.stream_stream,
            )
            if found is not None
        )

        async def call(request: Any, context: Any) -> Any:
            code = grpc.StatusCode.OK
            try:
                return await inner(request, context)
            except CellarError as error:
                code = status.code_of(error)
                await status.abort(context, error)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as fault:  # ours: the caller learns nothing of its inside
                code = grpc.StatusCode.INTERNAL
                _log.exception("call failed", method=method, error=type(fault).__name__)
                await status.abort(context, InternalError("internal error; see the server's log"))
            finally:
                self._count(method, code)

        return make(
            call,
            request_deserializer=handler.request_deserializer,
            response_serializer=None if method in _SERIALISED else handler.response_serializer,
        )


_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
