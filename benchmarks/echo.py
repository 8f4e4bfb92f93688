"""The ceiling of transport: a ``grpc.aio`` server that does nothing but answer.

Raw bytes through generic handlers on uvloop, ``read`` and ``write`` instead of iterators: the
fastest that ``grpc.aio`` was seen to be.

Usage: ``python -m benchmarks.echo REPLY_BYTES``; prints ``{"port": ...}`` and serves until killed.
"""

import sys
from typing import Any

import grpc
import uvloop

from benchmarks.pipe import say

SERVICE = "cellar.bench.Echo"


async def serve(reply_bytes: int) -> None:
    reply = bytes(reply_bytes)

    async def call(_request: bytes, _context: Any) -> bytes:
        return reply

    async def stream(_requests: Any, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            await context.write(reply)

    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 10_000)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Call": grpc.unary_unary_rpc_method_handler(call),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say({"port": port})
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
