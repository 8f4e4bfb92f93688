"""Connections that break at the worst moment: every step is applied exactly once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import cellar
from tests.e2e.process import ServerProcess
from tests.e2e.proxy import Proxy, proxied

QUICK = cellar.RetryPolicy(attempts=8, first_delay_s=0.05, longest_delay_s=0.5)


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    with proxied(server.port) as proxy:
        yield proxy


@pytest.fixture
def shaky(proxy: Proxy) -> Iterator[cellar.Client]:
    """A client whose connection can be broken."""
    with cellar.connect(proxy.address, retry=QUICK, timeout_s=20) as client:
        yield client


@pytest.fixture
async def ashaky(proxy: Proxy) -> AsyncIterator[cellar.aio.Client]:
    async with cellar.aio.connect(proxy.address, retry=QUICK, timeout_s=20) as client:
        yield client


class Breaker:
    """Breaks the proxy's connections around one request.

    ``applied`` says on which side: after the request was applied and before its reply is back,
    or before the server has seen it.
    """

    def __init__(self, proxy: Proxy, client: cellar.Client, *, applied: bool) -> None:
        self._proxy, self._client, self._applied = proxy, client, applied

    def arm(self) -> None:
        self._proxy.down = not self._applied
        self._proxy.up = self._applied

    def strike(self, session_id: str, position: int, asked: Callable[[], bool]) -> None:
        """Waits until the request is where it should be, and breaks."""
        session = self._client.attach(session_id)
        give_up = time.monotonic() + 10
        while self._applied and session.refresh().position != position:
            assert time.monotonic() < give_up, "the request never went up"
        assert not asked(), "answered, though nothing could come down"
        self._proxy.cut()


def undisturbed(client: cellar.Client, *pieces: str) -> cellar.Prediction:
    """The last prediction of a session with a good connection."""
    with client.session("letters") as session:
        return [session.step(piece, raw=True) for piece in pieces][-1]


def expect_same(got: cellar.Prediction, expected: cellar.Prediction) -> None:
    assert got.position == expected.position
    assert got.raw is not None
    assert expected.raw is not None
    assert got.raw.tobytes() == expected.raw.tobytes()


@pytest.mark.parametrize("applied", [True, False])
def test_a_step(applied: bool, proxy: Proxy, shaky: cellar.Client, client: cellar.Client) -> None:
    breaker = Breaker(proxy, client, applied=applied)
    with shaky.session("letters") as session, ThreadPoolExecutor() as pool:
        session.step("once ")
        breaker.arm()
        step: Future[cellar.Prediction] = pool.submit(session.step, "upon", raw=True)
        breaker.strike(session.id, 9, step.done)
        prediction = step.result(10)
        assert prediction.replayed is applied
        expect_same(prediction, undisturbed(client, "once ", "upon"))
        expect_same(session.step(" a", raw=True), undisturbed(client, "once ", "upon", " a"))


@pytest.mark.parametrize("applied", [True, False])
def test_a_frame(applied: bool, proxy: Proxy, shaky: cellar.Client, client: cellar.Client) -> None:
    breaker = Breaker(proxy, client, applied=applied)
    with shaky.stream("letters", raw=True) as stream, ThreadPoolExecutor() as pool:
        channels = stream.open(3)
        stream.step(channels, ["a", "bc", "def"])
        breaker.arm()
        step = pool.submit(stream.step, channels, ["gh", "i", "j"])
        breaker.strike(stream.session_id(0), 3, step.done)
        reply = step.result(10)
        assert reply.predictions.replayed.tolist() == [applied] * 3
        pieces = [("a", "gh"), ("bc", "i"), ("def", "j")]
        for got, each in zip(reply.predictions, pieces, strict=True):
            expect_same(got, undisturbed(client, *each))
        after = stream.step(channels, "kkk")
        for got, each in zip(after.predictions, pieces, strict=True):
            expect_same(got, undisturbed(client, *each, "k"))


@pytest.mark.parametrize("applied", [True, False])
async def test_the_same_with_await(
    applied: bool, proxy: Proxy, ashaky: cellar.aio.Client, client: cellar.Client
) -> None:
    breaker = Breaker(proxy, client, applied=applied)

    async def broken(work: Coroutine[Any, Any, Any], session_id: str, position: int) -> Any:
        task = asyncio.create_task(work)
        await asyncio.to_thread(breaker.strike, session_id, position, task.done)
        async with asyncio.timeout(10):
            return await task

    async with ashaky.session("letters") as session, ashaky.stream("letters", raw=True) as stream:
        await session.step("once ")
        channels = await stream.open(2)
        await stream.step(channels, "ab")
        breaker.arm()
        prediction = await broken(session.step("upon", raw=True), session.id, 9)
        expect_same(prediction, undisturbed(client, "once ", "upon"))
        await stream.step(channels, "bc")
        breaker.arm()
        reply = await broken(stream.step(channels, "cd"), stream.session_id(1), 3)
        assert reply.predictions.replayed.tolist() == [applied] * 2
        expect_same(reply.predictions[0], undisturbed(client, *"abc"))
        expect_same(reply.predictions[1], undisturbed(client, *"bcd"))


@pytest.mark.parametrize("applied", [True, False])
async def test_a_network_that_falls_silent(
    applied: bool, proxy: Proxy, shaky: cellar.Client, ashaky: cellar.aio.Client
) -> None:
    """No connection breaks, nothing comes: each is told in time, and may repeat the step."""
    with shaky.session("letters") as session, shaky.stream("letters") as stream:
        async with ashaky.stream("letters") as astream:
            channels, achannels = stream.open(2), await astream.open(2)
            proxy.up, proxy.down = applied, False
            with pytest.raises(cellar.DeadlineExceededError):
                session.step("a", timeout_s=0.3)
            with pytest.raises(cellar.DeadlineExceededError):
                stream.step(channels, "ab", timeout_s=0.3)
            with pytest.raises(cellar.DeadlineExceededError):
                await astream.step(achannels, "ab", timeout_s=0.3)
            proxy.cut()
            prediction = session.step("a")
            assert (prediction.position, prediction.replayed) == (1, applied)
            for reply in (stream.step(channels, "ab"), await astream.step(achannels, "ab")):
                assert reply.positions.tolist() == [1, 1]
                assert reply.predictions.replayed.tolist() == [applied] * 2


@pytest.mark.parametrize(
    ("name", "rows"), [("letters", ["a", "bc", "d"]), ("prices", [[1.0], [2.0, 3.0], [4.0]])]
)
def test_a_row_repeated_in_other_company(
    name: str, rows: list[cellar.StepInputs], client: cellar.Client
) -> None:
    """A retry brings the unanswered rows only: they are the same steps all the same."""
    with client.stream(name) as first, client.stream(name) as retry, client.stream(name) as whole:
        channels = first.open(3)
        for stream in (retry, whole):
            stream.attach([first.session_id(channel) for channel in channels.tolist()])
        first.step(channels, rows)
        for row in range(3):
            assert retry.step([row], [rows[row]]).predictions.replayed.all()
        assert whole.step(channels[[2, 0]], [rows[2], rows[0]]).predictions.replayed.all()


def test_breaks_at_any_moment(proxy: Proxy, shaky: cellar.Client, client: cellar.Client) -> None:
    """Steps by every route, while the connection breaks again and again."""
    dice = random.Random(2)
    pieces = ["".join(dice.choices("abc de", k=dice.randint(1, 4))) for _ in range(100)]

    def play(chosen: cellar.Client) -> list[bytes]:
        answers = []
        with chosen.session("letters") as session, chosen.stream("letters", raw=True) as stream:
            channels = stream.open(2)
            for piece in pieces:
                prediction = session.step(piece, raw=True)
                reply = stream.step(channels, [piece, piece[:1]])
                assert prediction.raw is not None
                assert reply.predictions.raw is not None
                answers += [prediction.raw.tobytes(), reply.predictions.raw.tobytes()]
        return answers

    expected = play(client)
    with ThreadPoolExecutor() as pool:
        got = pool.submit(play, shaky)
        for _ in range(5):
            assert proxy.wait_for(proxy.passed + dice.randint(500, 5000), 10)
            proxy.cut()
        assert got.result(40) == expected
    assert proxy.broken >= 5


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("anew", ["reset", "opened"])
def test_a_step_that_comes_again_on_another_branch(
    anew: str, applied: bool, proxy: Proxy, shaky: cellar.Client, client: cellar.Client
) -> None:
    """Where it was sent for position 0, nothing but the branch tells."""
    breaker = Breaker(proxy, client, applied=applied)
    session = shaky.session("letters")
    with ThreadPoolExecutor() as pool:
        breaker.arm()
        step = pool.submit(session.step, "once")
        with begun_anew(anew, client, session.id, after=4 if applied else 0) as other:
            breaker.strike(session.id, 0, step.done)
            with pytest.raises(cellar.StaleBranchError) as caught:
                step.result(10)
            assert (caught.value.branch, caught.value.position) == (other.branch, 0)
            with pytest.raises(cellar.StaleBranchError):
                session.step("once")
            with pytest.raises(cellar.StaleBranchError):
                session.close()
            assert other.refresh().position == 0
            expect_same(other.step("upon", raw=True), undisturbed(client, "upon"))


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("anew", ["reset", "opened"])
def test_a_frame_that_comes_again_on_another_branch(
    anew: str, applied: bool, proxy: Proxy, shaky: cellar.Client, client: cellar.Client
) -> None:
    breaker = Breaker(proxy, client, applied=applied)
    with shaky.stream("letters") as stream, ThreadPoolExecutor() as pool:
        channels = stream.open(2)
        left = stream.session_id(0)
        breaker.arm()
        step = pool.submit(stream.step, channels, ["abc", "def"], strict=False)
        with begun_anew(anew, client, left, after=3 if applied else 0) as other:
            breaker.strike(left, 0, step.done)
            reply = step.result(10)
            (failure,) = reply.failures
            assert isinstance(failure.error, cellar.StaleBranchError)
            assert (failure.session_id, failure.error.branch) == (left, other.branch)
            assert reply.channels.tolist() == [channels[1]]
            assert other.refresh().position == 0
            stream.detach([0])
            (again,) = stream.attach([left])
            assert stream.step([again], "g").positions.tolist() == [1]


@contextmanager
def begun_anew(
    how: str, client: cellar.Client, session_id: str, *, after: int
) -> Iterator[cellar.Session]:
    """The session on another branch, which begins once it has read so many steps."""
    session = client.attach(session_id)
    give_up = time.monotonic() + 10
    while session.refresh().position != after:
        assert time.monotonic() < give_up, "the request never went up"
    if how == "reset":
        session.reset()
    else:
        session.close()
        session = client.session("letters", id=session_id)
    with session:
        yield session
