"""Upgrades whose process ends at any moment, whose runs fail, and whose callers go away.

There is the session as it was, or that of the other version, which has read the same: never both,
never none.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.calls.upgrades.upgrade import upgrade
from service.engine.log import chronicle
from service.engine.log.chronicle import ALL
from service.engine.sessions.info import SessionInfo
from tests.service.engine.calls.upgrades.houses import House, begun, house, turned
from tests.service.engine.fakes import VOCABULARY, CutsRunner, DecodingRunner, ShapesRunner
from tests.service.engine.houses import INLINE, WORKER
from tests.service.engine.written import turns
from tests.service.store.fake import FakeStore

DEVICES = pytest.mark.parametrize("device", [DecodingRunner, ShapesRunner, CutsRunner])


@pytest.fixture(autouse=True, scope="module")
def _short_parts() -> Iterator[None]:
    with patch.object(chronicle, "BASE_STEPS", 7):
        yield


@dataclass
class Life:
    """A session that is stepped and upgraded, in processes that crash.

    Attributes:
        told: tokens that were answered, of the first version.
        sent: the same, and what was sent and not answered.
        upgraded: that was answered.
    """

    dice: random.Random
    device: type[DecodingRunner]
    told: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    upgraded: SessionInfo | None = None

    async def play(self) -> None:
        dice, store = self.dice, FakeStore()
        limits: dict[str, float] = {
            "inline_run_s": dice.choice([INLINE, WORKER]),
            "checkpoint_steps": dice.choice([6, 30]),
        }
        store.delay_s = dice.choice([0, 0, 0.002])
        async with house(self.device, store, **limits) as own:
            session = own.engine.open(own.served[0], "s", history_steps=ALL)
            await own.engine.settled(session)
            for _ in range(dice.randrange(5)):
                await self.step(own, dice.choice([1, 5, 20]))
                if dice.random() < 0.3 and own.engine._upkeep is not None:
                    await own.engine._upkeep.look_after()
            doing = [asyncio.create_task(self.upgrade(own))]
            if dice.random() < 0.5:
                doing.append(asyncio.create_task(self.steps(own)))
            await turns(dice.choice([1, 10, 40, 200]))
            if dice.random() < 0.5:
                await asyncio.gather(*doing)
                if dice.random() < 0.5 and own.engine._upkeep is not None:
                    await own.engine._upkeep.look_after()
            ran = None
            if self.upgraded is not None and all(task.done() for task in doing):
                ran = own.told_of("s")
            left = store.crash(dice)
            for task in doing:
                task.cancel()
            await asyncio.gather(*doing, return_exceptions=True)
        for _ in range(2):
            async with house(self.device, left, **limits) as own:
                await self.check(own, ran)
            left, ran = left.crash(dice), None

    async def step(self, own: House, count: int) -> None:
        tokens = [self.dice.randrange(VOCABULARY) for _ in range(count)]
        self.sent += tokens
        await own.step("s", tokens, len(self.told))
        self.told += tokens

    async def steps(self, own: House) -> None:
        """Step by step by the first version, until the other is there."""
        with suppress(errors.CellarError):
            for _ in range(100):
                if own.engine.session("s").served is not own.served[0]:
                    return
                await self.step(own, 1)

    async def upgrade(self, own: House) -> None:
        with suppress(errors.StoreUnavailableError, errors.DrainingError):
            self.upgraded = await upgrade(own.engine, "s")

    async def check(self, own: House, ran: list[int] | None) -> None:
        engine = own.engine
        assert list(engine.directory.sessions) == ["s"]
        session = engine.directory.find("s")
        session.shard.bring(np.array([session.slot]))
        await engine.barrier("s")
        info = await engine.describe("s")
        assert (info.status.value, info.history_position) == ("open", 0)
        assert info.version == 2 or self.upgraded is None
        read = [token % 100 for token in own.told_of("s")]
        first = turned(read) if info.version == 2 else read
        assert first[: len(self.told)] == self.told
        assert first == self.sent[: len(first)]
        assert info.position == len(first)
        if ran is not None:
            assert own.told_of("s") == ran
            assert self.upgraded is not None
            assert (info.branch, info.position) == (self.upgraded.branch, len(ran))
        for at in (len(read) // 2, 0):  # its history is there, too
            before = own.told_of("s")[:at]
            await engine.rewind("s", at)
            assert own.told_of("s") == before
            await own.step("s", [3], at)
            assert own.told_of("s")[at] % 100 == 3
            await engine.rewind("s", at)
        if info.version == 1:
            self.upgraded = None
        self.told, self.sent = [], []
        if info.version == 2:
            assert info.position == 0 or (await upgrade(engine, "s")).version == 2
        await own.settle()


@DEVICES
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_there_is_the_one_or_the_other(device: type[DecodingRunner], seed: int) -> None:
    asyncio.run(asyncio.wait_for(Life(random.Random(seed), device).play(), 30))


@pytest.mark.long
@pytest.mark.timeout(900)
@DEVICES
@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_there_is_the_one_or_the_other_for_long(device: type[DecodingRunner], seed: int) -> None:
    asyncio.run(asyncio.wait_for(Life(random.Random(seed), device).play(), 30))


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("inline", [INLINE, WORKER])
async def test_a_caller_who_goes_away(durable: bool, inline: float) -> None:
    for count in range(0, 120, 8):
        store = FakeStore() if durable else None
        async with house(DecodingRunner, store, inline_run_s=inline) as own:
            tokens = await begun(own)
            before = own.engine.directory.info(own.engine.session("s"))
            task = asyncio.create_task(upgrade(own.engine, "s"))
            await turns(count)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await own.settle()
            info = await own.engine.describe("s")
            if info.version == 1:
                assert (info.branch, own.told_of("s")) == (before.branch, tokens)
                await own.step("s", [5], 60)
                info = await upgrade(own.engine, "s")
                tokens = [*tokens, 5]
            assert (info.version, own.told_of("s")) == (2, turned(tokens))
            await own.settle()


@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_that_fails(durable: bool) -> None:
    async with house(DecodingRunner, FakeStore() if durable else None) as own:
        tokens = await begun(own)
        before = own.engine.directory.info(own.engine.session("s"))
        own.devices[1].fault_rate = 1.0
        with pytest.raises(errors.InternalError):
            await upgrade(own.engine, "s")
        own.devices[1].fault_rate = 0.0
        await own.settle()
        after = await own.engine.describe("s")
        assert (after.version, after.branch) == (1, before.branch)
        assert own.told_of("s") == tokens
        await own.step("s", [1], 60)
        await upgrade(own.engine, "s")
        assert own.told_of("s") == turned([*tokens, 1])
        await own.settle()


async def test_it_is_closed_or_reset_meanwhile() -> None:
    for how in ("close", "reset", "reopen"):
        for count in range(0, 60, 9):
            async with house(DecodingRunner, FakeStore(), inline_run_s=WORKER) as own:
                await begun(own)
                task = asyncio.create_task(upgrade(own.engine, "s"))
                await turns(count)
                with suppress(errors.StaleBranchError, errors.SessionExistsError):
                    if how == "reset":
                        await own.engine.reset("s")
                    else:
                        await own.engine.close("s")
                        if how == "reopen":
                            own.engine.open(own.served[0], "s")
                (found,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(found, BaseException):
                    assert isinstance(found, errors.StaleBranchError | errors.SessionClosedError), (
                        found
                    )
                await own.settle()
                if how == "reset":
                    info = await own.engine.describe("s")
                    assert info.position == 0 or info.version == 2
