"""One Stream call: a reader, a writer, and the sessions between them."""

import asyncio
from collections import deque
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from cellar.v1 import session_pb2 as pb
from service.engine.engine import Engine
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.errors import BadInputError, DrainingError, ReplyLostError
from service.rpc.native import decode, encode, frame_encoder, frame_layout

_REFUSALS_AT_ONCE = 2000  # so that a message, or a part of one, is made quickly
_LAST_WORDS_S = 30.0  # a stream that ends waits so long for its client to read one more message


class StreamCall:
    """Serves one stream from start to end.

    Replies are encoded by the writer, so that a reply that cannot be encoded ends its own stream
    and disturbs nobody else. A client that does not read them is not read from either: HTTP/2 flow
    control then holds it back.

    However it ends, the frames that were read are answered before its status. The writer is never
    cancelled: gRPC cannot send the status of a call whose first write was.

    Args:
        context: the call; read and write are used, not iterated.
    """

    def __init__(self, engine: Engine, context: Any) -> None:
        self._engine = engine
        self._context = context
        # Answers to single steps as they are, all else with the number of steps it answers.
        self._outbox: deque[bytes | tuple[Reply | bytes, int]] = deque()
        self._unwritten_steps = 0
        self._all_put = False
        self._writer_waits: asyncio.Future[None] | None = None  # for something to write
        self._progress = asyncio.Event()  # something was answered or written
        self._stream: SessionStream | None = None
        self._draining = asyncio.Event()
        if engine.draining:
            self._draining.set()

    def drain(self) -> None:
        """Read nothing more; end once what is queued has been answered."""
        self._draining.set()

    def cut(self) -> None:
        """Refuse what the device has not been given, and end."""
        self._draining.set()
        if self._stream is not None:
            self._stream.end(_draining_error())

    async def serve(self) -> None:
        """Read, step and answer until the client is done.

        Raises:
            CellarError: the client broke the protocol, or the server is shutting down.
            ReplyLostError: the client has read nothing for long; what is not written is dropped.
        """
        # At once, and not with the first message: the status can be sent from here on, even if the
        # client never reads that message.
        await self._context.send_initial_metadata(())
        self._stream = stream = await self._start()
        reader = asyncio.create_task(self._read(stream))
        writer = asyncio.create_task(self._write())
        writer.add_done_callback(self._written)
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((reader, writer, draining), return_when=asyncio.FIRST_COMPLETED)
            refusal = reader.exception() if reader.done() else None
            reader.cancel()
            await self._answer_all(stream, writer, refusal)
            if refusal is not None:
                raise refusal
            if draining.done():
                raise _draining_error()
        finally:
            for task in (reader, draining):
                task.cancel()
            await asyncio.gather(reader, draining, return_exceptions=True)
            stream.end()
            self._outbox.clear()
            self._end_writer()

    async def _answer_all(
        self, stream: SessionStream, writer: asyncio.Task[None], refusal: BaseException | None
    ) -> None:
        """Write what becomes of all frames that were read."""
        while not writer.done():
            if not stream.pending_steps:
                self._end_writer()
            self._progress.clear()
            try:
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._progress.wait()
            except TimeoutError:
                if self._writer_waits is None:  # it is the client that we wait for, not the device
                    why = "the stream ended" if refusal is None else refusal
                    raise ReplyLostError(
                        f"{why}; the client has read nothing for {_LAST_WORDS_S:g} s, and "
                        f"{self._unwritten_steps} answers are dropped: ask where its sessions are"
                    ) from refusal
        writer.result()

    def _end_writer(self) -> None:
        """Let the writer end with what there is to write."""
        self._all_put = True
        self._wake_writer()

    def _written(self, writer: asyncio.Task[None]) -> None:
        self._progress.set()
        if not writer.cancelled():
            writer.exception()  # has been looked at: nobody else does where the client is gone

    async def _start(self) -> SessionStream:
        request = await self._read_first()
        if request is grpc.aio.EOF or request.WhichOneof("message") != "start":
            raise BadInputError("start", "the first message of a stream must be start")
        self._engine.check_ready()
        served = self._engine.registry.find(request.start.model, request.start.model_version)
        outputs, sampling = decode.outputs(request.start.outputs)
        stream = SessionStream(
            self._engine,
            served,
            outputs=outputs,
            sampling=sampling,
            send=self._send,
            encode=frame_encoder.single_replies,
        )
        started = pb.StreamStarted(model=served.name, model_version=served.version)
        self._post(pb.StreamResponse(started=started))
        return stream

    async def _read_first(self) -> Any:
        reading = asyncio.create_task(self._context.read())
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise _draining_error()
            data = reading.result()
            return data if data is grpc.aio.EOF else _parsed(data)
        finally:
            reading.cancel()
            draining.cancel()

    async def _read(self, stream: SessionStream) -> None:
        limit = self._engine.settings.max_stream_steps
        while True:
            while stream.pending_steps + self._unwritten_steps > limit:
                self._progress.clear()
                await self._progress.wait()
            data = await self._context.read()
            if data is grpc.aio.EOF:
                return
            if len(data) in frame_layout.LENGTHS:
                single = frame_layout.one_token(data)
                if single is not None and stream.submit_one(*single):
                    continue
            request = _parsed(data)
            match request.WhichOneof("message"):
                case "frame":
                    frame = request.frame
                    if len(frame.channels) == 1 and _submit_one(stream, frame):
                        continue
                    try:
                        await stream.submit_yielding(
                            decode.integers(frame.channels),
                            decode.column(frame.steps),
                            decode.column(frame.positions),
                            decode.inputs(frame.inputs, stream.served.reader),
                            number=frame.number,
                        )
                    except BadInputError as error:
                        error.frame = frame.number  # those before it are answered, none behind it
                        raise
                case "attach":
                    result = await stream.attachments.attach(
                        request.attach.session_ids,
                        decode.integers(request.attach.channels),
                        open_sessions=request.attach.open,
                    )
                    answer = encode.attached(result)
                    for start in range(0, len(result.refusals), _REFUSALS_AT_ONCE):
                        some = result.refusals[start : start + _REFUSALS_AT_ONCE]
                        answer.attached.errors.extend(map(frame_encoder.row_error, some))
                        await asyncio.sleep(0)
                    self._post(answer, len(request.attach.channels))
                case "detach":
                    channels = decode.integers(request.detach.channels)
                    gone = await stream.attachments.detach(channels, close=request.detach.close)
                    detached = pb.StreamDetached(channels=np.sort(gone).tolist())
                    self._post(pb.StreamResponse(detached=detached), len(gone))
                case "start":
                    raise BadInputError("start", "the stream was started already")
                case _:
                    raise BadInputError("message", "nothing is set: send attach, frame or detach")

    async def _write(self) -> None:
        while True:
            while self._outbox:
                letter = self._outbox.popleft()
                if isinstance(letter, bytes):
                    await self._context.write(letter)
                    self._unwritten_steps -= 1
                    self._progress.set()
                    continue
                content, steps = letter
                if isinstance(content, Reply):
                    for message in frame_encoder.replies(content, at_once=_REFUSALS_AT_ONCE):
                        await self._context.write(message)
                        self._progress.set()
                else:
                    await self._context.write(content)
                self._unwritten_steps -= steps
                self._progress.set()
            if self._all_put:
                return
            self._writer_waits = asyncio.get_running_loop().create_future()
            await self._writer_waits

    def _send(self, reply: Reply | bytes) -> None:
        if isinstance(reply, bytes):
            self._outbox.append(reply)
            self._unwritten_steps += 1
            self._wake_writer()
            return
        self._progress.set()
        answers = len(reply.channels) if reply.counts is None else int(reply.counts.sum())
        self._put_out(reply, answers + len(reply.refusals))

    def _post(self, message: pb.StreamResponse, steps: int = 1) -> None:
        self._put_out(message.SerializeToString(), max(1, steps))  # no message is free

    def _put_out(self, content: Reply | bytes, steps: int) -> None:
        self._outbox.append((content, steps))
        self._unwritten_steps += steps
        self._wake_writer()

    def _wake_writer(self) -> None:
        waits = self._writer_waits
        if waits is not None:
            self._writer_waits = None
            if not waits.done():
                waits.set_result(None)


def _parsed(data: bytes) -> pb.StreamRequest:
    try:
        return pb.StreamRequest.FromString(data)
    except DecodeError as error:
        raise BadInputError("message", f"it is no StreamRequest: {error}") from error


def _submit_one(stream: SessionStream, frame: pb.StreamFrame) -> bool:
    """Queue a frame of one step as a single step, if it is a good one."""
    if frame.steps or len(frame.positions) > 1:
        return False
    step = decode.one_step(frame.inputs, stream.served.reader)
    if step is None:
        return False
    position = min(frame.positions[0], decode.LARGEST) if frame.positions else None
    return stream.submit_one(frame.channels[0], position, step, frame.number)


def _draining_error() -> DrainingError:
    return DrainingError("the server is shutting down: attach to another, or try again")
