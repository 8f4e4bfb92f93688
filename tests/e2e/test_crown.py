"""The crown test over the wire: neighbours, batches and routes change no bit of an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import cellar
from tests.recurrent import SYMBOLS, Case, torch_predictions

SESSIONS = 64
LONGEST = 24

Sequence1 = NDArray[np.int64] | NDArray[np.float32]


def sequences(name: str) -> list[Sequence1]:
    """Ragged sequences (steps,) that the model reads."""
    noise = np.random.default_rng(3)
    lengths = noise.integers(1, LONGEST + 1, SESSIONS)
    if name == "letters":
        return [noise.integers(0, len(SYMBOLS), length) for length in lengths]
    walks = [100 * np.exp(np.cumsum(noise.normal(0, 0.02, length))) for length in lengths]
    return [walk.astype(np.float32) for walk in walks]


def raw(predictions: cellar.Predictions) -> NDArray[np.float32]:
    """The raw outputs (n, width)."""
    assert predictions.raw is not None
    return predictions.raw


class Player:
    """Plays all sequences at once, each session by ever other routes.

    Attributes:
        answers: what came back, by session: arrays (steps, width).
    """

    def __init__(self, client: cellar.aio.Client, name: str, inputs: list[Sequence1]) -> None:
        self._client = client
        self._name = name
        self._inputs = inputs
        self._read = [0] * len(inputs)
        self._dice = random.Random(11)
        self.answers: list[list[NDArray[np.float32]]] = [[] for _ in inputs]
        self.routes: list[set[str]] = [set() for _ in inputs]

    async def play(self) -> None:
        client, name = self._client, self._name
        sessions = [await client.session(name) for _ in self._inputs]
        async with (
            client.stream(name, raw=True, every_step=True) as one,
            client.stream(name, raw=True, every_step=True) as other,
        ):
            while left := [n for n, given in enumerate(self._inputs) if self._read[n] < len(given)]:
                routes: dict[str, list[int]] = {"single": [], "several": [], "one": [], "other": []}
                for n in self._dice.sample(left, len(left)):
                    routes[self._dice.choice(list(routes))].append(n)
                for route, chosen in routes.items():
                    for n in chosen:
                        self.routes[n].add(route)
                await asyncio.gather(
                    *(self._unary(n, sessions[n], 1) for n in routes["single"]),
                    *(self._unary(n, sessions[n], 4) for n in routes["several"]),
                    self._frames(one, routes["one"], sessions),
                    self._frames(other, routes["other"], sessions),
                )
        for session in sessions:
            await session.close()

    async def _unary(self, n: int, session: cellar.aio.Session, at_most: int) -> None:
        if session.position != self._read[n]:  # a stream has moved it
            assert (await session.refresh()).position == self._read[n]
        piece = self._next(n, at_most)
        self.answers[n].append(raw(await session.steps(piece, raw=True)))

    async def _frames(
        self, stream: cellar.aio.Stream, chosen: list[int], sessions: Sequence[cellar.aio.Session]
    ) -> None:
        """Two frames in flight at once, for sessions that come and go."""
        if not chosen:
            return
        channels = await stream.attach([sessions[n].id for n in chosen])
        owner = dict(zip(channels.tolist(), chosen, strict=True))
        for _ in range(2):
            pieces = {
                channel: self._next(n, self._dice.choice((1, 1, 3)))
                for channel, n in owner.items()
                if self._read[n] < len(self._inputs[n])
            }
            if pieces:
                await stream.send(list(pieces), list(pieces.values()))
        replies = [reply async for reply in stream.replies()]  # in the order they were whole
        for reply in sorted(replies, key=lambda reply: reply.frame):
            reply.check()
            ends = np.cumsum(reply.counts)[:-1]
            parts = np.split(raw(reply.predictions), ends)
            for channel, part in zip(reply.channels.tolist(), parts, strict=True):
                self.answers[owner[channel]].append(part)
        await stream.detach(channels)

    def _next(self, n: int, at_most: int) -> Sequence1:
        start = self._read[n]
        size = min(self._dice.randint(1, at_most), len(self._inputs[n]) - start)
        self._read[n] += size
        return self._inputs[n][start : start + size]


def alone(client: cellar.Client, name: str, given: Sequence1) -> NDArray[np.float32]:
    """A session's answers when it runs alone, one step at a time."""
    with client.session(name) as session:
        return np.stack(
            [raw(session.steps(given[n : n + 1], raw=True))[0] for n in range(len(given))]
        )


@pytest.mark.parametrize("name", ["letters", "prices"])
async def test_interleaved_sessions_equal_each_session_alone(
    name: str, aclient: cellar.aio.Client, client: cellar.Client, cases: dict[str, Case]
) -> None:
    inputs = sequences(name)
    player = Player(aclient, name, inputs)
    await player.play()
    assert len(set().union(*player.routes)) == 4
    assert sum(len(routes) == 4 for routes in player.routes) > 10, "sessions change routes"
    for n, given in enumerate(inputs):
        together = np.concatenate(player.answers[n])
        expected = alone(client, name, given)
        assert together.tobytes() == expected.tobytes(), f"session {n}"
        reference, _ = torch_predictions(cases[name], given)
        np.testing.assert_allclose(together, reference, rtol=1e-5, atol=1e-5)
