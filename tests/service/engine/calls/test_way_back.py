"""A generation that is broken off leaves its session at the last piece that was written."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.calls.generate import generate
from service.engine.work.columns import Floats, Outputs
from service.engine.work.sampling import Sampling
from service.engine.work.work import Work
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, fakes_on, leftovers
from tests.service.engine.wires import ask
from tests.service.engine.written import WAYS, Client, Stepping, break_off, check, turns, until
from tests.service.store.fake import FakeStore

BOTH_WAYS = pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])


class Counting(DecodingRunner):
    """One that counts the steps that were sent to it, and did not draw."""

    sent = 0

    def step(self, **columns: Any) -> Floats:
        self.sent += int(columns["lengths"].sum())
        return super().step(**columns)


@BOTH_WAYS
@pytest.mark.parametrize("device", [DecodingRunner, Stepping])
@pytest.mark.parametrize("way", WAYS)
async def test_it_stands_at_the_last_piece_that_was_written(
    way: str, device: type[DecodingRunner], inline_run_s: float
) -> None:
    dice = random.Random(way)
    async with fakes_on(device, inline_run_s=inline_run_s) as house:
        house.runners[0].longest_s = 0.0005  # type: ignore[attr-defined]
        for count in range(20):
            prompt = list(range(count % 3 * 7))
            house.open("a")
            ask(house, "a", [3], None)
            await house.settle()
            before = (await house.engine.describe("a")).branch
            is_slow = count > 17  # its first piece is still being written then
            write_turns = 10**9 if is_slow else count % 5
            client = Client(house=house, name="a", prompt=prompt, write_turns=write_turns)
            task = asyncio.create_task(client.read())
            await turns(count)
            await asyncio.sleep(dice.choice([0, 0.001, 0.004]))
            await turns(dice.randrange(9))
            if is_slow:
                await client.reads_past(1 + len(prompt))
            told = await break_off(client, task, way)
            client.write_turns = 0
            info = await house.engine.describe("a")
            read = [3, *(prompt if info.position > 1 else []), *told]
            assert info.position == len(read)
            assert info.branch != before or not house.find("a").shard.table.left.any()
            assert info.branch != before or not is_slow
            await check(house, "a", read)
            with suppress(asyncio.CancelledError, ConnectionResetError, errors.CellarError):
                await task
            assert house.position("a") == len(read) + 2
            await house.engine.close("a")
            assert not leftovers(house.served)


@BOTH_WAYS
async def test_where_nothing_was_read_beyond_it_nothing_moves(inline_run_s: float) -> None:
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        house.open("a")
        before = (await house.engine.describe("a")).branch
        client = Client(house=house, name="a", prompt=[1, 2], most=30)
        await client.read()
        assert len(client.told) == 30
        info = await house.engine.describe("a", settle=True, branch=before)
        assert (info.position, info.branch) == (32, before)
        # Nor by one that had all of it written but for its end.
        pieces = generate(
            house.engine, "a", prompt=None, max_steps=3, sampling=Sampling(seed=1), position=32
        )
        async for piece in pieces:
            client.told += piece.tokens
            if piece.finish_reason is None:
                continue
            waiting = asyncio.create_task(anext(pieces))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            break
        await pieces.aclose()
        info = await house.engine.describe("a")
        assert (info.position, info.branch) == (35, before)
        await check(house, "a", [1, 2, *client.told])


@BOTH_WAYS
async def test_the_last_piece_counts_even_if_its_write_fails(inline_run_s: float) -> None:
    """The client may have read it all the same."""
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2], most=400, write_turns=20)
        client.vanishes_at_end = True
        with pytest.raises(ConnectionResetError):
            await client.read()
        assert len(client.told) == 400
        await check(house, "a", [1, 2, *client.told])


@BOTH_WAYS
async def test_the_last_written_step_can_be_sent_again(inline_run_s: float) -> None:
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2], write_turns=3)
        task = asyncio.create_task(client.read())
        await until(lambda: client.told)
        await turns(7)
        told = await break_off(client, task, "cancelled")
        # At once: the session is on its way back.
        again, _ = ask(house, "a", told[-1:], 1 + len(told))
        other, _ = ask(house, "a", [told[-1] ^ 1], 1 + len(told))
        await house.settle()
        assert again.reply == (2 + len(told), run_alone([1, 2, *told])[-1], True)
        assert isinstance(other.refusal, errors.StepConflictError)


@BOTH_WAYS
async def test_what_was_read_before_it_can_be_sent_again(inline_run_s: float) -> None:
    """Its every-step reply too, when no piece was written."""
    every = Outputs(raw=True, every_step=True)
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        house.open("a")
        steps = house.served.reader.tokens(np.array([1, 2, 3]))
        first = await house.engine.step("a", steps, outputs=every, position=0)
        client = Client(house=house, name="a", prompt=[], write_turns=10**9)
        task = asyncio.create_task(client.read())
        await until(lambda: house.position("a") > 3)
        assert not await break_off(client, task, "cancelled")
        again = await house.engine.step("a", steps, outputs=every, position=0)
        assert (again.replayed, again.position) == (True, 3)
        assert again.answers.raw is not None
        assert np.array_equal(again.answers.raw, first.answers.raw)  # type: ignore[arg-type]
        await check(house, "a", [1, 2, 3])


@pytest.mark.parametrize("sender", ["step", "chunk", "frame"])
async def test_what_others_were_told_is_not_undone(sender: str) -> None:
    async with fakes_on(DecodingRunner, inline_run_s=WORKER) as house:
        for count in range(25):
            house.open("a")
            client = Client(house=house, name="a", prompt=[1, 2], write_turns=2)
            task = asyncio.create_task(client.read())
            await turns(count)
            row, _ = ask(house, "a", [7] * (1 if sender == "step" else 9), None)
            await turns(count % 5)
            await break_off(client, task, "cancelled")
            await house.settle()
            (device,) = house.runners
            assert isinstance(device, DecodingRunner)
            read = device.tokens[house.row("a")]
            if row.replies:
                assert read[: row.reply[0]][-len(row.tokens) :] == row.tokens
                assert house.position("a") >= row.reply[0]
            assert house.position("a") == len(read)
            await house.engine.close("a")
            assert not leftovers(house.served)


async def test_a_step_that_runs_already_is_not_undone() -> None:
    async with fakes_on(Stepping, inline_run_s=WORKER) as house:
        (device,), shard = house.runners, house.served.shards[0]
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2], write_turns=3)
        task = asyncio.create_task(client.read())
        await until(lambda: client.told)
        device.gate.clear()
        await until(lambda: shard.feedback.in_flight)
        await turns(20)
        client.write_turns = 10**9
        row, _ = ask(house, "a", [7], None)
        await turns(5)
        device.lets_one_in = True
        device.gate.set()
        await until(lambda: not shard.feedback.in_flight)
        await turns(50)
        assert not row.answers, "it runs"
        await break_off(client, task, "cancelled")
        device.lets_one_in = False
        device.gate.set()
        await house.settle()
        position, state, _ = row.reply
        assert house.position("a") == position
        assert house.state("a") == state


@BOTH_WAYS
@pytest.mark.parametrize("beside", ["reset", "close", "fault"])
@pytest.mark.parametrize("durable", [False, True])
async def test_what_happens_to_the_session_beside(
    beside: str, inline_run_s: float, durable: bool
) -> None:
    store = FakeStore() if durable else None
    async with fakes_on(DecodingRunner, store=store, inline_run_s=inline_run_s) as house:
        (device,) = house.runners
        for count in range(30):
            house.open("a")
            client = Client(house=house, name="a", prompt=[1, 2], write_turns=count % 3)
            task = asyncio.create_task(client.read())
            await turns(5 + count)
            other: asyncio.Task[object] | None = None
            if beside == "fault":
                device.fail_next = True
            if count % 2:
                task.cancel()
            if beside == "reset":
                other = asyncio.create_task(house.engine.reset("a"))
            elif beside == "close":
                other = asyncio.create_task(house.engine.close("a"))
            await turns(count % 4)
            task.cancel()
            with suppress(asyncio.CancelledError, errors.CellarError):
                await task
            told = client.told
            if other is not None:
                await other
            await house.settle()
            device.fail_next = False
            if beside == "reset":
                await check(house, "a", [])
            elif beside == "fault":
                for _ in range(5000):
                    if not house.find("a").shard.table.restoring.any():
                        break
                    await asyncio.sleep(0.001)
                info = await house.engine.describe("a", settle=True)
                if info.status.value == "open" and told:
                    await check(house, "a", [1, 2, *told])
                assert not durable or info.status.value == "open"
            if beside != "close":
                await house.engine.close("a")
            await house.settle()
            assert not leftovers(house.served)


async def test_going_back_is_short_however_long_it_went() -> None:
    async with fakes_on(Counting, max_generate_steps=200_000, inline_run_s=INLINE) as house:
        (device,) = house.runners
        assert isinstance(device, Counting)
        house.open("a")
        client = Client(house=house, name="a", prompt=[1])
        task = asyncio.create_task(client.read())
        await until(lambda: len(client.told) >= 15_000)
        client.write_turns = 10**9
        await turns(50)
        device.sent = 0
        told = await break_off(client, task, "cancelled")
        assert len(told) >= 15_000
        await house.settle()
        assert 0 < device.sent < 3 * 4096
        await check(house, "a", [1, *told])


async def test_a_session_that_is_being_restored_goes_back_too() -> None:
    """A run has failed, and what the log has is more than what was written."""
    async with fakes_on(Stepping, store=FakeStore(), inline_run_s=WORKER) as house:
        (device,) = house.runners
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2], write_turns=10**9)
        task = asyncio.create_task(client.read())
        await client.reads_past(2)
        device.fail_next = True
        table = house.served.shards[0].table
        await until(lambda: table.restoring.any())
        told = await break_off(client, task, "cancelled")
        info = await house.engine.describe("a")
        assert info.position == 2 + len(told)
        await check(house, "a", [1, 2, *told])


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("fails_at", [0, 1, 2])
async def test_a_fault_while_it_is_queued_is_made_good(fails_at: int, durable: bool) -> None:
    store = FakeStore() if durable else None
    async with fakes_on(DecodingRunner, store=store, inline_run_s=WORKER) as house:
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2])
        task = asyncio.create_task(client.read())
        await until(lambda: len(client.told) > 5)
        client.write_turns = 10**9
        await client.reads_past(2)
        returns = house.served.shards[0]._returns
        queue, calls = returns._queue, 0

        def queue_or_fail(work: Work) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at + 1:
                raise MemoryError
            queue(work)

        returns._queue = queue_or_fail
        told = await break_off(client, task, "cancelled")
        for _ in range(5000):
            if not house.find("a").shard.table.restoring.any():
                break
            await asyncio.sleep(0.001)
        info = await house.engine.describe("a")
        assert (info.position, info.status.value) == (2 + len(told), "open")
        await check(house, "a", [1, 2, *told])
        if store is not None:
            store = store.crash()
    if durable:
        async with fakes_on(DecodingRunner, store=store) as house:
            assert (await house.engine.describe("a")).position == 4 + len(told)
            await check(house, "a", [1, 2, *told, 5, 6])
