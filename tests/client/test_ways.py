"""One session that is gone on with in several ways: what is asked, what comes, what is left."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import cellar
from cellar.v1 import session_pb2
from tests.client.fake import FakeServer, Refusal, abort


def asked(server: FakeServer, kind: type[Any]) -> list[Any]:
    return [request for request in server.requests if isinstance(request, kind)]


def test_several_ways_are_forks_that_read_the_prompt_once(
    client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char", id="source") as session:
        session.step("cd")
        alone = session.fork()
        expected = alone.generate("ab", max_steps=5).text()
        server.requests.clear()
        with session.generate("ab", n=3, max_steps=5, seed=2**64 - 3, stop="zz") as ways:
            assert len(server.sessions) == 5
            assert ways.texts() == [expected] * 3
            assert (session.position, session.in_doubt) == (2, False)
            assert server.sessions.keys() == {"source", alone.id}
        first, *others = asked(server, session_pb2.ForkSessionRequest)
        assert first.session_id == "source"
        assert {fork.session_id for fork in others} == {first.new_session_id}
        assert all(fork.ephemeral and fork.history_steps == 0 for fork in (first, *others))
        assert all(fork.new_session_id.startswith("source.") for fork in (first, *others))
        (step,) = asked(server, session_pb2.StepRequest)
        assert (step.session_id, step.inputs.text) == (first.new_session_id, "ab")
        begun = asked(server, session_pb2.GenerateRequest)
        assert {each.sampling.seed for each in begun} == {2**64 - 3, 2**64 - 2, 2**64 - 1}
        assert all(list(each.stop) == ["zz"] and not each.HasField("prompt") for each in begun)
        assert session.step("e").position == 3


def test_without_a_seed_each_has_its_own(server: FakeServer) -> None:
    with cellar.connect(server.address) as client, client.session("char") as session:
        session.generate("ab", n=4, max_steps=2).texts()
    seeds = {each.sampling.seed for each in asked(server, session_pb2.GenerateRequest)}
    assert len(seeds) == 4


def test_their_pieces_come_in_turn(client: cellar.Client) -> None:
    with client.session("series") as session:
        session.step([1.0, 2.0])
        with session.generate(n=2, max_steps=3) as ways:
            found = [(number, piece.position) for number, piece in ways]
            assert found == [(0, 3), (1, 3), (0, 4), (1, 4), (0, 5), (1, 5)]
        with session.generate(n=2, max_steps=3) as ways, ThreadPoolExecutor() as pool:
            alone = list(pool.map(lambda each: each.values(), ways.each))
        with session.generate(n=2, max_steps=3) as ways:
            values = ways.values()
        assert [each.tolist() for each in alone] == [each.tolist() for each in values]
        assert values[0].shape == (3,)


async def test_they_can_be_read_at_once(server: FakeServer) -> None:
    async with cellar.aio.connect(server.address) as client, client.session("char") as session:
        async with session.generate("ab", n=3, max_steps=4) as ways:
            texts = await asyncio.gather(*[each.text() for each in ways.each])
            assert {len(text) for text in texts} == {4}
        ways = await session.generate("ab", n=2, max_steps=2)
        assert [number async for number, _ in ways] == [0, 1, 0, 1]
        assert session.position == 0
        assert server.sessions.keys() == {session.id}


async def test_one_that_fails_leaves_no_other(server: FakeServer) -> None:
    """The others are being read at that moment."""
    async with cellar.aio.connect(server.address) as client, client.session("char") as session:
        reading: list[asyncio.Task[str]] = []

        async def hurt() -> None:
            async with session.generate("ab", n=3, max_steps=100_000) as ways:
                reading.extend(asyncio.create_task(each.text()) for each in ways.each[1:])
                await anext(ways.each[0])
                await asyncio.sleep(0.05)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await hurt()
        assert server.sessions.keys() == {session.id}
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def test_what_is_left_is_closed(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char", id="source") as session:
        session.step("a")
        ways = session.generate(n=3, max_steps=10_000)
        for _ in range(4):
            next(ways)
        ways.each[1].close()
        assert len(server.sessions) == 3
        ways.close()
        assert server.sessions.keys() == {"source"}
        assert ways.texts() == ["", "", ""]
        with pytest.raises(ZeroDivisionError), session.generate(n=2):
            raise ZeroDivisionError
        assert server.sessions.keys() == {"source"}
        assert session.position == 1
        assert session.step("b").position == 2


Fault = Callable[[FakeServer], None]
FAULTS: dict[str, tuple[Fault, type[cellar.CellarError]]] = {
    "no fork": (
        lambda server: server.fail("ForkSession", before=Refusal("SESSION_LIMIT"), count=99),
        cellar.SessionLimitError,
    ),
    "no prompt": (
        lambda server: server.fail("Step", before=Refusal("BAD_INPUT")),
        cellar.BadInputError,
    ),
    "no generation": (
        lambda server: server.fail("Generate", before=Refusal("NOT_STARTED")),
        cellar.NotStartedError,
    ),
    "broken off": (lambda server: setattr(server, "pieces", 2), cellar.ConnectionLostError),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_leaves_no_fork(
    fault: str, hasty: cellar.Client, server: FakeServer
) -> None:
    hurt, error = FAULTS[fault]
    with hasty.session("char", id="source") as session:
        session.step("a")
        hurt(server)
        with pytest.raises(error), session.generate("b", n=3, max_steps=5) as ways:
            ways.texts()
        assert server.sessions.keys() == {"source"}
        assert (session.position, session.in_doubt) == (1, False)


def test_a_later_fork_that_fails_leaves_no_earlier_one(
    client: cellar.Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = server._copied

    def two(*given: Any) -> None:
        if len(server.sessions) > 2:
            abort(given[-1], Refusal("STATE_LOST"))
        copied(*given)

    monkeypatch.setattr(server, "_copied", two)
    with client.session("char", id="source") as session:
        with pytest.raises(cellar.StateLostError):
            session.generate("b", n=3)
        assert server.calls["ForkSession"] == 3
        assert server.sessions.keys() == {"source"}


def test_lost_answers_are_asked_for_again(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as session:
        for method in ("ForkSession", "Step", "Generate", "CloseSession"):
            server.fail(method, after=True)
        with session.generate("b", n=2, max_steps=3) as ways:
            assert [len(text) for text in ways.texts()] == [3, 3]
        assert server.sessions.keys() == {session.id}


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"n": 1.5},
        {"n": "two"},
        {"seed": 2**64 - 1},
        {"seed": -1},
        {"max_steps": "many"},
        {"temperature": "hot"},
        {"stop": 3},
        {"timeout_s": "long"},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    wrong: dict[str, Any], client: cellar.Client, server: FakeServer
) -> None:
    with client.session("char") as session:
        calls = dict(server.calls)
        with pytest.raises(cellar.BadInputError) as refused:
            session.generate(**{"prompt": "a", "n": 2, **wrong})
        assert refused.value.metadata["field"] in wrong
        with pytest.raises(cellar.BadInputError):
            session.generate(object(), n=2)  # type: ignore[call-overload]
        assert server.calls == calls


def test_both_forms_have_the_same_options() -> None:
    for kind in (cellar.Session, cellar.aio.Session):
        assert "n" in inspect.signature(kind.generate).parameters
    with_names = [name for name in dir(cellar.Generations) if not name.startswith("_")]
    assert with_names == ["close", "texts", "values"]
    assert {*with_names} <= {*dir(cellar.aio.Generations)}
