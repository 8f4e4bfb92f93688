"""What every call has in common: it is known while it runs, counted, and told its errors."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from service.auth.access import Access
from service.engine.work.flow import asked_model, caller
from service.errors import (
    BadInputError,
    CellarError,
    DrainingError,
    InternalError,
    OverloadedError,
    unapplied,
)
from service.metrics import Metrics
from service.metrics.distributions import COUNTED_AT_ONCE, Distribution
from service.rpc import status
from service.rpc.accept_queue import AcceptQueue, calls_of_newest_server
from service.rpc.call_log import CallLog
from service.rpc.gate import Gate, lasting
from service.rpc.permissions import ROLES

_log = structlog.get_logger(__name__)
_HEALTH = frozenset({"Check", "List", "Watch"})  # asked for as long as there is a server
_CHEAP = _HEALTH | {"GetSession", "CloseSession", "ListModels", "GetModel"}  # as a refusal is
_MOST_OPEN_BYTES = 1024  # of a request that anybody may send: it may be kept as long as he likes
_MOST_STRANGERS = 32  # such requests that may come at once: until then each is as large as it likes
_LASTING = frozenset({"Stream", "Watch"})  # as long as their client likes
_SERIALISED = frozenset({"Stream"})  # methods that read and write messages as bytes
_NO_TIME = DrainingError("the server is shutting down, and had no time to finish this")
_MOMENT_S = 2.0
_UNKNOWN = "unknown"  # for methods that a client makes up


class Calls:
    """Wraps every handler of the services that are added to it, unary and streaming alike.

    It stands in for the server where services are added to it. An interceptor would do the same
    for every call anew.

    Args:
        max_queue_s: see `AcceptQueue`.
        others: tells how many calls run that do not pass here.
        receive_timeout_s: how long the request of a call may take to come.
        settle: waits until all that has happened to sessions may be told, if that takes time.
        log: what the log says of calls.
        access: who may call; ``None``: everybody.

    Attributes:
        log, receive_timeout_s: see above.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_queue_s: float,
        others: Callable[[], int],
        receive_timeout_s: float,
        settle: Callable[[], Awaitable[None]] | None = None,
        log: CallLog,
        access: Access | None = None,
    ) -> None:
        self.log = log
        self._gate = None
        if access is not None:
            self._gate = Gate(access, refusing=self._refusing, unknown=self._not_found())
        self._settle = settle
        self._requests = metrics.requests
        self._request_seconds = metrics.request_seconds
        self._counters: dict[tuple[str, status.Code], Any] = {}  # looking one up is slow
        self._seconds: dict[tuple[str, str, status.Code], Distribution] = {}  # and so is that
        self._services: dict[str, dict[str, Any]] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self.receive_timeout_s = receive_timeout_s
        self._arrivals = _Arrivals(receive_timeout_s)
        self._accept_queue = AcceptQueue(
            max_queue_s,
            # A call whose request is still coming waits for its client, and not for us.
            running=lambda: self.running + len(self._arrivals) + others(),
            show=self._show_waiting,
        )
        self._waiting_calls, self._waited_s = 0, 0.0
        metrics.waiting_calls.set_function(self._waiting)
        self._draining = False
        self._cut_off = False
        self._ended = asyncio.Event()

    # -- services -------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Leave it to the next one, which is called with the same handlers."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Wrap a service's handlers; all are plain coroutines."""
        for method in handlers:
            assert f"/{service}/{method}" in ROLES, f"permissions say nothing of {method}"
        self._services[service] = {
            method: self._wrapped(handler, method) for method, handler in handlers.items()
        }

    def add_gate_to(self, server: grpc.aio.Server) -> None:
        """Let nobody into a server that was just made without a token, if they are asked for.

        Call it before anything else is added. Handlers that are registered by their method would
        go before it: see `Gate`.
        """
        if self._gate is not None:
            server.add_generic_rpc_handlers((self._gate,))

    @property
    def is_guarded(self) -> bool:
        """Whether calls need tokens."""
        return self._gate is not None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register all services with a server that was just made, after everything else."""
        self._accept_queue.started = calls_of_newest_server()
        for service, handlers in self._services.items():
            generic = grpc.method_handlers_generic_handler(service, handlers)
            server.add_generic_rpc_handlers((generic,))
            register(server, service, handlers, is_guarded=self.is_guarded)
        unknown = _Unknown(lambda: self._count(_UNKNOWN, status.UNIMPLEMENTED))
        server.add_generic_rpc_handlers((unknown,))

    async def end_stray(self, context: Any) -> None:
        """End a call of a path that nobody serves; who has no token is not told that."""
        details = _Stray(invocation_metadata=context.invocation_metadata())
        refusal = None if self._gate is None else self._gate.service(details)
        await (refusal or self._not_found()).stream_unary(None, context)

    def _show_waiting(self, calls: int) -> None:
        self._waiting_calls, self._waited_s = calls, time.monotonic()

    def _waiting(self) -> int:
        """Calls that waited a moment ago: it is looked only while many come."""
        return self._waiting_calls if time.monotonic() < self._waited_s + _MOMENT_S else 0

    async def _once_settled(self, error: CellarError) -> CellarError:
        """An error that tells of a session, once what it tells will not be lost any more."""
        assert self._settle is not None, "who calls this has looked"
        try:
            await self._settle()
        except CellarError as failed:
            return failed
        return error

    def cut_slow(self) -> None:
        """Cut off calls whose request has not come in time; call it once a second or so."""
        self._arrivals.cut_slow()

    # -- calls that run -------------------------------------------------------------------

    def drain(self) -> None:
        """Those that run are the last: what comes from now on is refused, and not waited for."""
        self._draining = True

    @property
    def running(self) -> int:
        """Calls that run: from when their request is read until their reply is sent."""
        return len(self._running)

    async def ended(self) -> None:
        """Wait until none runs; call `drain` first."""
        while self._running:
            self._ended.clear()
            await self._ended.wait()

    async def cut_off(self, *, within_s: float) -> None:
        """Tell those that still run that there is no time left for them."""
        self._cut_off = True
        for task in self._running:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), within_s)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.remove(task)
        if not self._running:
            self._ended.set()

    async def _last_word(self, method: str, context: Any, error: CellarError) -> None:
        """End a call with an error, unless its client is gone."""
        try:
            await self._refuse(method, context, error)
        except grpc.aio.AbortError:  # how `abort` ends
            raise
        except Exception as fault:
            raise asyncio.CancelledError from fault

    # -- one call -------------------------------------------------------------------------

    def _count(self, method: str, code: status.Code) -> None:
        counter = self._counters.get((method, code))
        if counter is None:
            counter = self._counters[method, code] = self._requests.labels(method, code.name)
        counter.inc()

    def _note(self, method: str, model: str, code: status.Code, seconds: float) -> None:
        found = self._seconds.get((method, model, code))
        if found is None:
            found = self._request_seconds(method, model, status.class_of(code))
            self._seconds[method, model, code] = found
        found.noted.append(seconds)
        if len(found.noted) >= COUNTED_AT_ONCE:
            found.count_noted()

    async def _refuse(self, method: str, context: Any, error: CellarError) -> NoReturn:
        """End a call with an error."""
        self.log.refused(method, error)
        await status.abort(context, error)

    def _refusing(self, path: str, error: CellarError) -> Any:
        """The handler of a call that the gate refuses; of its requests nothing is read."""
        method, code = path.rpartition("/")[2] if path in ROLES else _UNKNOWN, status.code_of(error)

        async def refuse(_: Any, context: Any) -> None:
            began_s, peer = time.monotonic(), context.peer()
            self._accept_queue.note()
            self._count(method, code)
            self.log.refused(method, error, peer=peer)
            if self.log.tells_each:
                self.log.ended(
                    method, code.name, began_s=began_s, request=None, reply=None, context=context
                )
            await status.abort(context, error)

        handler: Any = grpc.stream_unary_rpc_method_handler(refuse)
        return handler

    def _not_found(self) -> Any:
        """The handler of calls that nobody serves: it ends them as gRPC itself does."""

        async def end(_: Any, context: Any) -> None:
            self._count(_UNKNOWN, status.UNIMPLEMENTED)
            await status.abort_unknown(context)

        handler: Any = grpc.stream_unary_rpc_method_handler(end)
        return handler

    def _wrapped(self, handler: Any, method: str) -> Any:
        kind = "_".join("stream" if many else "unary" for many in handler[:2])
        inner = getattr(handler, kind)
        is_work, is_counted = method not in _CHEAP, method not in _HEALTH
        is_timed, is_open = method not in _LASTING, method in _HEALTH
        # Read here and not by gRPC, which would tell the caller of UNKNOWN exceptions; the requests
        # of a stream are read by its own handler.
        read = None if handler.request_streaming else handler.request_deserializer
        name = f"{method}Request"
        log, is_told = self.log, self.log.tells_each and is_counted
        arrivals = self._arrivals

        async def call(request: Any, context: Any) -> Any:
            if read is not None:
                try:
                    request = await arrivals.read(context, is_open=is_open)
                    if is_open and len(request) > _MOST_OPEN_BYTES:
                        raise BadInputError("message", f"it has {len(request):,} bytes")
                except CellarError as error:
                    self._count(method, status.code_of(error))
                    await self._refuse(method, context, error)
            code, reply, began_s = status.OK, None, time.monotonic()
            if is_counted and not self._draining:
                task: Any = asyncio.current_task()
                self._running.add(task)
                task.add_done_callback(self._forget)  # when the reply is sent, or cannot be
            try:
                if is_work and not self._draining:
                    self._accept_queue.check()
                caller.set(context.peer)
                if read is not None:
                    request = parsed(request, read, name)
                reply = await inner(request, context)
                if not is_counted:
                    code = status.of(context)
                return reply
            except CellarError as error:
                code = status.code_of(error)
                if self._settle is not None and error.retry_after_s is None:
                    error = await self._once_settled(error)
                    code = status.code_of(error)
                await self._refuse(method, context, error)
            except asyncio.CancelledError:
                code = status.CANCELLED
                over = lasting.get()
                if over is not None and over.error is not None:
                    code = status.code_of(over.error)
                    await self._last_word(method, context, over.error)
                if not self._cut_off:
                    raise
                code = status.code_of(_NO_TIME)
                await self._last_word(method, context, _NO_TIME)
            except grpc.aio.InternalError:  # gRPC's: what was written reaches nobody any more
                code = status.CANCELLED
                raise asyncio.CancelledError from None
            except Exception as fault:  # ours: the caller learns nothing of its inside
                code = status.INTERNAL
                _log.exception("call failed", method=method, error=type(fault).__name__)
                ours = InternalError("internal error; see the server's log")
                await self._refuse(method, context, ours)
            finally:
                self._count(method, code)
                if is_timed:
                    self._note(method, asked_model.get(), code, time.monotonic() - began_s)
                if is_told:
                    log.ended(
                        method,
                        code.name,
                        began_s=began_s,
                        request=request,
                        reply=reply,
                        context=context,
                    )

        # For gRPC every method is one that streams, so that none of its requests is read there.
        handler = handler._replace(
            request_streaming=True, request_deserializer=None, **{kind: None}
        )
        kind = f"stream_{kind.rpartition('_')[2]}"
        if method in _SERIALISED:
            handler = handler._replace(response_serializer=None)
        return handler._replace(**{kind: call})


class _Arrivals:
    """Reads the requests of unary calls, and knows those that are still coming.

    Not gRPC: it reads for as long as the client likes, and keeps what has come.

    Args:
        timeout_s: how long one may take to come.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        # When each began, in that order; a call is the task that gRPC runs it in.
        self._coming: dict[asyncio.Task[Any], float] = {}
        self._strangers: dict[asyncio.Task[Any], None] = {}  # those of methods open to all
        self._pushed: set[asyncio.Task[Any]] = set()  # of these, those that were in the way

    def __len__(self) -> int:
        """How many are still coming."""
        return len(self._coming)

    async def read(self, context: Any, *, is_open: bool = False) -> Any:
        """The one request of a call, as bytes.

        Args:
            context: the call.
            is_open: anybody may make it, so that few wait at once: whoever comes then takes the
                place of whoever has let us wait for longest.

        Raises:
            BadInputError: it has not come in time, or there is none.
            OverloadedError: its place was taken.
        """
        task: Any = asyncio.current_task()
        if is_open:
            while len(self._strangers) >= _MOST_STRANGERS:
                slowest = next(iter(self._strangers))
                del self._strangers[slowest]
                self._pushed.add(slowest)
                self._cut(slowest)
            self._strangers[task] = None
        self._coming[task] = self._clock()
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if task in self._coming:  # by the client
                raise
            task.uncancel()
            if task in self._pushed:
                raise OverloadedError("others came, and this request let us wait") from None
            reason = f"it has not come within {self._timeout_s:g} s"
            raise BadInputError("message", reason) from None
        finally:
            self._coming.pop(task, None)
            self._strangers.pop(task, None)
            self._pushed.discard(task)
        if data is grpc.aio.EOF:
            raise BadInputError("message", "there is none")
        return data

    def cut_slow(self) -> None:
        """Cut off those that have taken too long; call it once a second or so."""
        last_s = self._clock() - self._timeout_s
        for task, began_s in list(self._coming.items()):
            if began_s > last_s:
                break
            self._cut(task)

    def _cut(self, task: "asyncio.Task[Any]") -> None:
        if self._coming.pop(task, None) is not None:  # else it is cut already
            task.cancel()


def parsed(data: bytes, read: Callable[[bytes], Any], name: str) -> Any:
    """A message, read here and not by gRPC.

    Raises:
        BadInputError: the bytes are no message of that name.
        OverloadedError: there is no memory for it.
    """
    try:
        return read(data)
    except DecodeError as error:
        raise BadInputError("message", f"it is no {name}: {error}") from error
    except MemoryError as fault:
        raise unapplied(fault) from fault


def register(
    server: grpc.aio.Server, service: str, handlers: Mapping[str, Any], *, is_guarded: bool
) -> None:
    """Have gRPC know the paths of methods; where there is a `Gate`, without what would pass it."""
    found: dict[str, Any] = dict.fromkeys(handlers) if is_guarded else dict(handlers)
    server.add_registered_method_handlers(service, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stray:
    """What `Gate` looks at, of a call whose path is not looked at."""

    invocation_metadata: Any
    method: str = ""


class _Unknown(grpc.GenericRpcHandler):
    """Hears of every call that nobody handles, and leaves it to gRPC."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    def service(self, handler_call_details: Any) -> None:
        """See `grpc.GenericRpcHandler.service`."""
        self._heard()
