"""What bounds a call, what a closing may hide, and what a session says of its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

import cellar
from tests.client.fake import FakeServer, Refusal

SOON = cellar.RetryPolicy(first_delay_s=0.02, longest_delay_s=0.1)


@pytest.fixture
def patient(server: FakeServer) -> cellar.Client:
    """A client whose tries nothing but time bounds."""
    return cellar.connect(server.address, retry=SOON, timeout_s=10)


def test_a_server_that_is_away_for_many_tries_is_waited_for(
    patient: cellar.Client, server: FakeServer
) -> None:
    with patient, patient.session("char") as session:
        session.step("a")
        server.fail("Step", count=30, before=Refusal("OVERLOADED", retry_after_s=0.001))
        assert session.step("b").position == 2
        assert server.calls["Step"] == 32


@pytest.mark.parametrize("use", ["models", "open", "step", "generate", "stream", "predict"])
def test_the_timeout_bounds_all_of_a_call(
    use: str, patient: cellar.Client, server: FakeServer
) -> None:
    with patient:
        session = patient.session("char")
        stream = patient.stream("char")
        channels = stream.open(1)
        server.stop()
        calls: dict[str, Callable[[], object]] = {
            "models": lambda: patient.models(timeout_s=1),
            "open": lambda: patient.session("char", timeout_s=1),
            "step": lambda: session.step("a", timeout_s=1),
            "generate": lambda: session.generate("a", timeout_s=1).text(),
            "stream": lambda: stream.step(channels, "a", timeout_s=1),
            "predict": lambda: patient.predict("char", ["a"], timeout_s=1),
        }
        began = time.monotonic()
        with pytest.raises((cellar.ConnectionLostError, cellar.DeadlineExceededError)):
            calls[use]()
        took = time.monotonic() - began
        assert 0.5 < took < 3, took


def test_a_server_that_never_answered_is_soon_told(server: FakeServer) -> None:
    server.stop()
    began = time.monotonic()
    with (
        cellar.connect(server.address, retry=SOON, timeout_s=30) as client,
        pytest.raises(cellar.ConnectionLostError),
    ):
        client.models()
    assert time.monotonic() - began < 5


@pytest.mark.long
async def test_a_closing_that_fails_hides_nothing(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with cellar.connect(server.address, retry=SOON, timeout_s=1) as client:
        with client.session("char") as session:
            server.fail("CloseSession", count=10**6, before=Refusal("DRAINING", retry_after_s=0.01))
            found = session.step("a")
        assert found.position == 1
        with pytest.raises(KeyError), client.session("char"):
            raise KeyError("the block's own")
        with client.stream("char") as stream:
            reply = stream.step(stream.open(1), "a")
            server.stop()
        assert reply.positions.tolist() == [1]
    caplog.set_level("INFO", "cellar")
    server = FakeServer()
    async with cellar.aio.connect(server.address, retry=SOON, timeout_s=1) as other:
        async with other.session("char") as mine:
            server.fail("CloseSession", count=10**6, before=Refusal("DRAINING", retry_after_s=0.01))
            found = await mine.step("a")
        assert found.position == 1
        with pytest.raises((cellar.DrainingError, cellar.DeadlineExceededError)):
            await mine.close()
    assert f"session {mine.id} could not be closed" in caplog.text
    server.end()


def test_a_closing_takes_no_longer_than_anything_else(server: FakeServer) -> None:
    with cellar.connect(server.address, retry=SOON, timeout_s=2) as client:
        with client.session("char") as session:
            session.step("a")
            server.stop()
            began = time.monotonic()
        assert time.monotonic() - began < 3.5


def test_a_session_says_when_its_position_is_in_doubt(
    patient: cellar.Client, server: FakeServer
) -> None:
    with patient, patient.session("char") as session:
        session.step("ab")
        assert (session.position, session.in_doubt) == (2, False)
        server.fail("Step", count=10**6, after=True)
        with pytest.raises(cellar.CellarError):
            session.step("c", timeout_s=0.2)
        assert (session.position, session.in_doubt) == (2, True)
        assert "at 2, perhaps elsewhere" in repr(session)
        server.faults.clear()
        session.refresh()
        assert (session.position, session.in_doubt) == (3, False)
        generation = session.generate("a", max_steps=50)
        position = next(iter(generation)).position
        assert (session.position, session.in_doubt) == (position, True)
        generation.close()
        assert repr(session).endswith(f"at {session.position}>")
        assert session.position == server.sessions[session.id].position
        server.fail("ResetSession", count=10**6, after=True)
        with pytest.raises(cellar.CellarError):
            session.reset(timeout_s=0.2)
        assert session.in_doubt
        server.faults.clear()
        session.refresh()
        assert (session.position, session.in_doubt) == (0, False)


def test_a_server_that_comes_back_within_the_timeout_is_found(
    patient: cellar.Client, server: FakeServer
) -> None:
    with patient, patient.session("char") as session:
        session.step("a")
        server.stop()

        def return_later() -> None:
            time.sleep(2)
            server.start()

        thread = threading.Thread(target=return_later)
        thread.start()
        assert session.step("b", timeout_s=15).position == 2
        thread.join()
