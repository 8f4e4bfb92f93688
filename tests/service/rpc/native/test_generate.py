"""The Generate call: clients that leave, and clients that do not read."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

import cellar.aio
from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc, values_pb2
from tests.service.rpc.conftest import Wire
from tests.service.rpc.native.test_sessions import open_session, refused, text


def request(session: str, **fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        session_id=session,
        sampling=values_pb2.Sampling(seed=3),
        **{"prompt": text("once upon"), "max_steps": 100_000, **fields},  # type: ignore[arg-type]
    )


async def position(wire: Wire, session: str) -> int:
    found = await wire.sessions.GetSession(pb.GetSessionRequest(session_id=session))
    return int(found.session.position)


async def still(wire: Wire, session: str) -> int:
    """Where a session stands once it moves no more."""
    before = -1
    while (now := await position(wire, session)) != before:
        before = now
        await asyncio.sleep(0.1)
    return now


async def test_a_client_that_leaves_stops_its_generation(wire: Wire) -> None:
    await open_session(wire)
    call = wire.sessions.Generate(request("s"))
    pieces = [await call.read() for _ in range(3)]
    call.cancel()
    async with asyncio.timeout(10):
        stopped = await still(wire, "s")
    assert pieces[-1].position <= stopped < 100_000
    reply = await wire.sessions.Step(
        pb.StepRequest(session_id="s", inputs=text("a"), position=stopped)
    )
    assert reply.position == stopped + 1, "the session is free to go on"
    assert wire.server.engine.registry.find("letters", 0).usage.pending_steps == 0


async def test_a_client_that_does_not_read_is_waited_for(wire: Wire) -> None:
    """What is held for it is bounded: by the transport's window, and a few thousand steps here."""
    narrow = [("grpc.http2.bdp_probe", 0)]  # else the window grows with what is sent
    address = f"127.0.0.1:{wire.server.port}"
    async with grpc.aio.insecure_channel(address, options=narrow) as channel:
        await hold_back(wire, session_pb2_grpc.SessionServiceStub(channel))


async def hold_back(wire: Wire, sessions: Any) -> None:
    await open_session(wire, session="slow")
    await open_session(wire, session="quick")
    slow = sessions.Generate(request("slow", max_steps=60_000))
    async with asyncio.timeout(20):
        held = await still(wire, "slow")
    quick = [piece async for piece in wire.sessions.Generate(request("quick", max_steps=500))]
    assert quick[-1].position == 509
    assert held < 60_000
    pieces = [piece async for piece in slow]
    assert sum(len(piece.tokens) for piece in pieces) == 60_000
    at = 9
    for piece in pieces:
        assert len(piece.text) == len(piece.tokens)
        at += len(piece.tokens)
        assert piece.position == at
    assert pieces[-1].finish_reason == pb.FINISH_REASON_LENGTH
    told = "".join(piece.text for piece in pieces)
    assert told.startswith("".join(piece.text for piece in quick))


async def test_a_session_that_is_closed_ends_its_generation(wire: Wire) -> None:
    await open_session(wire)
    call = wire.sessions.Generate(request("s"))
    reading = asyncio.ensure_future(anext(aiter(call)))
    assert (await reading).text
    closed = await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="s"))

    async def read_all() -> None:
        async for piece in call:
            assert piece.position >= 9

    await refused(read_all(), grpc.StatusCode.NOT_FOUND, "SESSION_CLOSED")
    assert closed.position > 9


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 50])
async def test_a_step_repeats_the_last_generated_one(wire: Wire, steps: int) -> None:
    await open_session(wire)
    pieces = [piece async for piece in wire.sessions.Generate(request("s", max_steps=steps))]
    told = "".join(piece.text for piece in pieces)
    assert len(told) == steps
    again = pb.StepRequest(session_id="s", inputs=text(told[-1]), position=8 + steps)
    reply = await wire.sessions.Step(again)
    assert (reply.replayed, reply.position) == (True, 9 + steps)
    again.inputs.text = "z" if told[-1] != "z" else "y"
    await refused(wire.sessions.Step(again), grpc.StatusCode.INVALID_ARGUMENT, "STEP_CONFLICT")


@pytest.mark.parametrize("then", ["settles", "closes", "resets", "steps", "waits", "deadline"])
async def test_a_client_that_left_goes_on_from_what_was_written(wire: Wire, then: str) -> None:
    """Under the branch that it knows, or under none."""
    for reads in range(6):
        await open_session(wire)
        asked = pb.GetSessionRequest(session_id="s")
        old = (await wire.sessions.GetSession(asked)).session.branch
        deadline_s = 0.02 if then == "deadline" else None
        call = wire.sessions.Generate(request("s", branch=old), timeout=deadline_s)
        pieces: list[pb.GenerateResponse] = []
        with suppress(grpc.aio.AioRpcError):
            pieces = [await call.read() for _ in range(reads)]
        if then == "waits":
            await asyncio.sleep(0.05)
        call.cancel()
        facts: dict[str, Any] = {"session_id": "s", "branch": old}
        if then == "closes":
            await wire.sessions.CloseSession(pb.CloseSessionRequest(**facts))
            continue
        if then == "resets":
            found = (await wire.sessions.ResetSession(pb.ResetSessionRequest(**facts))).session
            assert found.position == 0
        elif then == "steps":
            # Once the server has heard of it: before that it competes with the generation.
            shard = wire.server.engine.registry.find("letters", 0).shards[0]
            while any(each is not None for each in shard.feedback._calls):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            step = pb.StepRequest(session_id="s", inputs=text("a"))
            reply = await wire.sessions.Step(step)
            assert reply.position > (pieces[-1].position if pieces else 0)
            found = (await wire.sessions.GetSession(asked)).session
            assert (found.position, found.branch) == (reply.position, reply.branch)
        else:
            settle = pb.GetSessionRequest(settle=True, **facts)
            found = (await wire.sessions.GetSession(settle)).session
            assert found.position >= (pieces[-1].position if pieces else 0)
            again = (await wire.sessions.GetSession(settle)).session
            assert (again.position, again.branch) == (found.position, found.branch)
        reply = await wire.sessions.Step(
            pb.StepRequest(
                session_id="s", inputs=text("a"), position=found.position, branch=found.branch
            )
        )
        assert reply.position == found.position + 1
        await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id="s"))


@pytest.mark.parametrize("leaves", ["closes", "goes on", "ends"])
async def test_our_client_takes_the_branch_that_the_session_goes_back_to(
    wire: Wire, leaves: str
) -> None:
    moved = 0
    async with cellar.aio.connect(f"127.0.0.1:{wire.server.port}") as client:
        for reads in range(8):
            session = await client.session("letters")
            before = session.branch
            generation = session.generate("once", max_steps=100_000)
            for _ in range(reads):
                piece = await anext(generation)
            if leaves == "ends":
                await session.close()
                continue
            if leaves == "closes":
                await generation.close()
                assert session.position >= (piece.position if reads else 0)
            prediction = await session.step("a")
            assert prediction.position == session.position
            moved += session.branch != before
            assert (await session.refresh()).branch == session.branch
            await session.close()
    assert moved or leaves == "ends", "else nothing was tried"
