"""The asynchronous client: the same rules, and many frames in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import cellar
from tests.client.conftest import QUICK
from tests.client.fake import FakeServer, Refusal, run

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def aclient(server: FakeServer) -> AsyncIterator[cellar.aio.Client]:
    """An asynchronous client of the server."""
    async with cellar.aio.connect(server.address, retry=QUICK, timeout_s=10) as client:
        yield client


async def test_a_session(aclient: cellar.aio.Client, server: FakeServer) -> None:
    assert len(await aclient.models()) == 3
    async with aclient.session("char") as session:
        prediction = await session.step("abc", top_k=2)
        assert prediction.raw is not None
        assert prediction.raw.tolist() == [run([0, 1, 2])]
        assert (await session.peek("d")).position == 3
        assert len(await session.steps("de")) == 2
        assert (await aclient.attach(session.id)).position == 5
        texts = [piece.text async for piece in session.generate(max_steps=4)]
        assert len(texts) == 4
        assert session.position == 9
        await session.reset()
    assert server.sessions == {}
    async with aclient.session("series") as session:
        await session.feed([1.0, 2.0, 3.0], chunk_steps=2)
        assert (await session.forecast(2)).quantiles.shape == (2, 3)


async def test_await_leaves_closing_to_the_caller(server: FakeServer) -> None:
    client = await cellar.aio.connect(server.address)
    session = await client.session("char")
    await session.step("a")
    await session.close()
    await client.close()
    with pytest.raises(cellar.ClosedError):
        await session.step("a")


async def test_retries(aclient: cellar.aio.Client, server: FakeServer) -> None:
    session = await aclient.session("char")
    server.fail("Step", after=True)
    assert (await session.step("b")).replayed
    server.fail("Step", count=2, before=Refusal("OVERLOADED", retry_after_s=0.01))
    assert (await session.step("c")).position == 2
    server.fail("Step", count=99, before=Refusal("BAD_INPUT"))
    with pytest.raises(cellar.BadInputError):
        await session.step("d")
    assert server.calls["Step"] == 2 + 3 + 1


async def test_generate_that_breaks(aclient: cellar.aio.Client, server: FakeServer) -> None:
    session = await aclient.session("char")
    server.pieces = 3
    with pytest.raises(cellar.ConnectionLostError):
        await session.generate("ab", max_steps=9).text()
    assert session.position == 5
    assert (await session.step("a")).position == 6


async def test_frames_in_flight(aclient: cellar.aio.Client, server: FakeServer) -> None:
    server.split = 3
    async with aclient.stream("char") as stream:
        channels = await stream.open(8)
        for n in range(10):
            await stream.send(channels, [n] * 8)
        replies = [reply async for reply in stream.replies()]
        assert [reply.frame for reply in replies] == list(range(10))
        for n, reply in enumerate(replies):
            assert reply.predictions.raw is not None
            assert reply.predictions.raw[:, 0].tolist() == [run(list(range(n + 1)))] * 8
    assert server.sessions == {}


async def test_tasks_share_a_stream(aclient: cellar.aio.Client) -> None:
    async with aclient.stream("char") as stream:

        async def one(number: int) -> bool:
            (channel,) = await stream.open(1)
            read = []
            for n in range(5):
                read.append((number + n) % 10)
                reply = await stream.step([channel], read[-1:])
            assert reply.predictions.raw is not None
            return bool(reply.predictions.raw[0, 0] == run(read))

        assert all(await asyncio.gather(*(one(number) for number in range(40))))


@pytest.mark.parametrize("applied", [True, False])
async def test_resume(applied: bool, aclient: cellar.aio.Client, server: FakeServer) -> None:
    async with aclient.stream("char") as stream:
        channels = await stream.open(4)
        (server.kill_after_frames if applied else server.kill_before_frames).add(2)
        for n in range(5):
            await stream.send(channels, [n] * 4)
        replies = {reply.frame: reply async for reply in stream.replies()}
        assert sorted(replies) == [0, 1, 2, 3, 4]
        assert not any(reply.failures for reply in replies.values())
        raw = replies[4].predictions.raw
        assert raw is not None
        assert raw[:, 0].tolist() == [run([0, 1, 2, 3, 4])] * 4
        assert server.calls["Stream"] == 2


async def test_refused_rows(aclient: cellar.aio.Client) -> None:
    async with aclient.stream("char") as stream:
        channels = await stream.open(2)
        with pytest.raises(cellar.RowsRefusedError):
            await stream.step(channels, [1, 13])
        reply = await stream.step(channels, [13, 1], strict=False)
        assert [failure.channel for failure in reply.failures] == [channels[0]]


async def test_a_killed_server(aclient: cellar.aio.Client, server: FakeServer) -> None:
    stream = await aclient.stream("char")
    channels = await stream.open(2)
    server.silent = True
    await stream.send(channels, "ab")
    stepping = asyncio.create_task(stream.step(channels, "cd"))
    await asyncio.sleep(0.1)
    before = time.monotonic()
    await asyncio.to_thread(server.stop)
    with pytest.raises(cellar.ConnectionLostError):
        await stream.receive()
    with pytest.raises(cellar.ConnectionLostError):
        await stepping
    assert time.monotonic() - before < 3
    assert stream.positions(channels).tolist() == [0, 0]
    server.silent = False
    server.start()
    async with asyncio.timeout(8):
        while True:  # until grpc has found the server again
            try:
                reply = await stream.step(channels, "ab")
                break
            except cellar.ConnectionLostError:
                continue
    assert reply.positions.tolist() == [1, 1]
    await stream.close()
    with pytest.raises(cellar.ClosedError):
        await stream.step(channels, "ab")


async def test_a_step_given_up_can_be_repeated(
    aclient: cellar.aio.Client, server: FakeServer
) -> None:
    async with aclient.stream("char") as stream:
        channels = await stream.open(2)
        server.silent = True
        with pytest.raises(cellar.DeadlineExceededError):
            await stream.step(channels, "ab", timeout_s=0.2)
        stepping = asyncio.create_task(stream.step(channels, "ab"))
        await asyncio.sleep(0.05)
        stepping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stepping
        server.silent = False
        server.release.set()
        reply = await stream.step(channels, "ab")
        assert reply.predictions.replayed.all()
        assert reply.positions.tolist() == [1, 1]
