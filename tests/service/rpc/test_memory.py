"""Clients that do not read, and what the server holds for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ByteSize

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc, values_pb2
from service.engine.work.memory import Held
from service.server import Server
from service.settings import Settings
from tests.service.rpc.native.test_sessions import refused

MEMORY = 2**20
ROWS = 256
RAW = values_pb2.Outputs(raw=True)


@asynccontextmanager
async def serving(repository: Path) -> AsyncIterator[Server]:
    settings = Settings(
        models=repository,
        port=0,
        metrics_port=None,
        max_sessions=1024,
        buffer_memory=ByteSize(MEMORY),
        drain_timeout_s=5,
    )
    server = Server(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Any]:
    """A connection of its own: to the server, another caller."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield session_pb2_grpc.SessionServiceStub(channel)


async def hoard(sessions: Any, name: str) -> tuple[Any, int]:
    """A stream that sends until it is not read from any more, and reads nothing."""
    call = sessions.Stream()
    channels = list(range(ROWS))
    await call.write(pb.StreamRequest(start=pb.StreamStart(model="letters", outputs=RAW)))
    names = [f"{name}{channel}" for channel in channels]
    attach = pb.StreamAttach(session_ids=names, channels=channels, open=True)
    await call.write(pb.StreamRequest(attach=attach))
    tokens = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[1] * ROWS))
    for sent in range(1, 100_000):
        frame = pb.StreamFrame(channels=channels, inputs=tokens, number=sent)
        writing = asyncio.ensure_future(call.write(pb.StreamRequest(frame=frame)))
        await asyncio.wait((writing,), timeout=1.0)
        if not writing.done():  # to cancel it would end the call
            return call, sent
        await writing  # or say how the call has ended
    raise AssertionError("everything was read")


async def step(sessions: Any, name: str, tokens: int = 1) -> pb.StepResponse:
    inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[1] * tokens))
    outputs = values_pb2.Outputs(raw=True, every_step=tokens > 1)
    request = pb.StepRequest(session_id=name, inputs=inputs, outputs=outputs)
    response: pb.StepResponse = await sessions.Step(request)
    return response


async def quiet(server: Server) -> None:
    """Wait until nothing is held."""
    async with asyncio.timeout(10):
        while server.engine.memory.used:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_client_that_does_not_read_holds_its_share_and_loses_nothing(
    repository: Path,
) -> None:
    async with serving(repository) as server, connected(server) as one, connected(server) as two:
        memory = server.engine.memory
        call, sent = await hoard(one, "h")
        assert 0 < memory.by_kind[Held.STREAM] <= MEMORY // 2
        await two.OpenSession(pb.OpenSessionRequest(model="letters", session_id="polite"))
        assert (await step(two, "polite")).position == 1
        assert (await step(two, "polite", 50)).position == 51
        answered: dict[int, int] = {}
        while sum(answered.values()) < sent * ROWS:
            reply = (await call.read()).reply
            answered[reply.frame] = answered.get(reply.frame, 0) + len(reply.channels)
        call.cancel()
        await two.CloseSession(pb.CloseSessionRequest(session_id="polite"))
        await quiet(server)


@pytest.mark.long
async def test_the_hoarder_ends_where_a_neighbour_needs_room(repository: Path) -> None:
    async with (
        serving(repository) as server,
        connected(server) as one,
        connected(server) as two,
        connected(server) as three,
    ):
        await three.OpenSession(pb.OpenSessionRequest(model="letters", session_id="polite"))
        calls = [(await hoard(one, "a"))[0], (await hoard(two, "b"))[0]]
        assert server.engine.memory.used > MEMORY * 3 // 4
        assert (await step(three, "polite", 1300)).position == 1300
        held = server.engine.memory.by_kind[Held.STREAM]
        assert MEMORY // 4 < held <= MEMORY // 2, "one of them has made room"
        for call in calls:
            call.cancel()
        await three.CloseSession(pb.CloseSessionRequest(session_id="polite"))
        await quiet(server)


async def test_streams_that_are_idle_hold_next_to_nothing(repository: Path) -> None:
    """Also after a burst: else some thousands of them would keep everybody else out."""
    async with serving(repository) as server, connected(server) as one:
        calls = []
        for number in range(24):
            call = one.Stream()
            await call.write(pb.StreamRequest(start=pb.StreamStart(model="letters", outputs=RAW)))
            attach = pb.StreamAttach(session_ids=[f"s{number}"], channels=[0], open=True)
            await call.write(pb.StreamRequest(attach=attach))
            inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[1] * 300))
            frame = pb.StreamFrame(channels=[0], steps=[300], inputs=inputs)
            await call.write(pb.StreamRequest(frame=frame))
            for _ in range(3):
                last = await call.read()
            assert list(last.reply.positions) == [300]
            calls.append(call)
        async with asyncio.timeout(10):
            while server.engine.memory.by_kind[Held.STREAM]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()


async def test_a_request_that_can_never_fit_is_no_matter_of_time(repository: Path) -> None:
    async with serving(repository) as server, connected(server) as one:
        await one.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a"))
        await refused(step(one, "a", 9000), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
        assert server.engine.memory.used == 0
        call = one.Stream()
        await call.write(pb.StreamRequest(start=pb.StreamStart(model="letters", outputs=RAW)))
        attach = pb.StreamAttach(session_ids=["a"], channels=[0])
        await call.write(pb.StreamRequest(attach=attach))
        for steps in (9000, 1):
            inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[1] * steps))
            frame = pb.StreamFrame(channels=[0], steps=[steps], inputs=inputs)
            await call.write(pb.StreamRequest(frame=frame))
        await call.read()
        await call.read()
        (error,) = (await call.read()).reply.errors
        assert (error.reason, error.position) == ("BAD_INPUT", 0)
        assert not error.HasField("retry_delay")
        assert list((await call.read()).reply.positions) == [1]


async def test_a_frame_that_waits_for_memory_is_answered_when_the_server_ends(
    repository: Path,
) -> None:
    async with serving(repository) as server, connected(server) as one:
        call, sent = await hoard(one, "h")
        stopping = asyncio.create_task(server.stop())
        answered: dict[int, int] = {}
        reasons: set[str] = set()

        async def read_all() -> None:
            while (message := await call.read()) is not grpc.aio.EOF:
                reply = message.reply
                if message.HasField("reply"):
                    rows = len(reply.channels) + len(reply.errors)
                    answered[reply.frame] = answered.get(reply.frame, 0) + rows
                    reasons.update(error.reason for error in reply.errors)

        await refused(read_all(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await stopping
        assert set(answered.values()) == {ROWS}
        assert list(answered) == list(range(1, len(answered) + 1)), "those that were read"
        assert len(answered) <= sent
        assert reasons == {"DRAINING"}, "one was read, and waited"
