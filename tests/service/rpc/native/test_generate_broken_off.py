"""A generation that is broken off, over the wire and on a real disk, and the server after it."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import open_session, text

PROMPT = "once upon"


def request(session: str, most: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        session_id=session,
        prompt=text(PROMPT),
        max_steps=most,
        sampling=values_pb2.Sampling(seed=3),
    )


async def stands(wire: Wire, session: str) -> int:
    asked = pb.GetSessionRequest(session_id=session, settle=True)
    return int((await wire.sessions.GetSession(asked)).session.position)


async def step(wire: Wire, session: str) -> Any:
    outputs = values_pb2.Outputs(raw=True)
    return await wire.sessions.Step(
        pb.StepRequest(session_id=session, inputs=text("a"), outputs=outputs)
    )


@pytest.mark.parametrize("way", ["cancelled", "deadline", "drained"])
async def test_it_stands_where_one_that_read_no_further_does(
    repository: Path, tmp_path: Path, way: str
) -> None:
    store: dict[str, Any] = {"store": f"lmdb:{tmp_path / 'store'}", "drain_timeout_s": 0.5}
    async with serving(repository, **store) as wire:
        await open_session(wire)
        call = wire.sessions.Generate(
            request("s", 100_000), timeout=0.1 if way == "deadline" else None
        )
        last = 0
        with suppress(grpc.aio.AioRpcError):
            for _ in range(100 if way == "deadline" else 3):
                last = (await call.read()).position
        await asyncio.sleep(0.05)  # it reads on, until what was written fills the connection
        if way == "cancelled":
            call.cancel()
        if way != "drained":
            last = max(last, await stands(wire, "s"))
    async with serving(repository, **store) as wire:
        at = await stands(wire, "s")
        assert at == last if way != "drained" else at >= last
        await open_session(wire, session="other")
        written = [
            piece async for piece in wire.sessions.Generate(request("other", at - len(PROMPT)))
        ]
        assert written[-1].position == at
        mine, other = await step(wire, "s"), await step(wire, "other")
        assert mine.position == at + 1
        assert mine.predictions == other.predictions
