"""Server reflection, whose streams do not hold up the server's end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.errors import CellarError
from service.rpc import status
from service.rpc.calls import parsed, register
from service.rpc.gate import lasting


class ReflectionServicer(reflection.aio.ReflectionServicer):
    """``grpc.reflection`` whose calls, open for as long as a tool likes, end when told to."""

    def __init__(self, service_names: tuple[str, ...]) -> None:
        super().__init__(service_names)
        self._ending = asyncio.Event()
        self.running = 0  # calls

    def end_calls(self) -> None:
        """Let every call end."""
        self._ending.set()

    async def ServerReflectionInfo(self, request_iterator: Any, unused_context: Any) -> Any:
        """See the service's definition; requests come as bytes."""
        call, over = lasting.get(), asyncio.Event()
        if call is not None:
            call.when_over(lambda _: over.set())
        requests = self._until_ended(request_iterator, over)
        answers: Any = super().ServerReflectionInfo(_parsed(requests), unused_context)
        self.running += 1
        try:
            async for answer in answers:
                yield answer
            if call is not None and call.error is not None:
                raise call.error
        except CellarError as error:
            await status.abort(unused_context, error)
        finally:
            self.running -= 1

    async def _until_ended(
        self, requests: AsyncIterator[Any], over: asyncio.Event
    ) -> AsyncIterator[Any]:
        ends = [asyncio.create_task(event.wait()) for event in (self._ending, over)]
        try:
            while True:
                reading = asyncio.ensure_future(anext(requests))
                try:
                    await asyncio.wait((reading, *ends), return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done():
                        return
                    yield reading.result()
                except StopAsyncIteration:
                    return
                finally:
                    reading.cancel()
        finally:
            for ending in ends:
                ending.cancel()


def servicer_of(service_names: tuple[str, ...]) -> ReflectionServicer:
    """The servicer, which lists these services and itself."""
    return ReflectionServicer((*service_names, reflection.SERVICE_NAME))


def add_to(server: grpc.aio.Server, servicer: ReflectionServicer, *, is_guarded: bool) -> None:
    """Register the service; where there is a `Gate`, behind it."""
    reply: Any = reflection_pb2.ServerReflectionResponse
    method: Any = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo, response_serializer=reply.SerializeToString
    )
    handlers = {"ServerReflectionInfo": method}
    generic = grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, handlers)
    server.add_generic_rpc_handlers((generic,))
    register(server, reflection.SERVICE_NAME, handlers, is_guarded=is_guarded)


async def _parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """What gRPC would parse, and answer with UNKNOWN and a traceback in the log if it cannot."""
    request: Any = reflection_pb2.ServerReflectionRequest
    async for data in requests:
        yield parsed(data, request.FromString, "ServerReflectionRequest")
