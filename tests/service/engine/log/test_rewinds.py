"""Sessions that are rewound, in any order with all else, equal those that were fed that way."""

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
from service.engine.calls.copies.fork import fork
from service.engine.calls.generate import generate
from service.engine.log import chronicle
from service.engine.log.chronicle import ALL
from service.engine.shard.history.chronicles import Chronicles
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import (
    VOCABULARY,
    CutsRunner,
    DecodingRunner,
    ShapesRunner,
    run_alone,
)
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.lives.lives import STATE_BYTES
from tests.service.engine.wires import ask
from tests.service.engine.written import Client, break_off, check, turns
from tests.service.store.fake import FakeStore

NAMES = ("a", "b", "c")
RAW = Outputs(raw=True)
EVERY = Outputs(raw=True, every_step=True)


@pytest.fixture(autouse=True, scope="module")
def _short_parts() -> Iterator[None]:
    with patch.object(chronicle, "BASE_STEPS", 7):
        yield


def reader(house: Fakes, tokens: list[int]):  # type: ignore[no-untyped-def]
    return house.served.reader.tokens(np.array(tokens))


def told_of(house: Fakes, name: str) -> list[int]:
    """What the device has for a session: each token, and in what it ran."""
    (device,) = house.runners
    assert isinstance(device, DecodingRunner)
    session = house.find(name)
    if not session.shard.table.position[session.slot]:
        return []
    return list(device.tokens[house.row(name)])


@dataclass
class Play:
    """Some sessions, the processes that serve them, and what each session has read.

    Attributes:
        has_faults: runs fail.
        read: what the device noted of each step, by session.
    """

    dice: random.Random
    device: type[DecodingRunner]
    durable: bool
    keeps: int = ALL
    has_faults: bool = False
    read: dict[str, list[int]] = field(default_factory=dict)
    store: FakeStore | None = None

    async def lives(self) -> None:
        """Some processes, one after the other."""
        self.store = FakeStore() if self.durable else None
        for _ in range(3 if self.durable else 1):
            async with fakes_on(
                self.device,
                store=self.store,
                inline_run_s=self.dice.choice([INLINE, WORKER]),
                checkpoint_steps=self.dice.choice([6, 30]),
                arithmetic="same",
            ) as house:
                for name in self.read:
                    await self.check(house, name)
                for _ in range(self.dice.randrange(6, 14)):
                    await self.moment(house)
                assert not leftovers(house.served)
                histories = house.served.shards[0].chronicles
                taken = [own.nbytes for own in histories._own.values()]
                assert histories.memory.used == sum(taken)
                left = self.store
                if left is not None and self.dice.random() < 0.7:
                    left = left.crash(self.dice)
            self.store = left

    async def moment(self, house: Fakes) -> None:
        """Some of the sessions do something at once, and each is then as it should be."""
        names = self.dice.sample(NAMES, self.dice.choice([1, 2, 3]))
        for name in names:
            if name not in self.read:
                house.engine.open(house.served, name, history_steps=self.keeps)
                self.read[name] = []
        await asyncio.gather(*[self.act(house, name) for name in names])
        if self.has_faults and self.dice.random() < 0.2:
            await self.fault(house, names[0])
        upkeep = house.engine._upkeep
        if upkeep is not None and self.dice.random() < 0.3:
            await upkeep.look_after()
        for name in names:
            await self.check(house, name)

    async def fault(self, house: Fakes, name: str) -> None:
        """A run fails: of the session's next steps, or of what puts it to where it is rewound."""
        (device,) = house.runners
        read, device.fail_next = self.read[name], True
        tokens = [self.dice.randrange(VOCABULARY) for _ in range(self.dice.choice([1, 5]))]
        if self.dice.random() < 0.5:
            with suppress(errors.StoreUnavailableError, errors.InternalError):
                step = reader(house, tokens)
                await house.engine.step(name, step, outputs=RAW, position=len(read))
                self.noted(house, name, len(read), tokens)
        else:
            first = (await house.engine.describe(name)).history_position
            to = self.dice.randint(first or 0, len(read))
            await house.engine.rewind(name, to)
            del read[to:]
        await house.settle()
        while house.served.shards[0].table.restoring.any():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        device.fail_next = False

    async def act(self, house: Fakes, name: str) -> None:
        engine, read, dice = house.engine, self.read[name], self.dice
        what = dice.choice(
            ["step", "step", "chunk", "generate", "broken", "rewind", "fork", "reset"]
        )
        if what == "reset" and dice.random() < 0.5:
            what = "rewind"
        tokens = [dice.randrange(VOCABULARY) for _ in range(dice.choice([2, 5, 11, 23]))]
        match what:
            case "step":
                await engine.step(name, reader(house, tokens[:1]), outputs=RAW, position=len(read))
                self.noted(house, name, len(read), tokens[:1])
            case "chunk":
                outputs = dice.choice([RAW, EVERY])
                await engine.step(name, reader(house, tokens), outputs=outputs, position=len(read))
                self.noted(house, name, len(read), tokens)
            case "generate" | "broken":
                most = dice.choice([3, 17]) if what == "generate" else 10_000
                client = Client(
                    house=house, name=name, prompt=tokens, most=most, write_turns=dice.randrange(4)
                )
                task = asyncio.create_task(client.read())
                if what == "broken":
                    await turns(dice.randrange(40))
                    await break_off(client, task, "cancelled")
                with suppress(asyncio.CancelledError, errors.CellarError):
                    await task
                info = await engine.describe(name, settle=True)
                if info.position > len(read):
                    self.noted(house, name, len(read), tokens + client.told)
            case "rewind":
                first = (await engine.describe(name)).history_position
                assert first is not None
                to = dice.choice([len(read), dice.randint(first, len(read)), first])
                before = (await engine.describe(name)).branch
                info = await engine.rewind(name, to, branch=before)
                assert info.position == to
                assert info.branch != before
                del read[to:]
                step = reader(house, [1])
                with pytest.raises(errors.StaleBranchError):
                    await engine.step(name, step, outputs=RAW, position=to, branch=before)
            case "fork":
                first = (await engine.describe(name)).history_position
                assert first is not None
                at = dice.choice([len(read), dice.randint(first, len(read)), first])
                info = await fork(engine, name, f"{name} too", position=at)
                assert (info.position, info.history_position) == (at, at)
                assert told_of(house, info.id) == read[:at]
                await engine.step(info.id, reader(house, [9]), outputs=RAW, position=at)
                back = await engine.rewind(info.id, at)
                assert (back.position, told_of(house, info.id)) == (at, read[:at])
                await engine.close(info.id)
            case "reset":
                await engine.reset(name)
                read.clear()

    def noted(self, house: Fakes, name: str, at: int, tokens: list[int]) -> None:
        """It has read these; what they ran in the device tells."""
        found = told_of(house, name)
        assert found[:at] == self.read[name]
        assert [one % 100 for one in found[at:]] == tokens
        self.read[name] = found

    async def check(self, house: Fakes, name: str) -> None:
        """The session equals one that was fed what it has read, in the runs of the first time."""
        info = await house.engine.describe(name)
        session = house.find(name)
        session.shard.bring(np.array([session.slot]))  # it may be in the store alone
        await house.engine.barrier(name)
        read = self.read[name]
        assert (info.position, info.status.value) == (len(read), "open")
        assert told_of(house, name) == read
        if read:
            assert house.state(name) == run_alone(read)[-1]
        assert info.history_position is not None
        # With less than all of it, what was let go of while it stood further on is gone.
        assert info.history_position <= (0 if self.keeps == ALL else len(read))


DEVICES = pytest.mark.parametrize("device", [DecodingRunner, ShapesRunner, CutsRunner])


@pytest.mark.parametrize("durable", [False, True])
@DEVICES
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_any_order(device: type[DecodingRunner], durable: bool, seed: int) -> None:
    play = Play(random.Random(seed), device, durable)
    asyncio.run(asyncio.wait_for(play.lives(), 30))


def test_runs_that_fail() -> None:
    play = Play(random.Random(8), CutsRunner, durable=True, has_faults=True)
    asyncio.run(asyncio.wait_for(play.lives(), 30))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("keeps", [ALL, 12])
@DEVICES
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_any_order_for_long(device: type[DecodingRunner], keeps: int, seed: int) -> None:
    play = Play(random.Random(seed), device, durable=True, keeps=keeps, has_faults=True)
    asyncio.run(asyncio.wait_for(play.lives(), 60))


async def drawn_by(house: Fakes, name: str, prompt: list[int], count: int) -> list[int]:
    """What a session has read once it has generated."""
    pieces = generate(
        house.engine,
        name,
        prompt=reader(house, prompt),
        max_steps=count,
        sampling=Sampling(seed=1),
    )
    return [*prompt, *[token async for piece in pieces for token in piece.tokens]]


async def in_the_table(house: Fakes, name: str) -> None:
    """All of a session is in the table of its store, and it is nowhere else."""
    upkeep, session = house.engine._upkeep, house.find(name)
    assert upkeep is not None
    for _ in range(100):  # a state of its history may be on its way, and it is busy
        await house.settle()
        if await upkeep.checkpoints.stow(session.shard, np.array([session.slot])):
            return
    raise AssertionError("it does not leave")


@pytest.mark.parametrize("to", [3, 4, 9, 14, 23])
async def test_a_generation_is_taken_back_all_of_which_is_in_the_table(to: int) -> None:
    """What it goes back to is no state of its history, whose parts are all there."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        read = await drawn_by(house, "a", [1, 2, 3], 20)
        await in_the_table(house, "a")
        info = await house.engine.rewind("a", to, generated=True)
        assert info.position == to
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        found = await house.engine.describe("a")
        assert (found.position, found.branch, found.history_position) == (to, info.branch, 0)
        assert (await house.engine.rewind("a", 2)).position == 2
        await check(house, "a", read[:2])


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_fault_as_the_log_is_told_is_one_sessions(inline_run_s: float) -> None:
    """The others are where they were, those too that are on their way back at that time."""
    names = [f"s{number}" for number in range(9)]
    async with fakes_on(
        DecodingRunner,
        store=FakeStore(),
        inline_run_s=inline_run_s,
        max_sessions=4,
        host_memory=16 * STATE_BYTES,
        max_open_sessions=16,
    ) as house:
        house.engine.open(house.served, "a", history_steps=ALL)
        for number, name in enumerate(names):
            house.open(name)
            ask(house, name, [number], 0)
        ask(house, "a", [1, 2, 3], 0)
        await house.settle()
        with patch.object(Chronicles, "not_there", side_effect=RuntimeError("a fault")):
            going = asyncio.create_task(house.engine.rewind("a", 1))
            rows = [ask(house, name, [7], 1)[0] for name in names]
            with suppress(errors.CellarError):
                await asyncio.wait_for(going, 5)
            await house.settle()
        assert house.engine.log is not None
        await house.engine.log.flush()
        for number, row in enumerate(rows):
            assert row.reply == (2, run_alone([number, 7])[-1], False)
        row, _ = ask(house, "a", [5], None)
        await house.settle()
        assert isinstance(row.refusal, errors.StateLostError)
        await house.engine.reset("a")
        await check(house, "a", [])
        assert not leftovers(house.served)
