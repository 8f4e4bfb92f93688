"""Sessions that move between two servers, whatever crashes when: at most one ever steps each."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.calls import moves
from service.engine.calls.moves import call_off, export_to_move, release
from service.engine.calls.snapshots import exporting
from service.engine.calls.snapshots.exporting import Exported, import_session
from service.engine.calls.snapshots.snapshot import Facts, read
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Outputs
from service.store.store import StoreError
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.written import Client, turns, until
from tests.service.store.fake import FakeStore

RAW = Outputs(raw=True)
NAME, THERE = "s", "there"
SIDES = ("source", "target")


@pytest.fixture(autouse=True, scope="module")
def _fake_shapes() -> Iterator[None]:
    """The rows of the fake device have other shapes than its manifest says."""
    with patch.object(exporting, "_check_shapes", lambda *_: None):
        yield


@asynccontextmanager
async def house(store: FakeStore | None = None, **others: Any) -> AsyncIterator[Fakes]:
    async with fakes_on(DecodingRunner, store=store, arithmetic="same", **others) as found:
        yield found


async def stepped(own: Fakes, tokens: list[int], at: int | None = None) -> int:
    """Step the session; returns its state then."""
    steps = own.served.reader.tokens(np.array(tokens))
    result = await own.engine.step(NAME, steps, outputs=RAW, position=at)
    return int(result.answers.columns["raw"][0, 0])


def facts(exported: Exported) -> Facts:
    """What a snapshot says; its state is not the same bytes each time on a fake device."""
    return read(exported.data, None).facts


class TwoAnswersError(AssertionError):
    """Both servers have stepped the session, at once or one after the other."""


@dataclass
class Play:
    """Two servers, somebody who moves a session from one to the other, and what it has read."""

    dice: random.Random
    durability: str = "commit"
    calls_off: bool = False
    durable: bool = True
    read: list[int] = field(default_factory=list)
    stores: dict[str, FakeStore | None] = field(default_factory=dict)
    houses: dict[str, Fakes] = field(default_factory=dict)
    stacks: dict[str, AsyncExitStack] = field(default_factory=dict)
    crashes: int = 0

    async def start(self, side: str) -> None:
        stack = self.stacks[side] = AsyncExitStack()
        self.houses[side] = await stack.enter_async_context(
            house(
                self.stores[side],
                inline_run_s=self.dice.choice([INLINE, WORKER]),
                checkpoint_steps=self.dice.choice([3, 30]),
                durability=self.durability,
            )
        )

    async def crash(self, side: str) -> None:
        self.crashes += 1
        if self.crashes % 2 == 0 and self.durable:
            # One that is being read again whenever its process ends is set aside, as it may be why.
            shards = self.houses[side].served.shards
            while any(shard.store.cold or shard.store.is_thawing for shard in shards):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await self.houses[side].settle()
        left = self.stores[side]
        if left is not None:
            left = left.crash(self.dice)
        with suppress(StoreError, errors.CellarError):
            await self.stacks[side].aclose()
        self.stores[side] = left
        await self.start(side)

    async def runs(self) -> None:
        for side in SIDES:
            self.stores[side] = FakeStore() if self.durable else None
            await self.start(side)
        try:
            await self.plays()
        finally:
            for side in SIDES:
                await self.stacks[side].aclose()

    async def plays(self) -> None:
        self.houses["source"].open(NAME)
        await self.houses["source"].engine.settled(self.houses["source"].find(NAME))
        await self.reads("source")
        has_moved = False
        for turn in range(30):
            has_moved = await self.attempt(certainly=turn > 6)
            await self.look()
            if has_moved:
                break
            if self.calls_off and self.dice.random() < 0.5:
                with suppress(errors.CellarError):
                    await call_off(self.houses["source"].engine, NAME)
                await self.look()
        assert has_moved
        await self.ends()

    async def ends(self) -> None:
        """The session is there, and nowhere else; also once more."""
        assert await self.attempt(certainly=True)
        if self.dice.random() < 0.5:
            await self.crash("target")
        assert await self.look() == ["target"]
        target = self.houses["target"]
        assert (await target.engine.describe(NAME)).position == len(self.read)
        assert await stepped(target, [5], len(self.read)) == run_alone([*self.read, 5])[-1]
        for own in self.houses.values():
            assert not leftovers(own.served)

    async def reads(self, side: str) -> None:
        for _ in range(self.dice.randrange(4)):
            tokens = [self.dice.randrange(VOCABULARY) for _ in range(self.dice.choice([1, 5, 9]))]
            assert await stepped(self.houses[side], tokens) == run_alone([*self.read, *tokens])[-1]
            self.read += tokens

    async def look(self) -> list[str]:
        """Ask both servers for a step; at most one takes it, and none forgets what was read."""
        takes = []
        for side in self.dice.sample(SIDES, 2):
            token, at = self.dice.randrange(VOCABULARY), len(self.read)
            try:
                state = await stepped(self.houses[side], [token])
            except (errors.InternalError, errors.StateLostError) as error:
                raise AssertionError("nothing is lost") from error
            except errors.CellarError:
                continue
            self.read.append(token)
            if state != run_alone(self.read)[-1]:
                raise TwoAnswersError((side, at))  # the other one has stepped it before
            takes.append(side)
        if len(takes) > 1:
            raise TwoAnswersError
        return takes

    async def attempt(self, *, certainly: bool) -> bool:
        """Somebody moves the session on, and may be cut off at any moment; whether he was done."""
        task = asyncio.create_task(self.move())
        if not certainly and self.dice.random() < 0.8:
            what = self.dice.choice(["client", *SIDES, "both"])
            await turns(self.dice.choice([0, 1, 3, 10, 30, 100]))
            await asyncio.sleep(self.dice.choice([0, 0, 0.001, 0.004]))
            for side in SIDES:
                if what in (side, "both"):
                    await self.crash(side)
            task.cancel()
        try:
            await asyncio.wait_for(task, 10)
        except (asyncio.CancelledError, errors.CellarError):
            assert not certainly or self.calls_off, "nothing is in the way"
            return False
        return True

    async def move(self) -> None:
        """What the client's library does."""
        source, target = (self.houses[side].engine for side in SIDES)
        try:
            out, receipt = await export_to_move(source, NAME, THERE)
        except (errors.SessionMovingError, errors.SessionClosedError, errors.SessionUnknownError):
            await target.describe(NAME)  # it is there already
            return
        if not receipt:
            with suppress(errors.BadInputError):
                await import_session(target, out.data)
            receipt = await release(source, NAME)
        await import_session(target, out.data, receipt=receipt)
        await source.close(NAME)


def run(play: Play) -> None:
    asyncio.run(asyncio.wait_for(play.runs(), 60))


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_whatever_crashes_when(durability: str, seed: int) -> None:
    # What is answered before it is durable may be lost, but for what has moved.
    if durability == "commit":
        run(Play(random.Random(seed), durability))
    else:
        run(Settled(random.Random(seed), durability))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_with_somebody_who_calls_it_off(seed: int) -> None:
    run(Play(random.Random(seed), calls_off=True))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("calls_off", [False, True])
@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_whatever_crashes_when_for_long(calls_off: bool, seed: int) -> None:
    run(Play(random.Random(seed), calls_off=calls_off))


class Settled(Play):
    """Where steps are answered before they are durable: those of before are, once it is frozen."""

    async def look(self) -> list[str]:
        takes = await super().look()
        for side in takes:
            upkeep = self.houses[side].engine._upkeep
            assert upkeep is not None
            await upkeep.checkpoints.save_all(float("inf"))
            log = self.houses[side].engine.log
            assert log is not None
            await log.flush()
        return takes

    async def reads(self, side: str) -> None:
        await super().reads(side)
        upkeep = self.houses[side].engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save_all(float("inf"))


# ---- planted faults -----------------------------------------------------------------------


def found_within(plays: int, make: Callable[[int], Play]) -> bool:
    """Whether in one of so many plays both servers have stepped the session."""
    for seed in range(plays):
        try:
            run(make(seed))
        except TwoAnswersError:
            return True
        except AssertionError:  # it ends otherwise than it should, for that
            continue
    return False


def test_a_receipt_before_it_is_durable_is_found() -> None:
    async def at_once(*_: object) -> None:
        """Nothing is waited for."""

    with patch.object(moves, "_known", at_once):
        assert found_within(100, lambda seed: Play(random.Random(seed), calls_off=True))


def test_an_import_without_a_receipt_is_found() -> None:
    with patch.object(exporting, "_check_receipt", lambda *_: None):
        assert found_within(60, lambda seed: Play(random.Random(seed), calls_off=True))


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
async def test_the_receipt_waits_for_the_disk(durability: str) -> None:
    store = FakeStore()
    async with house(store, durability=durability) as own:
        own.open(NAME)
        await stepped(own, [1, 2])
        await export_to_move(own.engine, NAME, THERE)
        store.gate = threading.Event()
        asked = [asyncio.create_task(release(own.engine, NAME))]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(release(own.engine, NAME)))
        told = asyncio.create_task(export_to_move(own.engine, NAME, THERE))
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in (*asked, told))
        store.gate.set()
        receipt = await asked[0]
        assert (await asked[1], (await told)[1]) == (receipt, receipt)


# ---- one by one ---------------------------------------------------------------------------


async def _twice(ask: Callable[[], Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(ask(), ask()))


async def test_two_who_move_it_at_once_are_told_the_same() -> None:
    async with house() as own:
        own.open(NAME)
        await stepped(own, [1, 2])
        first, second = await _twice(lambda: export_to_move(own.engine, NAME, THERE))
        assert facts(first[0]) == facts(second[0])
        assert len(set(await _twice(lambda: release(own.engine, NAME)))) == 1


async def test_what_is_queued_before_runs_and_what_is_behind_is_refused() -> None:
    async with house(inline_run_s=WORKER) as own:
        own.open(NAME)
        await stepped(own, [1, 2])
        (device,) = own.runners
        device.gate.clear()
        before = asyncio.create_task(stepped(own, [3, 4]))
        await turns(3)
        freezing = asyncio.create_task(export_to_move(own.engine, NAME, THERE))
        await turns(3)
        behind = [asyncio.create_task(stepped(own, tokens)) for tokens in ([5], [6, 7])]
        resets = asyncio.create_task(own.engine.reset(NAME))
        await turns(3)
        device.gate.set()
        assert await before == run_alone([1, 2, 3, 4])[-1]
        for task in (*behind, resets):
            with pytest.raises(errors.SessionMovingError):
                await task
        out, _ = await freezing
        assert (out.info.position, out.info.status) == (4, SessionStatus.MOVING)
        await own.settle()
        assert not leftovers(own.served)
        await call_off(own.engine, NAME)
        assert await stepped(own, [8], 4) == run_alone([1, 2, 3, 4, 8])[-1]


async def test_a_generation_ends_with_what_was_written_of_it() -> None:
    async with house() as own, house() as target:
        own.open(NAME)
        client = Client(house=own, name=NAME, prompt=[1, 2], write_turns=5)
        task = asyncio.create_task(client.read())
        await until(lambda: client.told)
        out, _ = await export_to_move(own.engine, NAME, THERE)
        with pytest.raises(errors.SessionMovingError):
            await task
        assert out.info.position == 2 + len(client.told)
        receipt = await release(own.engine, NAME)
        await import_session(target.engine, out.data, receipt=receipt)
        read = [1, 2, *client.told]
        assert await stepped(target, [9], len(read)) == run_alone([*read, 9])[-1]


async def test_an_export_that_fails_or_whose_caller_goes_leaves_it_as_it_was() -> None:
    async with house() as own:
        own.open(NAME)
        await stepped(own, [1, 2])
        for turn in range(12):
            task = asyncio.create_task(export_to_move(own.engine, NAME, THERE))
            await turns(turn)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await own.settle()
            await call_off(own.engine, NAME)
        with patch.object(exporting, "_BESIDE_BYTES", 2**40), pytest.raises(errors.BadInputError):
            await export_to_move(own.engine, NAME, THERE)
        assert await stepped(own, [3], 2) == run_alone([1, 2, 3])[-1]


async def test_frozen_and_released_sessions_outlive_a_stop(  # and have the same snapshot
) -> None:
    store = FakeStore()
    async with house(store) as own:
        own.open(NAME)
        await stepped(own, [1, 2, 3])
        out, _ = await export_to_move(own.engine, NAME, THERE)
    async with house(store) as own:
        with pytest.raises(errors.SessionMovingError):
            await stepped(own, [4])
        again, receipt = await export_to_move(own.engine, NAME, THERE)
        assert (facts(again), receipt) == (facts(out), b"")
        receipt = await release(own.engine, NAME)
    async with house(store) as own:
        again, told = await export_to_move(own.engine, NAME, THERE)
        assert (facts(again), told) == (facts(out), receipt)
        with pytest.raises(errors.SessionMovingError):
            await call_off(own.engine, NAME)
    target = FakeStore()
    async with house(target) as own:
        await import_session(own.engine, out.data, receipt=receipt)
        await stepped(own, [4])
    async with house(target) as own:  # it remembers that this one has come
        info = await import_session(own.engine, out.data, "another", receipt=receipt)
        assert (info.id, info.position) == (NAME, 4)
        with pytest.raises(errors.SessionExistsError):
            await import_session(own.engine, out.data)


async def test_checkpoints_know_of_a_release_that_comes_between() -> None:
    """A checkpoint on its way must not take back in the table what a release has said since."""
    store = FakeStore()
    async with house(store) as own:
        own.open(NAME)
        await stepped(own, [1, 2, 3])
        await export_to_move(own.engine, NAME, THERE)
        upkeep = own.engine._upkeep
        assert upkeep is not None
        write = upkeep.checkpoints.write

        async def late(*given: Any, **others: Any) -> None:
            await release(own.engine, NAME)
            await write(*given, **others)

        with patch.object(upkeep.checkpoints, "write", late):
            await upkeep.checkpoints.save_all(float("inf"))
        await upkeep.look_after()
        left = store.crash()
    async with house(left) as own:
        with pytest.raises(errors.SessionMovingError):
            await call_off(own.engine, NAME)
        out, receipt = await export_to_move(own.engine, NAME, THERE)
        assert receipt
        assert out.info.position == 3
