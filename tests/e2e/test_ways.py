"""One session that is gone on with in several ways, on a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellar
from cellar.cli import main
from tests.e2e.conftest import LIMITS
from tests.e2e.process import ServerProcess, running

READ: dict[str, tuple[Any, Any]] = {
    "letters": ("the quick brown", " fox"),
    "prices": ([100.0, 101.5, 99.25], [102.0, 101.0]),
}
STEPS, SEED = 30, 11


def ids(client: cellar.Client) -> set[str]:
    return {info.id for info in client.list_sessions()}


def forks_of(client: cellar.Client, name: str) -> set[str]:
    return {each for each in ids(client) if each.startswith(f"{name}.")}


def drawn(pieces: Any) -> tuple[list[int], bytes]:
    """What a generation drew: its tokens, and its values to the bit."""
    found = list(pieces)
    values = np.concatenate([piece.values for piece in found])
    return [token for piece in found for token in piece.tokens.tolist()], values.tobytes()


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("model", READ)
def test_each_draws_as_a_session_alone(model: str, prompted: bool, client: cellar.Client) -> None:
    first, more = READ[model]
    prompt = more if prompted else None
    expected = []
    for number in range(4):
        with client.session(model) as fed:
            fed.step(first)
            expected.append(
                drawn(fed.generate(prompt, max_steps=STEPS, seed=SEED + number, temperature=0.9))
            )
    assert len({str(each) for each in expected}) == 4
    with client.session(model) as session, client.session(model) as other:
        for each in (session, other):
            each.step(first)
        how: dict[str, Any] = {"max_steps": STEPS, "seed": SEED, "temperature": 0.9}
        with session.generate(prompt, n=4, **how) as ways:
            found: list[list[cellar.Piece]] = [[] for _ in ways.each]
            for number, piece in ways:
                found[number].append(piece)
        assert [drawn(pieces) for pieces in found] == expected
        assert session.position == session.refresh().position == len(first)
        after, fed_after = (each.steps(more, raw=True).raw for each in (session, other))
        assert np.array_equal(after, fed_after)  # type: ignore[arg-type]
        assert not forks_of(client, session.id)


async def test_sixteen_at_once(aclient: cellar.aio.Client, client: cellar.Client) -> None:
    async with aclient.session("letters") as session:
        await session.step("the ")
        async with session.generate(n=16, max_steps=50, seed=3) as ways:
            texts = await asyncio.gather(*[each.text() for each in ways.each])
        with client.session("letters") as alone:
            alone.step("the ")
            assert alone.generate(max_steps=50, seed=3 + 15).text() == texts[15]
        assert {len(text) for text in texts} == {50}
        assert not forks_of(client, session.id)


@pytest.fixture(scope="module")
def brief(few_models: Path) -> Iterator[ServerProcess]:
    """A server on which ephemeral sessions do not last."""
    with running(few_models, *LIMITS, "--ephemeral-grace-s=1") as server:
        yield server


def test_what_a_client_leaves_behind_ends(brief: ServerProcess) -> None:
    with cellar.connect(brief.address) as gone:
        session = gone.session("letters", id="source")
        session.step("the ")
        ways = session.generate(n=3, max_steps=100_000)
        assert next(ways)
    with cellar.connect(brief.address) as client:
        give_up = time.monotonic() + 10
        while len(ids(client)) > 1 and time.monotonic() < give_up:
            time.sleep(0.1)
        assert ids(client) == {"source"}
        assert client.attach("source").position == 4


def test_who_reads_slowly_gets_all_of_it(brief: ServerProcess) -> None:
    """Its session is not idle while the server draws for it, however long ago it was read from."""
    with cellar.connect(brief.address) as client, client.session("letters") as session:
        session.step("the ")
        whole = session.fork().generate(max_steps=300, seed=6).text()
        with session.generate(n=2, max_steps=300, seed=5) as ways:
            first = next(ways.each[0]).text
            time.sleep(2.5)
            assert len(first + ways.each[0].text()) == 300
            assert ways.each[1].text() == whole


def test_the_command(
    server: ServerProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLAR_SERVER", server.address)
    how = ["--steps", "20", "--seed", "4"]
    assert main(["generate", "letters", "the ", "--n", "2", *how, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    for number, each in enumerate(facts["generations"]):
        alone = ["generate", "letters", "the ", "--steps", "20", "--seed", str(4 + number)]
        assert main([*alone, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["tokens"] == each["tokens"]
