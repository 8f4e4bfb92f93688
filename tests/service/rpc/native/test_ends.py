"""However a call is left, it ends with its status, and the session stands where it was told."""

import asyncio
import random
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc, values_pb2
from service import server as server_module
from service.errors import BadInputError, DrainingError, ReplyLostError
from service.metrics import Metrics
from service.rpc.call_log import CallLog
from service.rpc.native import streams
from service.rpc.native.streams import StreamCall
from service.settings import Settings
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_generate import request as generation
from tests.service.rpc.native.test_sessions import open_session, refused, text
from tests.service.rpc.native.test_streams import Stream, tokens

SOON_S = 20.0
"""Far more than any end takes; what hangs, hangs for good."""
BAD = pb.StreamRequest(
    frame=pb.StreamFrame(channels=[0], steps=[1], inputs=values_pb2.Inputs(text="ab"), number=77)
)


def start(**outputs: Any) -> pb.StreamRequest:
    return pb.StreamRequest(
        start=pb.StreamStart(model="letters", outputs=values_pb2.Outputs(**outputs))
    )


def attach(*names: str, open: bool = False) -> pb.StreamRequest:
    channels = list(range(len(names)))
    return pb.StreamRequest(attach=pb.StreamAttach(session_ids=names, channels=channels, open=open))


def frame(channel: int, position: int, count: int = 1) -> pb.StreamRequest:
    return pb.StreamRequest(
        frame=pb.StreamFrame(
            channels=[channel],
            steps=[count],
            positions=[position],
            inputs=tokens(*[1] * count),
            number=position,
        )
    )


async def settled(wire: Wire, session: str) -> int:
    """Where a session stands once nothing that was sent before moves it any more."""
    asked = pb.GetSessionRequest(session_id=session, settle=True)
    return int((await wire.sessions.GetSession(asked)).session.position)


async def check_goes_on(wire: Wire, session: str, position: int) -> None:
    reply = await wire.sessions.Step(
        pb.StepRequest(session_id=session, inputs=text("b"), position=position)
    )
    assert (reply.position, reply.replayed) == (position + 1, False)


class Call:
    """A call as ``grpc.aio`` has it: its status cannot be sent once its first write was cancelled.

    Its client takes no message until ``reads`` is set.
    """

    def __init__(self, *requests: pb.StreamRequest) -> None:
        self.requests = [each.SerializeToString() for each in requests]
        self.reads = asyncio.Event()
        self.says_last = asyncio.Event()  # its last word comes then
        self.says_last.set()
        self.written: list[pb.StreamResponse] = []
        self.metadata_sent = False
        self.spoilt = False

    async def send_initial_metadata(self, metadata: object) -> None:
        assert metadata == ()
        self.metadata_sent = True

    async def read(self) -> Any:
        await asyncio.sleep(0)
        if len(self.requests) == 1:
            await self.says_last.wait()
        return self.requests.pop(0) if self.requests else grpc.aio.EOF

    async def write(self, message: bytes) -> None:
        try:
            await self.reads.wait()
        except asyncio.CancelledError:
            self.spoilt = True
            raise
        self.metadata_sent = True
        self.written.append(pb.StreamResponse.FromString(message))


def begun(wire: Wire, call: Call) -> asyncio.Task[None]:
    """The stream, which is being served."""
    log = CallLog(Settings(), Metrics().refusals)
    return asyncio.create_task(
        StreamCall(wire.server.engine, call, log, receive_timeout_s=60).serve()
    )


async def test_a_write_under_way_ends_before_the_status(wire: Wire) -> None:
    call = Call(start(), attach("a", open=True), frame(0, 0, 9), BAD, frame(0, 9))
    serving = begun(wire, call)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not serving.done(), "its client has not read that the stream was started"
    assert call.metadata_sent, "the status could be sent all the same"
    call.reads.set()
    with pytest.raises(BadInputError) as caught:
        await asyncio.wait_for(serving, SOON_S)
    assert not call.spoilt
    assert caught.value.metadata["frame"] == "77"
    kinds = [message.WhichOneof("message") for message in call.written]
    assert kinds == ["started", "attached", "reply"], "what came before is answered"
    assert list(call.written[-1].reply.positions) == [9]


async def test_a_call_that_is_cancelled_as_it_ends_leaves_nothing(wire: Wire) -> None:
    """Its client goes away, and the connection with it: gRPC says so twice."""
    call = Call(start(), attach("a", open=True), frame(0, 9), frame(0, 0))
    call.reads.set()
    call.says_last.clear()
    serving = begun(wire, call)
    async with asyncio.timeout(SOON_S):
        while len(call.written) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
    serving.cancel()
    await asyncio.sleep(0)
    assert not serving.done(), "it waits for its reader"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    memory, metrics = wire.server.engine.memory, wire.server.metrics
    assert memory.used == 0
    for name in ("cellar_streams", "cellar_attached_channels"):
        assert metrics.registry.get_sample_value(name, {"model": "letters/2"}) == 0, name


async def test_a_client_that_never_reads_is_given_up(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_LAST_WORDS_S", 0.1)
    call = Call(start(), attach("a", open=True), frame(0, 0, 9), BAD)
    call.says_last.clear()
    serving = begun(wire, call)
    async with asyncio.timeout(SOON_S):
        while "a" not in wire.server.engine.directory.sessions:  # noqa: ASYNC110
            await asyncio.sleep(0)
        while await settled(wire, "a") < 9:
            pass
    call.says_last.set()
    with pytest.raises(ReplyLostError, match=r"frame.inputs.*nothing for 0.1 s.* 3 answers"):
        await asyncio.wait_for(serving, SOON_S)
    assert not call.spoilt
    call.reads.set()  # the write that was under way ends, and nothing follows it
    for _ in range(20):
        await asyncio.sleep(0)
    assert [message.WhichOneof("message") for message in call.written] == ["started"]
    assert await settled(wire, "a") == 9


@pytest.mark.parametrize("behind", [0, 1, 5, 50])
async def test_a_stream_with_a_bad_frame_always_ends(wire: Wire, behind: int) -> None:
    async def one() -> None:
        call = wire.sessions.Stream()
        for message in (start(), BAD, *[frame(0, 0)] * behind):
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                break  # it has ended already
        messages = [message async for message in call]
        raise AssertionError(f"no status behind {len(messages)} messages")

    for _ in range(40):
        ended = asyncio.wait_for(one(), SOON_S)
        await refused(ended, grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")


async def test_a_stream_whose_client_does_not_read_ends_when_it_does(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP/2, whose window is full: the status comes behind what is in it."""
    monkeypatch.setattr(streams, "_LAST_WORDS_S", 0.2)
    narrow = [("grpc.http2.bdp_probe", 0)]
    address = f"127.0.0.1:{wire.server.port}"
    calls = wire.server._sessions._streams
    async with grpc.aio.insecure_channel(address, options=narrow) as channel:
        stubs = session_pb2_grpc.SessionServiceStub(channel)
        for reads_later in (True, False):
            call = stubs.Stream()
            await call.write(start(raw=True, every_step=True))
            await call.write(attach("a", open=True))
            for number in range(15):
                await call.write(frame(0, 300 * number, 300))
            async with asyncio.timeout(SOON_S):
                while await settled(wire, "a") < 15 * 300:
                    pass
                assert len(calls) == 1
                await call.write(BAD)
                while calls:  # noqa: ASYNC110 (the server tells nobody)
                    await asyncio.sleep(0.01)
            if reads_later:
                positions = []
                with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012
                    async for message in call:
                        positions += message.reply.positions
                assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                assert "frame.inputs: 2 steps" in str(caught.value.details())
                assert positions == [300 * (number + 1) for number in range(len(positions))]
            else:
                call.cancel()
            await check_goes_on(wire, "a", 15 * 300)
            await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="a"))


async def test_a_drain_that_runs_out_of_time_tells_each_call_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_LAST_WORDS_S", SOON_S - 0.1)
    async with serving(repository, drain_timeout_s=SOON_S, inline_run_s=0) as wire:
        engine = wire.server.engine
        await open_session(wire, session="g")
        call = wire.sessions.Generate(generation("g"))
        pieces: list[pb.GenerateResponse] = [await call.read()]
        stream = await Stream(wire).begin()
        await stream.attach([0], ["a"])
        shard = engine.registry.find("letters", 0).shards[0]
        stopping = asyncio.create_task(wire.server.stop())

        async def read_all() -> None:
            while True:
                pieces.append(await call.read())

        await refused(read_all(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
        at = int(shard.table.position[engine.directory.find("g").slot])
        assert pieces[-1].position == at, "each step that was read is told"
        await refused(stream.call.read(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await stopping


async def test_rows_that_a_drain_leaves_no_time_for_are_refused(wire: Wire) -> None:
    call = Call(start(), attach("a", open=True), *[frame(0, 900 * n, 900) for n in range(3)])
    call.reads.set()
    stream = StreamCall(
        wire.server.engine, call, CallLog(Settings(), Metrics().refusals), receive_timeout_s=60
    )
    ending = asyncio.create_task(stream.serve())
    letters = wire.server.engine.registry.find("letters", 0)
    async with asyncio.timeout(SOON_S):
        while call.requests or not letters.usage.pending_steps:  # noqa: ASYNC110
            await asyncio.sleep(0)
    stream.cut()
    with pytest.raises(DrainingError):
        await asyncio.wait_for(ending, SOON_S)
    replies = [message.reply for message in call.written if message.HasField("reply")]
    errors = [error for reply in replies for error in reply.errors]
    applied = [position for reply in replies for position in reply.positions]
    assert len(errors) + len(applied) == 3
    assert {error.reason for error in errors} == {"DRAINING"}
    at = await settled(wire, "a")
    told = {error.position for error in errors if error.HasField("position")}
    assert told <= {at} == {max([0, *applied])}


class Cut:
    """One round of the dice: what is left in the middle, and how."""

    def __init__(self, wire: Wire, dice: random.Random, name: str) -> None:
        self.wire, self.dice, self.name = wire, dice, name
        self.told = 0
        self.code = grpc.StatusCode.UNKNOWN

    async def play(self) -> None:
        kind = self.dice.choice([self.generation, self.stream, self.stream, self.step])
        await kind()
        at = await settled(self.wire, self.name)
        assert at >= self.told
        if self.code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT):
            assert at == self.told, f"{self.code}: all that was applied is told"
        await check_goes_on(self.wire, self.name, at)

    async def ended(self, call: Any, reading: Awaitable[None]) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await asyncio.wait_for(reading, SOON_S)
        self.code = await asyncio.wait_for(call.code(), SOON_S)

    def deadline(self) -> float | None:
        return self.dice.choice([None, None, 0.001, 0.01, 0.05])

    async def generation(self) -> None:
        steps = self.dice.choice([3, 300, 100_000])
        timeout = self.deadline()
        leave_after = self.dice.randint(0, 4) if timeout is None else 10**6
        call = self.wire.sessions.Generate(generation(self.name, max_steps=steps), timeout=timeout)

        async def read() -> None:
            count = 0
            async for piece in call:
                self.told = piece.position
                count += 1
                if count > leave_after:
                    call.cancel()

        await self.ended(call, read())

    async def step(self) -> None:
        asked = pb.StepRequest(session_id=self.name, inputs=text("a" * 900), position=0)
        call = self.wire.sessions.Step(asked, timeout=self.deadline())
        if self.dice.random() < 0.5:
            for _ in range(self.dice.randint(0, 20)):
                await asyncio.sleep(0)
            call.cancel()

        async def read() -> None:
            self.told = (await call).position

        await self.ended(call, read())

    async def stream(self) -> None:
        timeout = self.deadline()
        call = self.wire.sessions.Stream(timeout=timeout)
        count = self.dice.choice([0, 1, 5, 30])
        size = self.dice.choice([1, 1, 3, 60])
        way = self.dice.choice(["bad frame", "half-close", "cancel", "detach"])
        messages = [start(), attach(self.name)]
        messages += [frame(0, size * n, size) for n in range(count)]
        if way == "bad frame":
            messages += [BAD] + [frame(0, size * count, size)] * self.dice.choice([0, 1, 7])
        elif way == "detach":
            messages += [pb.StreamRequest(detach=pb.StreamDetach(channels=[0]))]

        async def write() -> None:
            for message in messages:
                await call.write(message)
            if way in ("half-close", "detach"):
                await call.done_writing()
            elif way == "cancel":
                for _ in range(self.dice.randint(0, 30)):
                    await asyncio.sleep(0)
                call.cancel()

        async def read() -> None:
            async for message in call:
                assert not message.reply.errors
                self.told = max([self.told, *message.reply.positions])

        writing = asyncio.create_task(write())
        await self.ended(call, read())
        await asyncio.wait((writing,))
        if not writing.cancelled():
            writing.exception()
        if self.code is grpc.StatusCode.INVALID_ARGUMENT:
            assert self.told == size * count, "the frames before the bad one are answered"


@pytest.mark.parametrize("inline_run_s", [0.0025, 0.0])
async def test_calls_that_are_cut_at_random(repository: Path, inline_run_s: float) -> None:
    dice = random.Random(5)
    async with serving(repository, inline_run_s=inline_run_s, chunk_steps=16) as wire:
        for round_ in range(12):
            cuts = [Cut(wire, dice, f"{round_}.{n}") for n in range(8)]
            for cut in cuts:
                await open_session(wire, session=cut.name)
            await asyncio.gather(*(cut.play() for cut in cuts))
            for cut in cuts:
                closed = pb.CloseSessionRequest(session_id=cut.name)
                await wire.sessions.CloseSession(closed)
        assert not wire.server._sessions._streams
        assert wire.server.engine.registry.find("letters", 0).usage.pending_steps == 0
        (requests,) = wire.server.metrics.requests.collect()
        codes = {sample.labels["code"] for sample in requests.samples if sample.value}
    # The server's word: of calls on which it wrote for too long, grpc.aio says INTERNAL.
    assert codes == {"OK", "CANCELLED", "INVALID_ARGUMENT"}
