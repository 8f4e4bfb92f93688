"""Whatever goes wrong with a connection, each method of both clients fails with a CellarError."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import cellar
from tests.client import front as fronts
from tests.client.front import Act, Front

TWICE = cellar.RetryPolicy(attempts=2, first_delay_s=0.01, longest_delay_s=0.02)
TIMEOUT_S = 20.0
SHORT_S = 1.0  # where nothing else ends a call; elsewhere a busy machine must not be too slow
CLOSED = "this side closed the client"
CLOSING = "this side closes the client meanwhile"
KINDS: dict[str, tuple[Act | None, str]] = {
    # what is there: and what the message says of it
    "nothing": (None, "nothing listens there"),
    "silent": (fronts.is_silent, "Deadline Exceeded|no time left"),
    "a web server": (fronts.is_web_server, "HTTP/1.1 server answers there.*metrics"),
    "TLS": (fronts.wants_tls, "TLS"),
    "closes": (fronts.closes, "another service's port"),
    "dies": (fronts.dies, "."),
}
EACH = [
    *(pytest.param(kind, marks=pytest.mark.long) for kind in ("silent", "TLS", "closes")),
    *("nothing", "a web server", "dies", CLOSED, CLOSING),
]

Step = Callable[[], Any]


def steps(
    client: Any,
    sessions: list[Any],
    streams: list[Any],
    generations: list[Any],
    many: list[Any],
    wait: Any,
) -> dict[tuple[str, str], Step]:
    """Every public method, by class and name; each on a session or stream of its own.

    ``wait`` reads a generation, or replies, to their end.
    """
    session, stream, generation = iter(sessions), iter(streams), iter(generations)
    several = iter(many)
    return {
        ("Client", "models"): client.models,
        ("Client", "model"): lambda: client.model("series"),
        ("Client", "predict"): lambda: client.predict("char", ["ab"], version=0),
        ("Client", "session"): lambda: client.session("char"),
        ("Client", "attach"): lambda: client.attach("somebody"),
        ("Client", "import_session"): lambda: client.import_session(b"a snapshot"),
        ("Client", "move_session"): lambda: client.move_session("somebody", client, name="there"),
        ("Client", "call_off_move"): lambda: client.call_off_move("somebody"),
        ("Client", "stream"): lambda: client.stream("series"),
        ("Client", "list_sessions"): lambda: wait(client.list_sessions()),
        ("Client", "close_session"): lambda: client.close_session("somebody"),
        ("Client", "reset_session"): lambda: client.reset_session("somebody"),
        ("Session", "step"): on(session, lambda s: s.step("a")),
        ("Session", "steps"): on(session, lambda s: s.steps("ab")),
        ("Session", "peek"): on(session, lambda s: s.peek("a")),
        ("Session", "feed"): on(session, lambda s: s.feed("abc", chunk_steps=2)),
        ("Session", "generate"): on(session, lambda s: wait(s.generate("a", max_steps=3))),
        ("Session", "forecast"): on(session, lambda s: s.forecast(2)),
        ("Session", "export"): on(session, lambda s: s.export()),
        ("Session", "fork"): on(session, lambda s: s.fork()),
        ("Session", "rewind"): on(session, lambda s: s.rewind(steps=0)),
        ("Session", "upgrade"): on(session, lambda s: s.upgrade()),
        ("Session", "refresh"): on(session, lambda s: s.refresh()),
        ("Session", "reset"): on(session, lambda s: s.reset()),
        ("Session", "close"): on(session, lambda s: s.close()),
        ("Stream", "open"): on(stream, lambda s: s.open(2)),
        ("Stream", "attach"): on(stream, lambda s: s.attach(["one", "two"])),
        ("Stream", "step"): on(stream, lambda s: s.step([0], "a")),
        ("Stream", "send"): on(stream, lambda s: s.send([0], "a")),
        ("Stream", "receive"): on(stream, lambda s: s.receive(timeout_s=0.5)),
        ("Stream", "replies"): on(stream, lambda s: wait(s.replies())),
        ("Stream", "reset"): on(stream, lambda s: s.reset([0])),
        ("Stream", "detach"): on(stream, lambda s: s.detach([0], close=True)),
        ("Stream", "close"): on(stream, lambda s: s.close()),
        ("Stream", "positions"): on(stream, lambda s: s.positions([0])),
        ("Stream", "session_id"): on(stream, lambda s: s.session_id(0)),
        ("Generation", "text"): on(generation, lambda g: g.text()),
        ("Generation", "values"): on(generation, lambda g: g.values()),
        ("Generation", "close"): on(generation, lambda g: g.close()),
        ("Generations", "texts"): on(several, lambda g: g.texts()),
        ("Generations", "values"): on(several, lambda g: g.values()),
        ("Generations", "close"): on(several, lambda g: g.close()),
    }


def on(owners: Iterator[Any], step: Callable[[Any], Any]) -> Step:
    """A step on an owner of its own."""
    return partial(step, next(owners))


SESSIONS, STREAMS, GENERATIONS = 13, 11, 3
# These may come to their end without the server: nothing is asked, or nobody waits for the answer.
ALONE = {
    ("Stream", "send"),
    ("Stream", "replies"),
    ("Stream", "close"),
    ("Stream", "positions"),
    ("Stream", "session_id"),
    ("Generation", "close"),
    # They have begun, and their few pieces may have come.
    ("Generations", "texts"),
    ("Generations", "values"),
    ("Generations", "close"),
}


OFFERED = (cellar.Client, cellar.Session, cellar.Stream, cellar.Generation, cellar.Generations)


def test_every_method_is_driven() -> None:
    listed = set(
        steps(_Any(), [_Any()] * SESSIONS, [_Any()] * STREAMS, [_Any()] * 3, [_Any()] * 3, None)
    )
    offered = {
        (kind.__name__, name)
        for kind in OFFERED
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    assert listed == offered - {("Client", "close")}


class _Any:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.mark.parametrize("kind", EACH)
def test_the_synchronous_client(kind: str, front: Front) -> None:
    client = cellar.connect(front.address, retry=TWICE, timeout_s=timeout_of(kind))
    sessions = [client.session("char") for _ in range(SESSIONS)]
    streams = [client.stream("char") for _ in range(STREAMS)]
    generations = []
    for each in sessions:
        each.step("a")
    for _ in range(GENERATIONS):
        session = client.session("char")
        generations.append(session.generate("a", max_steps=3))
    for stream in streams:
        stream.open(1)
    many = [sessions[0].generate("a", n=2, max_steps=3) for _ in range(GENERATIONS)]
    turn(kind, front, client.close)
    driven = steps(client, sessions, streams, generations, many, list)
    with ThreadPoolExecutor(len(driven)) as pool:
        found = {name: pool.submit(outcome, step) for name, step in driven.items()}
        if kind == CLOSING:
            time.sleep(0.2)
            client.close()
    check(kind, {name: each.result() for name, each in found.items()})
    client.close()
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("kind", EACH)
async def test_the_asynchronous_client(kind: str, front: Front) -> None:
    client = await cellar.aio.connect(front.address, retry=TWICE, timeout_s=timeout_of(kind))
    sessions = [await client.session("char") for _ in range(SESSIONS)]
    streams = [await client.stream("char") for _ in range(STREAMS)]
    generations = []
    for each in sessions:
        await each.step("a")
    for _ in range(GENERATIONS):
        session = await client.session("char")
        generations.append(session.generate("a", max_steps=3))
    for stream in streams:
        await stream.open(1)
    many = [await sessions[0].generate("a", n=2, max_steps=3) for _ in range(GENERATIONS)]
    if kind == CLOSED:
        await client.close()
    else:
        turn(kind, front, client.close)
    driven = steps(client, sessions, streams, generations, many, read_all)
    driving = asyncio.gather(*[aoutcome(step) for step in driven.values()])
    if kind == CLOSING:
        await asyncio.sleep(0.2)
        await client.close()
    outcomes = await driving
    check(kind, dict(zip(driven, outcomes, strict=True)))
    await client.close()
    for stream in streams:
        await stream.close()


async def read_all(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


def timeout_of(kind: str) -> float:
    return SHORT_S if kind == "silent" else TIMEOUT_S


def turn(kind: str, front: Front, close: Callable[[], Any]) -> None:
    if kind == CLOSED:
        close()
    elif kind == CLOSING:
        front.vanish()
    else:
        front.turn(KINDS[kind][0])


def outcome(step: Step) -> Any:
    try:
        return step()
    except BaseException as error:
        return error


async def aoutcome(step: Step) -> Any:
    try:
        found = step()
        return await asyncio.wait_for(found, 10) if isinstance(found, Awaitable) else found
    except BaseException as error:
        return error


def check(kind: str, outcomes: dict[tuple[str, str], Any]) -> None:
    """All failed, each with an error of ours that can be sent on, and says what may be wrong."""
    wrong = {
        name: repr(found)
        for name, found in outcomes.items()
        if not isinstance(found, cellar.CellarError)
        and (isinstance(found, BaseException) or (name not in ALONE and kind != "dies"))
    }
    assert not wrong
    errors = {n: each for n, each in outcomes.items() if isinstance(each, cellar.CellarError)}
    assert kind == "dies" or len(errors) >= len(outcomes) - len(ALONE)
    for error in errors.values():
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
    if kind in (CLOSED, CLOSING):
        kinds = {name: type(error) for name, error in errors.items()}
        # Nothing is in flight to be received, which waits, asynchronously.
        assert kinds.pop(("Stream", "receive")) in (
            cellar.ClosedError,
            cellar.BadInputError,
            cellar.DeadlineExceededError,
        )
        assert set(kinds.values()) == {cellar.ClosedError}
    else:
        assert re.search(KINDS[kind][1], str(outcomes["Client", "models"]))
