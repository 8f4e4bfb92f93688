"""One Stream call: a reader, a writer, and the sessions between them."""

import asyncio
from typing import Any

import grpc
import numpy as np

from cellar.v1 import session_pb2 as pb
from service.engine.engine import Engine
from service.engine.stream import Reply, SessionStream
from service.errors import BadInputError, DrainingError
from service.rpc import decode, encode

# Rows a stream may have in the queue before the server stops reading from it: HTTP/2 flow
# control then holds the client back.
WINDOW_ROWS = 16_384


class StreamCall:
    """Serves one stream from start to end.

    Args:
        engine: where the sessions live.
        context: the call; read and write are used, not iterated.
    """

    def __init__(self, engine: Engine, context: Any) -> None:
        self._engine = engine
        self._context = context
        self._outbox: asyncio.Queue[pb.StreamResponse | None] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._draining = asyncio.Event()
        self._stream: SessionStream | None = None

    def drain(self) -> None:
        """Read nothing more; end once what is queued has been answered."""
        self._draining.set()

    async def serve(self) -> None:
        """Read, step and answer until the client is done.

        Raises:
            CellarError: the client broke the protocol, or the server is shutting down.
        """
        self._stream = await self._start()
        tasks = [
            asyncio.create_task(self._read(self._stream)),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._draining.wait()),
        ]
        reader, writer, draining = tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            if reader.done():
                reader.result()
            else:
                reader.cancel()
            while self._stream.pending_rows:
                self._answered.clear()
                await self._answered.wait()
            self._outbox.put_nowait(None)
            await writer
            if draining.done():
                raise DrainingError("the server is shutting down: attach to another, or try again")
        finally:
            for task in tasks:
                task.cancel()
            self._stream.end()

    async def _start(self) -> SessionStream:
        request = await self._context.read()
        if request is grpc.aio.EOF or request.WhichOneof("message") != "start":
            raise BadInputError("start", "the first message of a stream must be start")
        self._engine.check_ready()
        served = self._engine.catalog.find(request.start.model, request.start.model_version)
        outputs, sampling = decode.outputs(request.start.outputs)
        stream = SessionStream(
            self._engine, served, outputs=outputs, sampling=sampling, send=self._send
        )
        started = pb.StreamStarted(model=served.name, model_version=served.version)
        self._outbox.put_nowait(pb.StreamResponse(started=started))
        return stream

    async def _read(self, stream: SessionStream) -> None:
        while True:
            request = await self._context.read()
            if request is grpc.aio.EOF:
                return
            match request.WhichOneof("message"):
                case "frame":
                    frame = request.frame
                    stream.submit(
                        decode.integers(frame.channels),
                        decode.column(frame.steps),
                        decode.column(frame.positions),
                        decode.inputs(frame.inputs, stream.served.reader),
                        frame=frame.number,
                    )
                case "attach":
                    result = await stream.attach(
                        request.attach.session_ids,
                        decode.integers(request.attach.channels),
                        open_sessions=request.attach.open,
                    )
                    self._outbox.put_nowait(encode.attached(result))
                case "detach":
                    channels = decode.integers(request.detach.channels)
                    gone = stream.detach(channels, close=request.detach.close)
                    detached = pb.StreamDetached(channels=np.sort(gone).tolist())
                    self._outbox.put_nowait(pb.StreamResponse(detached=detached))
                case "start":
                    raise BadInputError("start", "the stream was started already")
                case _:
                    raise BadInputError("message", "nothing is set: send attach, frame or detach")
            while stream.pending_rows > WINDOW_ROWS:
                self._answered.clear()
                await self._answered.wait()

    async def _write(self) -> None:
        while (message := await self._outbox.get()) is not None:
            await self._context.write(message)

    def _send(self, reply: Reply) -> None:
        self._outbox.put_nowait(encode.reply(reply))
        self._answered.set()
