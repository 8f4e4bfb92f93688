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


async def test_a_closed_stream_tells_what_became_of_its_frames(
    aclient: cellar.aio.Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellar.aio.exchange.CLEANUP_TIMEOUT_S", 0.3)
    stream = await aclient.stream("char")
    channels = await stream.open(1)
    answered = await stream.send(channels, "a")
    while server.frames < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    server.silent = True
    lost = [await stream.send(channels, "b"), await stream.send(channels, "c")]
    waiting = asyncio.create_task(stream.step(channels, "d"))
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(cellar.ClosedError):
        await waiting
    assert (await stream.receive()).frame == answered
    for _ in range(2):
        with pytest.raises(cellar.UnansweredError) as caught:
            await stream.receive(timeout_s=5)
        assert caught.value.frames[:2] == tuple(lost)
    monkeypatch.setattr("cellar.aio.exchange.CLEANUP_TIMEOUT_S", 20)
    finished = await aclient.stream("char")
    server.silent = False
    server.release.set()
    channels = await finished.open(1)
    numbers = [await finished.send(channels, "a") for _ in range(3)]
    await finished.close()
    assert [reply.frame async for reply in finished.replies()] == numbers
    with pytest.raises(cellar.ClosedError):
        await finished.receive()


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_a_step_that_was_given_up(
    way: str, aclient: cellar.aio.Client, server: FakeServer
) -> None:
    session = await aclient.session("char")
    for applied in (True, False):
        position = session.position
        server.fail("Step", delay_s=0.3, after=applied, unavailable=not applied)
        with pytest.raises((TimeoutError, cellar.DeadlineExceededError)):  # noqa: PT012
            if way == "cancel":
                async with asyncio.timeout(0.1):
                    await session.step("b")
            else:
                await session.step("b", timeout_s=0.1)
        at = position + applied
        while server.sessions[session.id].position != at:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # this server does not drop what nobody waits for
        assert (await session.step("c")).position == session.position == at + 1


@pytest.mark.parametrize("way", ["close", "leave", "forget", "cancel", "deadline"])
async def test_a_generation_that_is_left(
    way: str, aclient: cellar.aio.Client, server: FakeServer
) -> None:
    session = await aclient.session("char")
    timeout_s = 0.05 if way == "deadline" else None
    for _ in range(5):
        generation = session.generate("ab", max_steps=10_000, timeout_s=timeout_s)
        if way != "deadline":
            await anext(generation)
        if way == "close":
            await generation.close()
            assert session.position == server.sessions[session.id].position
        elif way == "forget":
            del generation
        elif way == "cancel":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(generation.text(), 0.02)
        elif way == "deadline":
            with pytest.raises(cellar.DeadlineExceededError):
                await generation.text()
        prediction = await session.step("a")
        assert prediction.position == session.position == server.sessions[session.id].position
