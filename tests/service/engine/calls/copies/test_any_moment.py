"""Forks at any moment, in any company, with failed runs, callers that go away, and crashes."""

import asyncio
import random
from contextlib import suppress

import numpy as np
import pytest

from service import errors
from service.engine.calls.copies.fork import fork
from tests.service.engine.calls.copies.seeded import read
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.written import turns
from tests.service.store.fake import FakeStore


class Play:
    """Sessions that read and are forked; of each what it was told to have read.

    Attributes:
        read: the tokens, by session.
        doubtful: those of which nobody knows what they have read, as a call was broken off.
    """

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.read: dict[str, list[int]] = {}
        self.doubtful: set[str] = set()
        self.forks = 0

    async def steps(self, house: Fakes, name: str) -> None:
        """One session reads; only this task steps it."""
        for _ in range(self.dice.randrange(1, 6)):
            tokens = [self.dice.randrange(VOCABULARY) for _ in range(self.dice.choice([1, 1, 5]))]
            try:
                state = await read(house, name, *tokens)
            except errors.CellarError:
                with suppress(errors.CellarError):
                    info = await house.engine.describe(name)
                    assert info.position in (len(self.read[name]), len(self.read[name] + tokens))
                    if info.position > len(self.read[name]):
                        self.read[name] += tokens
                continue
            self.read[name] += tokens
            assert state == run_alone(self.read[name])[-1]

    async def fork(self, house: Fakes, name: str) -> None:
        """A fork is one that has read what the other had read at some moment."""
        self.forks += 1
        new, before = f"f{self.forks}", len(self.read[name])
        making = asyncio.create_task(fork(house.engine, name, new))
        if self.dice.random() < 0.3:
            await turns(self.dice.randrange(30))
            making.cancel()
        try:
            info = await making
        except asyncio.CancelledError:
            with suppress(errors.CellarError):
                await house.engine.close(new)  # it may have been made for all that
            return
        except errors.CellarError:
            with pytest.raises(errors.SessionUnknownError):
                house.find(new)
            return
        await turns(self.dice.randrange(3))
        assert before <= info.position
        self.read[new] = []
        (device,) = house.runners
        assert isinstance(device, DecodingRunner)
        if info.position:
            own = list(device.tokens[house.row(new)])
            assert len(own) == info.position
            self.read[new] = own
        self.doubtful.add(new)
        assert self.read[new][:before] == self.read[name][:before]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_any_moment_any_company_any_crash(seed: int, durable: bool) -> None:
    dice = random.Random(seed)
    store = FakeStore() if durable else None
    play = Play(dice)
    for _ in range(4):
        inline_run_s = dice.choice([INLINE, WORKER])
        async with fakes_on(
            DecodingRunner, store=store, inline_run_s=inline_run_s, checkpoint_steps=20
        ) as house:
            (device,) = house.runners
            assert isinstance(device, DecodingRunner)
            device.longest_s = 0.0003
            device.dice.seed(seed)
            for name, tokens in play.read.items():
                assert (await house.engine.describe(name)).position == len(tokens), name
            for name in "abc":
                if name not in play.read:
                    house.open(name)
                    play.read[name] = []
            for _ in range(4):
                device.fault_rate = dice.choice([0.0, 0.05]) if durable else 0.0
                names = list(play.read)
                stepping = dice.sample(names, min(len(names), 4))
                works = [play.steps(house, name) for name in stepping]
                works += [play.fork(house, dice.choice(names)) for _ in range(4)]
                dice.shuffle(works)
                await asyncio.gather(*works)
                upkeep = house.engine._upkeep
                if upkeep is not None and dice.random() < 0.4:
                    with suppress(errors.CellarError):
                        await upkeep.look_after()
                for name in list(play.read)[6:]:
                    if dice.random() < 0.5:
                        await house.engine.close(name)
                        del play.read[name]
            device.fault_rate = 0.0
            await house.settle()  # some are brought back
            for name, tokens in play.read.items():
                state = await read(house, name, 7)
                tokens.append(7)
                assert state == run_alone(tokens)[-1], name
                assert device.tokens[house.row(name)] == tokens
            await house.settle()
            assert not leftovers(house.served)
            assert house.served.usage.sessions == len(play.read)
            slots = np.array([house.find(name).slot for name in play.read])
            assert len(set(slots.tolist())) == len(slots)
            if store is not None and dice.random() < 0.7:
                store = store.crash(dice)
        if store is None:
            play.read.clear()
    assert play.forks > 40
