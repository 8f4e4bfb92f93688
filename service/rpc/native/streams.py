"""One Stream call: a reader, a writer, and the sessions between them."""

import asyncio
from collections import deque
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from cellar.v1 import session_pb2 as pb
from service.engine.engine import Engine
from service.engine.log.commit_log import CommitLog
from service.engine.streams.attachments import Attached
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.engine.work.columns import Ints
from service.engine.work.memory import Held
from service.errors import (
    BadInputError,
    CellarError,
    DrainingError,
    ReplyLostError,
    unapplied,
)
from service.rpc.call_log import CallLog
from service.rpc.gate import lasting
from service.rpc.native import decode, encode, frame_encoder, frame_layout

_REFUSED_STEP_S = 1e-6  # to read a step, refuse it and say so takes half of it
_REFUSALS_AT_ONCE = 2000  # so that a message, or a part of one, is made quickly
_RESERVED_BYTES = 2**16  # so that memory is not asked for with every step
_HEADS_BYTES = 64  # what a message has before its columns
_ATTACHED_BYTES = 20  # a channel, its position and its branch
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
        call_log: is told of rows that are refused.
        receive_timeout_s: how long its first message may take.
    """

    def __init__(
        self, engine: Engine, context: Any, call_log: CallLog, *, receive_timeout_s: float
    ) -> None:
        self._receive_timeout_s = receive_timeout_s
        self._engine = engine
        self._call_log = call_log
        self._context = context
        # Answers to single steps as they are, all else with the number of steps it answers.
        self._outbox: deque[bytes | tuple[Reply | bytes, int]] = deque()
        self._unwritten_steps = 0
        self._reserved_steps = 0  # that there is memory for
        self._log: CommitLog | None = None  # where the client wants to know what is durable later
        self._sent_group = self._told_group = 0  # by which all is durable, and the last known to be
        self._will_tell = False
        self._at_once = 1  # so many are reserved together
        self._spare = 0  # of them that may lie idle
        self._stream: SessionStream | None = None
        self._no_room: CellarError | None = None
        self._part_bytes = engine.settings.part_bytes - _HEADS_BYTES
        self._refusals_at_once = frame_encoder.row_errors_in(self._part_bytes, _REFUSALS_AT_ONCE)
        self._all_put = False
        self._writer_waits: asyncio.Future[None] | None = None  # for something to write
        self._progress = asyncio.Event()  # something was answered or written
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._draining = asyncio.Event()
        self._over: CellarError | None = None
        call = lasting.get()
        if call is not None:
            call.when_over(self._end)
        if engine.draining:
            self._draining.set()

    def drain(self) -> None:
        """Read nothing more; end once what is queued has been answered."""
        self._draining.set()

    def _end(self, error: CellarError) -> None:
        """As `drain`, where the caller may not go on."""
        self._over = error
        self._draining.set()

    def _why_over(self) -> CellarError:
        return self._over or _draining_error()

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
            ends = (reader, writer, draining, self._broken)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._check()
            refusal = reader.exception() if reader.done() else None
            reader.cancel()
            await asyncio.wait((reader,))  # what it has read is queued, or refused
            await self._answer_all(stream, writer, refusal)
            if refusal is not None:
                raise refusal
            if draining.done():
                raise self._why_over()
        finally:
            for task in (reader, draining):
                task.cancel()
            try:
                await asyncio.gather(reader, draining, return_exceptions=True)
            finally:  # which a client that goes away at this moment breaks off
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
                self._check()
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

    def break_off(self, error: CellarError) -> None:
        """End at once, whether or not the client reads what it was sent."""
        if not self._broken.done():
            self._broken.set_exception(error)
            self._broken.exception()  # somebody has looked at it, whatever ends the call first
            self._progress.set()

    def _check(self) -> None:
        if self._broken.done():
            self._broken.result()

    async def _start(self) -> SessionStream:
        request = await self._read_first()
        if request is grpc.aio.EOF or request.WhichOneof("message") != "start":
            raise BadInputError("start", "the first message of a stream must be start")
        self._engine.check_ready()
        served = self._engine.registry.find(request.start.model, request.start.model_version)
        call = lasting.get()
        if call is not None:
            call.model = served.name
        outputs, sampling = decode.outputs(request.start.outputs)
        stream = SessionStream(
            self._engine,
            served,
            outputs=outputs,
            sampling=sampling,
            send=self._send,
            encode=frame_encoder.single_replies,
            break_off=self.break_off,
        )
        self._stream = stream
        log = self._engine.log
        if request.start.tell_durable and log is not None and log.tells_later:
            self._log = log
        started = pb.StreamStarted(
            model=served.name,
            model_version=served.version,
            outputs=encode.outputs(stream.outputs, request.start.outputs),
        )
        self._post(pb.StreamResponse(started=started))
        return stream

    async def _read_first(self) -> Any:
        reading = asyncio.create_task(self._context.read())
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait(
                (reading, draining),
                timeout=self._receive_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if draining.done() and not reading.done():
                raise self._why_over()
            if not reading.done():
                limit_s = self._receive_timeout_s
                raise BadInputError("start", f"it has not come within {limit_s:g} s")
            data = reading.result()
            return data if data is grpc.aio.EOF else _parsed(data)
        finally:
            reading.cancel()
            draining.cancel()

    async def _read(self, stream: SessionStream) -> None:
        limit = self._engine.settings.max_stream_steps
        self._at_once = max(1, _RESERVED_BYTES // stream.step_bytes)
        self._spare = 4 * self._at_once
        self._reserved_steps = self._at_once  # what is small is not counted
        rows = 1  # of the frame before
        while True:
            if stream.turned_away:  # who sends on regardless must not keep the server busy with it
                turned_away, stream.turned_away = stream.turned_away, 0
                own = stream.flow.allowance
                pause_s = turned_away * _REFUSED_STEP_S
                await asyncio.sleep(pause_s if own is None else own.pause(turned_away))
            waiting, has_room = stream.pending_steps + self._unwritten_steps, True
            is_reserved = waiting < self._reserved_steps <= waiting + self._spare
            if self._unwritten_steps > limit or not is_reserved:
                has_room = await self._room(stream)
            own = stream.flow.allowance
            if own is not None and own.active > 1 and self._engine.flows.are_shared():
                await own.turn(rows)
            data = await self._context.read()
            if data is grpc.aio.EOF:
                return
            if has_room and len(data) in frame_layout.LENGTHS:
                single = frame_layout.one_token(data)
                if single is not None and stream.submit_one(*single):
                    continue
            request = _parsed(data)
            match request.WhichOneof("message"):
                case "frame":
                    frame = request.frame
                    rows = len(frame.channels)
                    if has_room and len(frame.channels) == 1 and _submit_one(stream, frame):
                        continue
                    try:
                        await self._submit(stream, frame)
                    except BadInputError as error:
                        error.frame = frame.number  # those before it are answered, none behind it
                        raise
                case "attach":
                    result = await stream.attachments.attach(
                        request.attach.session_ids,
                        decode.integers(request.attach.channels),
                        open_sessions=request.attach.open,
                        branches=request.attach.branches,
                        idle_timeout_s=decode.seconds(request.attach, "idle_timeout"),
                        ephemeral=request.attach.ephemeral,
                    )
                    await self._post_answer("attached", result)
                case "detach":
                    channels = decode.integers(request.detach.channels)
                    gone = await stream.attachments.detach(channels, close=request.detach.close)
                    self._post_detached(np.sort(gone))
                case "reset":
                    channels = decode.integers(request.reset.channels)
                    await self._post_answer("reset", await stream.attachments.reset(channels))
                case "start":
                    raise BadInputError("start", "the stream was started already")
                case _:
                    raise BadInputError(
                        "message", "nothing is set: send attach, frame, reset or detach"
                    )

    async def _submit(self, stream: SessionStream, frame: pb.StreamFrame) -> None:
        """Queue a frame, or refuse its rows where there is no memory for it."""
        channels = decode.integers(frame.channels)
        steps = decode.column(frame.steps)
        inputs = decode.inputs(frame.inputs, stream.served.reader, self._engine.settings)
        count = max(len(inputs), len(channels))
        try:
            has_room = self._reserve(stream, count) or await self._room(stream, count)
        except asyncio.CancelledError:  # it was read, so it is answered
            stream.refuse(channels, steps, inputs, self._why_over(), number=frame.number)
            raise
        if not has_room:
            assert self._no_room is not None, "it says why"
            stream.refuse(channels, steps, inputs, self._no_room, number=frame.number)
            return
        positions = decode.column(frame.positions)
        try:
            await stream.submit_yielding(channels, steps, positions, inputs, number=frame.number)
        except CellarError:
            raise
        except Exception as fault:  # some of its rows may never be answered
            stream.break_off(fault)

    async def _room(self, stream: SessionStream, steps: int = 1) -> bool:
        """Wait until so many steps more may come; whether there is memory for them then.

        There may be none once everything is answered: nothing is left to wait for.
        """
        while True:
            has_room = self._reserve(stream, steps)
            if has_room and self._unwritten_steps <= self._engine.settings.max_stream_steps:
                return True
            if not (has_room or stream.pending_steps or self._unwritten_steps):
                return False
            self._progress.clear()
            await self._progress.wait()

    def _reserve(self, stream: SessionStream, steps: int) -> bool:
        """Hold memory for so many steps more, if there is room; without any, give it back."""
        waiting = stream.pending_steps + self._unwritten_steps + steps
        more = waiting - self._reserved_steps
        if more > 0 or more < -self._spare or not waiting:
            more = max(-(-more // self._at_once), 1 - self._reserved_steps // self._at_once)
            more *= self._at_once
            try:
                if more > 0:
                    stream.account.take(Held.STREAM, more * stream.step_bytes)
                else:
                    stream.account.give(Held.STREAM, -more * stream.step_bytes)
            except CellarError as error:
                self._no_room = error
                return False
            self._reserved_steps += more
        return True

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
                    for message in frame_encoder.replies(content, at_once=self._refusals_at_once):
                        await self._context.write(message)
                        self._progress.set()
                else:
                    await self._context.write(content)
                self._unwritten_steps -= steps
                self._progress.set()
            if self._all_put:
                return
            if self._reserved_steps > self._at_once and self._stream is not None:
                self._reserve(self._stream, 0)
            self._writer_waits = asyncio.get_running_loop().create_future()
            await self._writer_waits

    def _send(self, reply: Reply | bytes) -> None:
        if self._log is not None:
            self._sent_group, self._told_group = self._log.groups
            self._tell_later(self._log)
        if isinstance(reply, bytes):
            self._outbox.append(reply)
            self._unwritten_steps += 1
            self._wake_writer()
            return
        self._progress.set()
        if reply.refusals:
            self._call_log.rows_refused(reply.refusals)
        answers = len(reply.channels) if reply.counts is None else int(reply.counts.sum())
        self._put_out(reply, answers + len(reply.refusals))

    def _tell_later(self, log: CommitLog) -> None:
        if self._told_group < self._sent_group and not self._will_tell:
            self._will_tell = True
            log.tell_later(self._tell_durable)

    def _tell_durable(self) -> None:
        """Say what is durable, if no reply has said it."""
        self._will_tell = False
        log = self._log
        if log is None or self._all_put:
            return
        if self._told_group < self._sent_group <= log.durable:
            self._told_group = log.durable
            self._put_out(frame_encoder.durable(log.durable), 1)
        self._tell_later(log)

    async def _post_answer(self, kind: str, result: Attached) -> None:
        """Answer an attach or a reset: in one message, unless a client takes none that long."""
        answer, used = _answer(kind), 0
        rows = max(1, self._part_bytes // _ATTACHED_BYTES)
        for start in range(0, len(result.channels), rows):
            if start:
                self._post_rows(kind, answer)
                answer = _answer(kind)
            part = slice(start, start + rows)
            own = getattr(answer, kind)
            own.channels.extend(result.channels[part].tolist())
            own.branches.extend(result.branches[part].tolist())
            if kind == "attached":
                own.positions.extend(result.positions[part].tolist())
            used = _ATTACHED_BYTES * len(own.channels)
        self._call_log.rows_refused(result.refusals)
        for number, refusal in enumerate(result.refusals, start=1):
            error = frame_encoder.row_error(refusal)
            size = error.ByteSize() + 3  # with what goes before it
            if used + size > self._part_bytes:
                self._post_rows(kind, answer)
                answer, used = _answer(kind), 0
            getattr(answer, kind).errors.append(error)
            used += size
            if number % _REFUSALS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._post_rows(kind, answer)

    def _post_rows(self, kind: str, answer: pb.StreamResponse) -> None:
        own = getattr(answer, kind)
        self._post(answer, len(own.channels) + len(own.errors))

    def _post_detached(self, channels: Ints) -> None:
        rows = max(1, self._part_bytes // 4)
        for start in range(0, max(1, len(channels)), rows):
            part = channels[start : start + rows].tolist()
            self._post(pb.StreamResponse(detached=pb.StreamDetached(channels=part)), len(part))

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


def _answer(kind: str) -> pb.StreamResponse:
    """One that says nothing yet but its kind."""
    answer = pb.StreamResponse()
    getattr(answer, kind).SetInParent()
    return answer


def _parsed(data: bytes) -> pb.StreamRequest:
    try:
        return pb.StreamRequest.FromString(data)
    except DecodeError as error:
        raise BadInputError("message", f"it is no StreamRequest: {error}") from error
    except MemoryError as fault:
        raise unapplied(fault) from fault


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
