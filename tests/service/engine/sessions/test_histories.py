"""Steps, resets, closes, re-openings and late duplicates in any order, against plain lists."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from tests.service.engine.fakes import run_alone
from tests.service.engine.houses import (
    INLINE,
    WORKER,
    Fakes,
    fakes,
    leftovers,
    set_worth_a_batch,
)
from tests.service.engine.sessions.test_branches import begun, branch_of
from tests.service.engine.wires import Row, Wire, ask

NAMES = "ab"


@dataclass(kw_only=True)
class Sent:
    """Steps that were sent, for a branch of a session."""

    name: str
    branch: int
    tokens: list[int]
    position: int | None
    row: Row
    is_late: bool  # the branch had ended by then, or its end was queued


@dataclass(kw_only=True)
class Play:
    """Steps, resets, closes, re-openings and late duplicates, as they come."""

    house: Fakes
    sent: list[Sent] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)  # branches
    channels: dict[int, int] = field(default_factory=dict)  # branch by channel
    tasks: list["asyncio.Task[Any]"] = field(default_factory=list)
    token: int = 0

    async def act(self, kind: str, name: str, number: int) -> None:
        wire, house, directory = self.wire, self.house, self.house.engine.directory
        channel = NAMES.index(name)
        if name not in directory.sessions and kind not in ("open", "frame", "late"):
            kind = "open"
        match kind:
            case "step" | "chunk":
                table = house.find(name).shard.table
                at = int(table.accepted[house.find(name).slot])
                position = None if number % 3 == 0 else at
                self.step(name, branch_of(house, name), self.tokens(kind), position)
            case "frame":
                tokens = self.tokens("step" if number % 2 else "chunk")
                self.frame(name, channel, tokens, None if number % 3 else 0)
            case "late":
                unary = [each for each in self.sent if each.name == name and each.branch]
                if unary:
                    again = unary[number % len(unary)]
                    self.step(name, again.branch, again.tokens, again.position)
            case "reset":
                claimed = branch_of(house, name) if number % 2 else 0
                ended = branch_of(house, name)
                self.tasks.append(await begun(house.engine.reset(name, branch=claimed)))
                self.ended.add(ended)
            case "late reset" if self.ended:
                branch = sorted(self.ended)[number % len(self.ended)]
                if branch != branch_of(house, name):  # its end may be queued
                    with pytest.raises(errors.StaleBranchError):
                        await house.engine.reset(name, branch=branch)
                    with pytest.raises((errors.StaleBranchError, errors.SessionClosedError)):
                        await house.engine.close(name, branch=branch)
            case "close":
                self.ended.add(branch_of(house, name))
                directory.close(name)
            case "open" if name not in directory.sessions:
                house.open(name)
            case "attach":
                await wire.stream.attachments.detach(np.array([channel]), close=False)
                attached = await wire.stream.attachments.attach(
                    [name], np.array([channel]), open_sessions=False
                )
                for branch in attached.branches.tolist():
                    self.channels[channel] = branch

    def tokens(self, kind: str) -> list[int]:
        count = 1 if kind == "step" else 2 + self.token % 9
        self.token += count
        return [(self.token + number) % 64 for number in range(count)]

    def step(self, name: str, branch: int, tokens: list[int], position: int | None) -> None:
        try:
            row, _ = ask(self.house, name, tokens, position, branch=branch)
        except errors.CellarError as error:  # no such session
            row = Row(tokens=tokens, position=position, refusals=[error])
        self.file(name, branch, tokens, position, row)

    def frame(self, name: str, channel: int, tokens: list[int], position: int | None) -> None:
        if channel not in self.channels:
            return
        if len(tokens) == 1:
            row = self.wire.single(channel, tokens[0], position)
        else:
            (row,) = self.wire.frame({channel: (tokens, -1 if position is None else position)})
        self.file(name, self.channels[channel], tokens, position, row)

    def file(
        self, name: str, branch: int, tokens: list[int], position: int | None, row: Row
    ) -> None:
        self.sent.append(
            Sent(
                name=name,
                branch=branch,
                tokens=tokens,
                position=position,
                row=row,
                is_late=branch in self.ended,
            )
        )

    def check(self) -> None:
        """Each branch has read its own steps, in a row from position 0, and nothing else has."""
        house = self.house
        current = {branch_of(house, name) for name in house.engine.directory.sessions}
        pasts: dict[int, dict[int, list[int]]] = {}
        for sent in self.sent:
            assert sent.row.answers == 1
            if sent.row.refusals:
                error = sent.row.refusal
                if isinstance(error, errors.StaleBranchError):
                    assert sent.branch not in current
                continue
            after, _, replayed = sent.row.reply
            assert not sent.is_late, "it was applied after its branch had ended"
            before = after - len(sent.tokens)
            assert sent.position in (None, before)
            if not replayed:
                assert before not in pasts.setdefault(sent.branch, {}), "applied twice"
                pasts[sent.branch][before] = sent.tokens
        read: dict[int, list[int]] = {}
        for branch, past in pasts.items():
            steps = read[branch] = []
            for before in sorted(past):
                assert before == len(steps), "a gap"
                steps += past[before]
        for sent in self.sent:
            if sent.row.replies:
                after, state, _ = sent.row.reply
                assert state == run_alone(read[sent.branch])[after - 1], "another's past"
        for name in house.engine.directory.sessions:
            own = read.get(branch_of(house, name), [])
            assert house.position(name) == len(own)
            if own:
                assert house.state(name) == run_alone(own)[-1]
        assert not leftovers(house.served)

    async def run(self, script: list[tuple[str, str, int, int]]) -> None:
        self.wire = Wire(self.house)
        for name in NAMES:
            self.house.open(name)
            await self.act("attach", name, 0)
        for kind, name, number, turns in script:
            await self.act(kind, name, number)
            if turns == 4:
                await self.house.settle()
            for _ in range(turns % 4):
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), 5)
        await asyncio.wait_for(self.house.settle(), 5)
        self.check()


KINDS = ["step", "chunk", "frame", "late", "reset"] * 2
KINDS += ["late reset", "close", "open", "attach"]
acts = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(NAMES),
    st.integers(0, 11),
    st.integers(0, 4),
)


def check_any(script: list[tuple[str, str, int, int]], inline_run_s: float, batch: int) -> None:
    async def play() -> None:
        async with fakes(
            inline_run_s=inline_run_s, max_batch=batch, chunk_steps=min(batch, 4)
        ) as house:
            if batch == 1:  # the worker may have a second run at any time
                set_worth_a_batch(house.served, 0)
            await Play(house=house).run(script)

    asyncio.run(play())


@given(
    st.lists(acts, min_size=6, max_size=40),
    st.sampled_from([INLINE, WORKER]),
    st.sampled_from([1, 8]),
)
@settings(max_examples=150, deadline=None)
def test_no_step_reaches_another_branch(
    script: list[tuple[str, str, int, int]], inline_run_s: float, batch: int
) -> None:
    check_any(script, inline_run_s, batch)


@pytest.mark.long
@pytest.mark.timeout(300)
@given(
    st.lists(acts, min_size=30, max_size=120),
    st.sampled_from([INLINE, WORKER]),
    st.sampled_from([1, 8]),
)
@settings(max_examples=2000, deadline=None)
def test_no_step_reaches_another_branch_for_long(
    script: list[tuple[str, str, int, int]], inline_run_s: float, batch: int
) -> None:
    check_any(script, inline_run_s, batch)
