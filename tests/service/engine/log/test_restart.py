"""Sessions outlive the process: what was acknowledged is there, and it is the same."""

import asyncio
import random
import threading
from contextlib import suppress

import numpy as np
import pytest

from service import errors
from service.engine.calls.generate import generate
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from service.store.store import StoreFailedError
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.wires import Wire, ask
from tests.service.store.fake import FakeStore

EVERY = Outputs(raw=True, every_step=True)


async def read(house: Fakes, name: str, *tokens: int, position: int | None = None) -> list[float]:
    """Let a session read, and return the prediction after each step."""
    result = await house.engine.step(
        name, house.served.reader.tokens(np.array(tokens)), outputs=EVERY, position=position
    )
    assert result.answers.raw is not None
    found: list[float] = result.answers.raw[:, 0].tolist()
    return found


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("stops", ["well", "crash"])
async def test_sessions_go_on_after_a_restart(inline_run_s: float, stops: str) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        for name in "abcd":
            house.open(name)
        await read(house, "a", 1, 2, 3)
        await read(house, "a", 4)
        wire = await Wire(house).attach("b", "c")
        rows = wire.frame({0: ([5], -1), 1: ([6, 7], -1)})
        rows += wire.frame({0: ([8], -1), 1: ([9], -1)})
        await house.settle()
        assert house.engine.log is not None
        await house.engine.log.flush()
        assert [row.answers for row in rows] == [1] * 4
        await house.engine.reset("d")
        await read(house, "d", 1, 1)
        await house.engine.reset("d")
        await read(house, "d", 2)
        if stops == "crash":
            store = store.crash()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        again = await read(house, "a", 4, position=3)
        assert again == run_alone([1, 2, 3, 4])[-1:]
        assert (await house.engine.describe("a")).position == 4
        for name, tokens in (("a", [1, 2, 3, 4]), ("b", [5, 8]), ("c", [6, 7, 9]), ("d", [2])):
            assert (await house.engine.describe(name)).position == len(tokens)
            assert await read(house, name, 10) == run_alone([*tokens, 10])[-1:]
        await house.settle()
        assert not leftovers(house.served)


async def test_the_last_reply_of_every_step_is_repeated() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        first = await read(house, "a", 1, 2, 3, position=0)
        crashed = store.crash()
    async with fakes_on(DecodingRunner, store=crashed) as house:
        assert await read(house, "a", 1, 2, 3, position=0) == first
        stopped = crashed  # and once more, from a checkpoint
    async with fakes_on(DecodingRunner, store=stopped) as house:
        assert await read(house, "a", 1, 2, 3, position=0) == first
        with pytest.raises(errors.StepConflictError):
            await read(house, "a", 1, 2, 4, position=0)
        assert await read(house, "a", 4, position=3) == run_alone([1, 2, 3, 4])[-1:]


async def test_what_was_closed_is_gone_and_what_was_opened_is_there() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1)
        await house.engine.close("a")
        house.open("a")
        await read(house, "a", 2, 3)
        house.open("b")
        await house.engine.close("b")
        house.open("c")
        await house.engine.settled(house.find("c"))
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert sorted(house.engine.directory.sessions) == ["a", "c"]
        assert await read(house, "a", 4) == run_alone([2, 3, 4])[-1:]
        assert (await house.engine.describe("c")).position == 0


async def test_nothing_is_told_before_it_is_durable() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1)
        store.gate = threading.Event()
        row, _ = ask(house, "a", [2], 1)
        repeat, _ = ask(house, "a", [2], 1)
        wrong, _ = ask(house, "a", [3], 7)
        wire = Wire(house)
        reading = asyncio.create_task(house.engine.describe("a"))
        await house.served.drained()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (row.answers, repeat.answers, wrong.answers, reading.done()) == (0, 0, 0, False)
        store.gate.set()
        assert (await reading).position == 2
        await house.engine.drain()
        assert row.reply[:2] == repeat.reply[:2] == (2, run_alone([1, 2])[-1])
        assert isinstance(wrong.refusal, errors.PositionMismatchError)
        house.engine.draining = False
        wire.stream.end()


async def test_generations_go_round_while_their_pieces_wait() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        prompt = house.served.reader.tokens(np.array([1]))
        found: list[int] = []
        async for piece in generate(
            house.engine, "a", prompt=prompt, max_steps=50, sampling=Sampling(seed=1)
        ):
            found += piece.tokens
            assert piece.position == 1 + len(found)
        assert len(found) == 50
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert (await house.engine.describe("a")).position == 51
        assert await read(house, "a", 5) == run_alone([1, *found, 5])[-1:]


@pytest.mark.parametrize("seed", range(6))
async def test_any_play_survives_any_crashes(seed: int) -> None:
    dice, store = random.Random(seed), FakeStore()
    said: dict[str, list[int]] = {}  # what was acknowledged
    maybe: dict[str, list[int]] = {}  # what was sent behind that
    for _ in range(5):
        inline_run_s = dice.choice([INLINE, WORKER])
        async with fakes_on(
            DecodingRunner, store=store, inline_run_s=inline_run_s, checkpoint_steps=5
        ) as house:
            upkeep = house.engine._upkeep
            assert upkeep is not None
            for name, tokens in said.items():
                at = (await house.engine.describe(name)).position
                sent = tokens + maybe.get(name, [])
                assert at in (len(tokens), len(sent)), name
                said[name] = sent[:at]
            maybe.clear()
            for _ in range(dice.randrange(5, 40)):
                name = dice.choice("abcdefgh")
                if name not in said:
                    house.open(name)
                    await house.engine.settled(house.find(name))
                    said[name] = []
                    continue
                what = dice.random()
                tokens = [dice.randrange(VOCABULARY) for _ in range(dice.choice([1, 1, 2, 9]))]
                if what < 0.1:
                    await house.engine.reset(name)
                    said[name] = []
                elif what < 0.2:
                    await house.engine.close(name)
                    del said[name]
                elif what < 0.3:
                    await upkeep.look_after()
                else:
                    expected = run_alone(said[name] + tokens)[-len(tokens) :]
                    assert await read(house, name, *tokens) == expected
                    said[name] += tokens
            if said:
                ask(house, next(iter(said)), [7], None)
                maybe[next(iter(said))] = [7]
                await house.served.drained()
            if dice.random() < 0.7:
                store = store.crash(dice)
                with suppress(Exception):
                    await asyncio.sleep(0)


async def test_checkpoints_that_are_taken_at_different_times_keep_every_reply() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in "ab":
            house.open(name)
        first = await read(house, "a", 1, 2, 3, position=0)
        ask(house, "b", [2] * 40, 0)  # many runs: the other's state is read between them
        upkeep = house.engine._upkeep
        assert upkeep is not None
        slots = np.array([house.find("a").slot, house.find("b").slot])
        await upkeep.checkpoints.save(house.served.shards[0], slots)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 1, 2, 3, position=0) == first


async def test_a_checkpoint_that_is_called_off_lets_go_of_nothing() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        upkeep = house.engine._upkeep
        assert upkeep is not None
        house.open("a")
        await read(house, "a", 1, 2)
        store.gate = threading.Event()
        ask(house, "a", [3], 2)
        saving = asyncio.create_task(
            upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("a").slot]))
        )
        await house.settle()  # its state was read, and waits for the group
        saving.cancel()
        await asyncio.wait((saving,))
        store.gate.set()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 4) == run_alone([1, 2, 3, 4])[-1:]


async def test_a_table_that_fails_ends_the_server() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        upkeep = house.engine._upkeep
        assert upkeep is not None
        house.open("a")
        await read(house, "a", 1, 2)
        store.fails_at = 1
        with pytest.raises(StoreFailedError):
            await upkeep.look_after()
        assert house.engine.failed.is_set()
        with pytest.raises(errors.DrainingError):
            ask(house, "a", [3], 2)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        assert await read(house, "a", 4, position=2) == run_alone([1, 2, 4])[-1:]


async def test_a_table_that_cannot_be_read_loses_no_session() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1, 2)
    left = store.crash()  # with a checkpoint
    async with fakes_on(DecodingRunner, store=left) as house:
        again = left.crash()
        row, _ = ask(house, "a", [3], 2)
        await house.settle()
        assert row.answers == 0
        assert house.engine.failed.is_set()
        with pytest.raises(errors.StoreUnavailableError):
            await house.engine.describe("a")
    async with fakes_on(DecodingRunner, store=again) as house:
        assert await read(house, "a", 4, position=2) == run_alone([1, 2, 4])[-1:]


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_the_journal_is_kept_until_it_is_durable_why_nobody_needs_it(how: str) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        upkeep = house.engine._upkeep
        assert upkeep is not None
        for name in "ab":
            house.open(name)
            await read(house, name, 1, 2)
        await upkeep.look_after()  # what was opened is in the table
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("b").slot]))
        first = min(store._groups)
        store.gate = threading.Event()
        ask(house, "b", [3], 2)  # it is being written, and what follows waits behind it
        await house.settle()
        call = house.engine.reset("a") if how == "reset" else house.engine.close("a")
        ending = asyncio.create_task(call)
        await house.settle()
        letting = asyncio.create_task(upkeep.checkpoints.let_go())
        await asyncio.sleep(0.01)
        store.gate.set()
        await letting
        assert min(store._groups) == first
        await ending
        await upkeep.look_after()
        assert min(store._groups) > first


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_step_for_elsewhere_is_not_applied_behind_later_ones(inline_run_s: float) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        house.open("a")
        await read(house, "a", 1)
        first, _ = ask(house, "a", [2, 3], 1)
        elsewhere, _ = ask(house, "a", [4], 5)
        behind, _ = ask(house, "a", [5, 6], None)
        await house.settle()
        await house.engine.drain()
        await house.settle()
        assert first.reply[:2] == (3, run_alone([1, 2, 3])[-1])
        assert behind.reply[:2] == (5, run_alone([1, 2, 3, 5, 6])[-1])
        assert isinstance(elsewhere.refusal, errors.PositionMismatchError)
        assert elsewhere.refusal.position in (3, 5)


async def test_rows_of_a_frame_that_are_refused_apart_are_told_apart() -> None:
    """Each of them waits for the store by itself, and is counted once."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, inline_run_s=WORKER) as house:
        (device,) = house.runners
        for name in "ab":
            house.open(name)
            await read(house, name, 1)
        wire = await Wire(house).attach("a", "b")
        store.gate = threading.Event()
        device.gate.clear()
        ask(house, "b", [2], 1)
        await asyncio.sleep(0)
        first, second = wire.frame({0: ([5], 7), 1: ([6], 2)})
        for _ in range(20):
            await asyncio.sleep(0)
        house.engine.directory.close("b")
        device.gate.set()
        await house.served.drained()
        for _ in range(5):
            await asyncio.sleep(0)
        store.gate.set()
        await house.engine.drain()
        await house.settle()
        assert isinstance(first.refusal, errors.PositionMismatchError)
        assert isinstance(second.refusal, errors.SessionClosedError)
        assert not leftovers(house.served)
