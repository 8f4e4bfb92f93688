"""States that clients send: the same numbers after a kill, from both clients, and on streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import cellar
from tests.e2e.process import ServerProcess, running
from tests.recurrent import SYMBOLS, Case

THEN = "which is what it says"
State = dict[str, NDArray[np.float32]]


def some_state(case: Case, seed: int) -> State:
    noise = np.random.default_rng(seed)
    return {
        state.input: noise.normal(0, 0.6, state.shape).astype(np.float32)
        for state in case.manifest.states
    }


def by_torch(case: Case, start: State) -> NDArray[np.float32]:
    """The logits after each symbol of ``THEN``."""
    tokens = torch.tensor([[SYMBOLS.index(symbol) for symbol in THEN]])
    with torch.no_grad():
        state = tuple(torch.from_numpy(start[own.input])[None] for own in case.manifest.states)
        found: NDArray[np.float32] = case.network(tokens, state)[0][0].numpy()
    return found


def raw_of(found: cellar.Prediction | cellar.Predictions) -> NDArray[np.float32]:
    """(steps, width)"""
    assert found.raw is not None
    return np.atleast_2d(found.raw)


def read(session: cellar.Session) -> NDArray[np.float32]:
    return raw_of(session.steps(THEN, raw=True))


@pytest.mark.long
def test_it_outlives_kills(repository: Path, cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["letters"]
    start = some_state(case, 1)
    flags = (f"--store=lmdb:{tmp_path / 'store'}",)
    with running(repository, *flags) as server:
        with cellar.connect(server.address) as client:
            for name in "abc":
                client.session("letters", id=name, initial_state=start).refresh()
            wanted = read(client.attach("c"))
        server.kill()
    np.testing.assert_allclose(wanted, by_torch(case, start), rtol=1e-5, atol=1e-5)
    with running(repository, *flags) as server:
        with cellar.connect(server.address) as client:
            session = client.attach("a")
            assert session.position == 0
            peeked = raw_of(session.peek(THEN, raw=True))[-1]
            assert np.array_equal(peeked, wanted[-1])
            assert np.array_equal(read(session), wanted)
            client.reset_session("c")
        server.kill()
    with running(repository, *flags) as server:
        with cellar.connect(server.address) as client:
            assert np.array_equal(read(client.attach("b")), wanted)
            assert np.array_equal(read(client.attach("c")), wanted)
            again = client.attach("a")
            assert again.position == len(THEN)
            again.reset()
            assert np.array_equal(read(again), wanted)
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.errors()
    with running(repository, *flags) as server, cellar.connect(server.address) as client:
        for name in "abc":
            session = client.attach(name)
            assert session.position == len(THEN)
            session.reset()
            assert np.array_equal(read(session), wanted)


def test_on_a_stream(client: cellar.Client, cases: dict[str, Case]) -> None:
    case = cases["letters"]
    start = some_state(case, 3)
    wanted = by_torch(case, start)
    names = ["own 1", "own 2", "the model's"]
    for name in names[:2]:
        client.session("letters", id=name, initial_state=start).refresh()
    client.session("letters", id=names[2]).refresh()
    with client.stream("letters", raw=True) as stream:
        channels = stream.attach(names)
        found = []
        for _ in range(2):
            for symbol in THEN[:5]:
                raw = stream.step(channels, symbol * 3).predictions.raw
                assert raw is not None
                found.append(raw.copy())
            stream.reset(channels)
    for step, raw in enumerate(found):
        assert np.array_equal(raw, found[step % 5])
        np.testing.assert_allclose(raw[:2], wanted[[step % 5] * 2], rtol=1e-5, atol=1e-5)
        assert not np.allclose(raw[2], raw[0], atol=1e-4)
    for name in names:
        client.close_session(name)


async def test_by_the_asynchronous_client(
    aclient: cellar.aio.Client, cases: dict[str, Case]
) -> None:
    case = cases["prices"]
    start = some_state(case, 4)
    # What the scaling remembers of a series is not to be made up.
    start |= {own.input: own.start for own in case.manifest.states if not own.input.startswith("h")}
    flat = {name: values.ravel().tolist() for name, values in reversed(start.items())}
    prices = [100.0, 101.0, 99.5]
    async with aclient.session("prices", initial_state=start) as session:
        found = raw_of(await session.steps(prices, raw=True))
    async with aclient.session("prices", initial_state=flat) as session:
        assert np.array_equal(raw_of(await session.steps(prices, raw=True)), found)
        with pytest.raises(cellar.BadInputError):
            await aclient.session("prices", initial_state={"h_0": ["a"]})
    async with aclient.session("prices") as session:
        assert not np.array_equal(raw_of(await session.steps(prices, raw=True)), found)


BAD: dict[str, tuple[State, str, str]] = {
    "none": ({}, "initial_state.tensors", "'h_0' is missing: the model has 'h_0' [16], 'c_0' [16]"),
    "one too few": ({"c_1": None}, "initial_state.tensors", "'c_1' is missing"),  # type: ignore[dict-item]
    "a stranger": (
        {"h0": np.zeros(16, np.float32)}, "initial_state.tensors[4].name", "'h0' is no state of",
    ),
    "too long": (
        {"h_1": np.zeros(17, np.float32)}, "initial_state.tensors[2].values",
        r"'h_1' has 17 numbers, and its shape [16] wants 16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", BAD)
def test_what_is_not_the_models_is_refused(
    client: cellar.Client, cases: dict[str, Case], server: ServerProcess, why: str
) -> None:
    change, field, message = BAD[why]
    state = some_state(cases["letters"], 5) if change else {}
    state = {name: own for name, own in (state | change).items() if own is not None}
    before = server.metric('cellar_sessions{model="letters/1"}')
    with pytest.raises(cellar.BadInputError) as caught:
        client.session("letters", id="refused", initial_state=state)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert server.metric('cellar_sessions{model="letters/1"}') == before
    client.session("letters", id="refused").close()
