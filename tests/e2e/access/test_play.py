"""Principals that use the same ids at once, over restarts, against what each of them may see."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cellar.v1 import session_pb2 as pb
from cellar.v1.values_pb2 import Inputs, Outputs
from service.auth.principal import Role
from tests.e2e.access.houses import House, house
from tests.e2e.access.requests import UNKNOWN
from tests.service.auth.tokens import Tokens

PEOPLE = ("alice", "bob", "carol")
IDS = ("a", "b", "c")
_RAW = Outputs(raw=True, every_step=True)


@dataclass
class Player:
    """Plays what callers do, and knows what each is to see.

    Attributes:
        told: what a model has said to a history, bit for bit; whoever read it.
        open: what each session has read, by owner and id.
        ended: those that were closed since the last start.
    """

    made: House
    chance: random.Random
    told: dict[str, list[float]] = field(default_factory=dict)
    open: dict[tuple[str, str], str] = field(default_factory=dict)
    ended: set[tuple[str, str]] = field(default_factory=set)

    def _gone(self, key: tuple[str, str]) -> str:
        return "NOT_FOUND/SESSION_CLOSED" if key in self.ended else UNKNOWN

    async def move(self) -> None:
        """Something that one of them does."""
        key = self.chance.choice(PEOPLE), self.chance.choice(IDS)
        moves = (self.opens, self.steps, self.streams, self.streams, self.resets, self.looks,
                 self.closes, self.lists, self.guesses, self.administers)  # fmt: skip
        weights = (6, 6, 4, 4, 1, 3, 1, 2, 3, 1)
        (move,) = self.chance.choices(moves, weights)
        await move(key)

    def read(self, key: tuple[str, str], letter: str, raw: list[float], position: int) -> None:
        """A session has read one letter more, and said this."""
        self.open[key] += letter
        history = self.open[key]
        assert position == len(history), key
        assert self.told.setdefault(history, raw) == raw, (key, history)

    async def opens(self, key: tuple[str, str]) -> None:
        request = pb.OpenSessionRequest(model="letters", session_id=key[1])
        answer = await self.made.ask(key[0], "OpenSession", request)
        if key in self.open:
            assert answer.outcome == "ALREADY_EXISTS/SESSION_EXISTS"
            return
        assert answer.outcome == "OK", answer
        self.open[key] = ""
        self.ended.discard(key)

    async def steps(self, key: tuple[str, str]) -> None:
        letter = self.chance.choice("xy")
        request = pb.StepRequest(session_id=key[1], inputs=Inputs(text=letter), outputs=_RAW)
        answer = await self.made.ask(key[0], "Step", request)
        if key not in self.open:
            assert answer.outcome == self._gone(key)
            return
        assert answer.outcome == "OK", answer
        reply = pb.StepResponse.FromString(answer.messages[0])
        self.read(key, letter, list(reply.predictions.raw), reply.position)

    async def streams(self, key: tuple[str, str]) -> None:
        """Attaches an id and steps it; where it is not open, nobody's session moves."""
        letter = self.chance.choice("xy")
        answer = await self.made.ask(
            key[0], "Stream",
            pb.StreamRequest(start=pb.StreamStart(model="letters", outputs=Outputs(raw=True))),
            pb.StreamRequest(attach=pb.StreamAttach(session_ids=[key[1]], channels=[3])),
            pb.StreamRequest(frame=pb.StreamFrame(channels=[3], inputs=Inputs(text=letter))),
        )  # fmt: skip
        messages = [pb.StreamResponse.FromString(each) for each in answer.messages]
        if key not in self.open:
            assert answer.outcome == f"OK+INVALID_ARGUMENT/BAD_INPUT+{self._gone(key)}"
            return
        assert answer.outcome == "OK", answer
        reply = messages[-1].reply
        assert list(messages[1].attached.positions) == [len(self.open[key])]
        self.read(key, letter, list(reply.predictions.raw), reply.positions[0])

    async def resets(self, key: tuple[str, str]) -> None:
        request = pb.ResetSessionRequest(session_id=key[1])
        answer = await self.made.ask(key[0], "ResetSession", request)
        if key in self.open:
            self.open[key] = ""
        assert answer.outcome == ("OK" if key in self.open else self._gone(key))

    async def looks(self, key: tuple[str, str]) -> None:
        answer = await self.made.ask(key[0], "GetSession", pb.GetSessionRequest(session_id=key[1]))
        if key not in self.open:
            assert answer.outcome == self._gone(key)
            return
        session = pb.GetSessionResponse.FromString(answer.messages[0]).session
        assert (session.owner, session.id, session.position) == (*key, len(self.open[key]))

    async def closes(self, key: tuple[str, str]) -> None:
        request = pb.CloseSessionRequest(session_id=key[1])
        answer = await self.made.ask(key[0], "CloseSession", request)
        assert answer.outcome == ("OK" if key in self.open else self._gone(key))
        if self.open.pop(key, None) is not None:
            self.ended.add(key)

    async def lists(self, key: tuple[str, str]) -> None:
        own = {each: len(read) for each, read in self.open.items() if each[0] == key[0]}
        found = await self.made.listed(key[0])
        assert {each: session.position for each, session in found.items()} == own

    async def guesses(self, key: tuple[str, str]) -> None:
        """Names the owner of what may be another's."""
        who = self.chance.choice(PEOPLE)
        for method, request in (
            ("GetSession", pb.GetSessionRequest(session_id=key[1], owner=key[0])),
            ("CloseSession", pb.CloseSessionRequest(session_id=key[1], owner=key[0])),
        ):
            if who != key[0]:
                assert (await self.made.ask(who, method, request)).outcome == UNKNOWN
        if who != key[0]:
            assert await self.made.listed(who, owner=key[0]) == {}

    async def administers(self, key: tuple[str, str]) -> None:
        """An admin sees all, has no part in it, and closes one of them."""
        found = await self.made.listed("root")
        assert {each: session.position for each, session in found.items()} == {
            each: len(read) for each, read in self.open.items()
        }
        step = pb.StepRequest(session_id=key[1], inputs=Inputs(text="x"))
        assert (await self.made.ask("root", "Step", step)).outcome == UNKNOWN
        close = pb.CloseSessionRequest(session_id=key[1], owner=key[0])
        answer = await self.made.ask("root", "CloseSession", close)
        assert answer.outcome == ("OK" if key in self.open else self._gone(key))
        if self.open.pop(key, None) is not None:
            self.ended.add(key)


@pytest.mark.parametrize(
    ("seed", "rounds", "moves"),
    [(1, 2, 120), *(pytest.param(seed, 5, 1000, marks=pytest.mark.long) for seed in range(2, 7))],
)
async def test_everybody_sees_his_own_alone(
    seed: int, rounds: int, moves: int, models: Path, tmp_path: Path
) -> None:
    """Rounds end with a restart, on the same store."""
    tokens, player = Tokens(tmp_path / "tokens.json"), None
    named = {who: tokens.add(who, Role.STEP) for who in PEOPLE}
    named["root"] = tokens.add("root", Role.ADMIN)
    for _ in range(rounds):
        store = f"lmdb:{tmp_path / 'store'}"
        async with house("plain", models, tmp_path, tokens=tokens, store=store) as made:
            made.named = named
            player = player or Player(made, random.Random(seed))
            player.made = made
            player.ended.clear()
            for _ in range(moves):
                await player.move()
            for who in PEOPLE:
                await player.lists((who, ""))
    assert player is not None
    assert len(player.told) > moves / 20


# ---- names over restarts ----


async def test_a_name_is_who_one_is_over_restarts_and_changes_of_the_file(
    models: Path, tmp_path: Path
) -> None:
    """The token proves the name; whoever has the name has its sessions, whatever was between."""
    tokens = Tokens(tmp_path / "tokens.json")
    others: dict[str, Any] = {"tokens": tokens, "store": f"lmdb:{tmp_path / 'store'}"}

    async def serve(stack: AsyncExitStack) -> House:
        return await stack.enter_async_context(house("plain", models, tmp_path, **others))

    async with AsyncExitStack() as stack:
        made = await serve(stack)
        for who in ("alice", "bob"):
            made.join(who, Role.STEP)
        await made.look()
        for who, text in (("alice", "xy"), ("bob", "y")):
            await made.open(who, "s")
            await made.step(who, "s", Inputs(text=text))
        wanted = await made.step("alice", "s", Inputs(text="x"), commit=False)
        named = made.named
    # While the server is away alice is removed, bob gets another role, and carol comes.
    tokens.remove("alice")
    tokens.grant("bob", Role.READ)
    async with AsyncExitStack() as stack:
        made = await serve(stack)
        made.named = dict(named)
        made.join("carol", Role.STEP)
        made.join("root", Role.ADMIN)
        await made.look()
        look = pb.GetSessionRequest(session_id="s")
        assert (await made.ask("alice", "GetSession", look)).code.name == "UNAUTHENTICATED"
        assert (await made.ask("bob", "GetSession", look)).code.name == "PERMISSION_DENIED"
        assert (await made.ask("carol", "GetSession", look)).outcome == UNKNOWN
        await made.open("carol", "s")
        assert sorted(await made.listed("root")) == [("alice", "s"), ("bob", "s"), ("carol", "s")]
        # Somebody of the same name, with a token of his own, while the server runs.
        made.join("alice", Role.STEP)
        await made.look()
        assert (await made.step("alice", "s", Inputs(text="x"), commit=False)) == wanted
        assert list(await made.listed("alice")) == [("alice", "s")]
        old = {**made.named, "old": named["alice"]}
        made.named = old
        assert (await made.ask("old", "GetSession", look)).code.name == "UNAUTHENTICATED"
        close = pb.CloseSessionRequest(session_id="s", owner="bob")
        assert (await made.ask("root", "CloseSession", close)).outcome == "OK"
    # Where nobody is asked who he is, everybody is an admin, and what had owners has them still.
    async with AsyncExitStack() as stack:
        others["asks"] = False
        made = await serve(stack)
        made.named = {"": "any"}
        assert sorted(await made.listed("")) == [("alice", "s"), ("carol", "s")]
        assert (await made.ask("", "GetSession", look)).outcome == UNKNOWN
        look.owner = "alice"
        assert (await made.ask("", "GetSession", look)).outcome == "OK"
        await made.open("", "s")
    async with AsyncExitStack() as stack:
        others["asks"] = True
        made = await serve(stack)
        made.named = old
        sessions = [("", "s"), ("alice", "s"), ("carol", "s")]
        assert sorted(await made.listed("root")) == sessions
        assert (await made.step("alice", "s", Inputs(text="x"), commit=False)) == wanted
