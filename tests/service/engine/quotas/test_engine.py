"""What callers of a principal with quotas meet in the engine, and those beside it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from service.auth.principal import Grant, Principal, Quota, calling
from service.engine.calls.forecast import forecast
from service.engine.calls.generate import Piece, generate
from service.engine.calls.predict import predict
from service.engine.quotas.allowance import Allowance
from service.engine.work.columns import Outputs
from service.engine.work.flow import caller
from service.engine.work.sampling import Sampling
from service.errors import QuotaExceededError
from tests.recurrent import series_case
from tests.service.engine.houses import WORKER, Fakes, House, fakes, reals
from tests.service.engine.quotas.clocks import Clock
from tests.service.engine.wires import Wire, ask


def principal(name: str = "alice", **quota: float) -> Principal:
    return Principal(name, Grant(quota=Quota(**quota)))  # type: ignore[arg-type]


@contextmanager
def called_by(who: Principal, connection: str = "c") -> Iterator[None]:
    """What is called here is called by a principal on a connection."""
    token, peer = calling.set(who), caller.set(lambda: connection)
    try:
        yield
    finally:
        calling.reset(token)
        caller.reset(peer)


def allowance_of(house: House, who: Principal, clock: Clock | None = None) -> Allowance:
    own = house.engine.allowances.of(who)
    if clock is not None:
        own._clock = clock
    return own


def opened(house: Fakes, who: Principal, name: str) -> str:
    with called_by(who):
        return house.open(name)


def position(house: House, who: Principal, name: str) -> int:
    with called_by(who):
        return house.position(name)


async def generated(house: Fakes, name: str, steps: int) -> list[Piece]:
    call = generate(
        house.engine,
        name,
        prompt=house.served.reader.tokens(np.array([3])),
        max_steps=steps,
        sampling=Sampling(seed=1),
    )
    return [piece async for piece in call]


async def test_unary_steps_are_refused_beyond_the_rate_and_nothing_is_read() -> None:
    async with fakes() as house:
        alice, clock = principal(max_steps_per_s=10), Clock()
        own = allowance_of(house, alice, clock)
        opened(house, alice, "a")
        with called_by(alice):
            for _ in range(4):
                ask(house, "a", [1], None)
            ask(house, "a", [1] * 6, None)
            for tokens in ([1], [1, 2]):
                with pytest.raises(QuotaExceededError) as caught:
                    ask(house, "a", tokens, None)
        await house.settle()
        assert (position(house, alice, "a"), own.pending_steps, own.steps) == (10, 0, 10)
        clock.now_s += caught.value.retry_after_s or 0
        with called_by(alice):
            ask(house, "a", [1, 2], None)
        house.open("a")
        for _ in range(20):
            ask(house, "a", [1], None)  # nobody has no quota
        await house.settle()
        assert (position(house, alice, "a"), house.position("a")) == (12, 20)
        assert house.engine.memory.used == 0


async def test_rows_of_frames_are_refused_as_far_as_they_exceed_the_rate() -> None:
    async with fakes() as house:
        alice, clock = principal(max_steps_per_s=10), Clock()
        own = allowance_of(house, alice, clock)
        names = [opened(house, alice, f"s{number}") for number in range(16)]
        wire = await Wire(house, principal=alice).attach(*names)
        rows = wire.frame({channel: ([1], 0) for channel in range(16)})
        late = wire.single(0, 2, 1)
        await house.settle()
        assert [len(row.replies) for row in rows] == [1] * 10 + [0] * 6
        refused = [row.refusal for row in rows[10:]]
        assert {error.reason for error in refused} == {"QUOTA_EXCEEDED"}
        assert [error.retry_after_s for error in refused] == pytest.approx([0.6] * 6, abs=0.01)
        assert late.refusal.retry_after_s == pytest.approx(0.7, abs=0.01)
        assert (wire.stream.pending_steps, own.pending_steps) == (0, 0)
        clock.now_s += refused[0].retry_after_s or 0
        again = wire.frame({channel: ([1], 0) for channel in range(10, 16)})
        await house.settle()
        assert [row.reply[0] for row in again] == [1] * 6
        clock.now_s += 0.2
        assert wire.single(0, 2, 1).answers == 0
        await house.settle()
        assert position(house, alice, "s0") == 2
        wire.stream.end()


async def test_rows_that_cannot_be_read_are_not_charged() -> None:
    async with fakes() as house:
        alice = principal(max_steps_per_s=10)
        own = allowance_of(house, alice, Clock())
        names = [opened(house, alice, f"s{number}") for number in range(4)]
        wire = await Wire(house, principal=alice).attach(*names)
        rows = wire.frame({0: ([1], -1), 1: ([999], -1), 2: ([1], -1), 9: ([1], -1)})
        await house.settle()
        assert [len(row.replies) for row in rows] == [1, 0, 1, 0]
        assert own.steps == 2
        wire.stream.end()


async def test_a_refused_row_of_a_frame_keeps_those_behind_it_from_overtaking() -> None:
    """By their positions, as where the queue is full."""
    async with fakes() as house:
        alice, clock = principal(max_steps_per_s=2), Clock()
        allowance_of(house, alice, clock)
        wire = await Wire(house, principal=alice).attach(opened(house, alice, "a"))
        first = wire.frame({0: ([1, 2], 0)})
        second = wire.frame({0: ([3], 2)})
        clock.now_s += 0.6
        third = wire.frame({0: ([4], 3)})
        await house.settle()
        assert [row[0].answers for row in (first, second, third)] == [1, 1, 1]
        assert position(house, alice, "a") == 2
        assert second[0].refusal.reason == "QUOTA_EXCEEDED"
        assert third[0].refusal.reason == "POSITION_MISMATCH"
        wire.stream.end()


async def test_pending_steps_are_bounded_over_all_connections() -> None:
    async with fakes(inline_run_s=WORKER) as house:
        house.runners[0].gate.clear()
        alice = principal(max_pending_steps=5)
        own = allowance_of(house, alice)
        names = [opened(house, alice, f"s{number}") for number in range(4)]
        one = await Wire(house, caller="one", principal=alice).attach(*names[:3])
        rows = one.frame({channel: ([1], -1) for channel in range(3)})
        with called_by(alice, "other"):
            ask(house, "s3", [1, 1], None)
            with pytest.raises(QuotaExceededError) as caught:
                ask(house, "s3", [1], None)
        assert caught.value.quota == "max_pending_steps"
        more = one.frame({channel: ([1], -1) for channel in range(3)})
        assert own.pending_steps == 8  # until the refusals are sent
        house.runners[0].gate.set()
        await house.settle()
        assert [row.reply[0] for row in rows] == [1, 1, 1]
        assert {row.refusal.reason for row in more} == {"QUOTA_EXCEEDED"}
        assert own.pending_steps == 0
        one.stream.end()


async def test_a_generation_at_the_rate_is_slowed_and_ends_whole() -> None:
    """Beside one of somebody else's, which is not."""
    async with fakes() as house:
        alice = principal(max_steps_per_s=50)
        own = allowance_of(house, alice)
        for name in ("a", "b"):
            opened(house, alice, name)
        house.open("c")
        began_s = time.monotonic()
        with called_by(alice):
            tasks = [asyncio.create_task(generated(house, name, 55)) for name in ("a", "b")]
        await asyncio.wait_for(generated(house, "c", 400), 5)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            pieces = await asyncio.wait_for(task, 10)
            assert sum(len(piece.tokens) for piece in pieces) == 55
        took_s = time.monotonic() - began_s
        assert own.steps == 112  # with the prompts
        assert 0.8 < took_s < 4
        assert own.generations == own.pending_steps == 0


async def test_a_generation_that_waits_for_its_principal_ends_at_once_if_it_is_left() -> None:
    async with fakes() as house:
        alice = principal(max_steps_per_s=1)
        own = allowance_of(house, alice)
        opened(house, alice, "a")
        with called_by(alice):
            task = asyncio.create_task(generated(house, "a", 500))
        while own.steps < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait((task,), timeout=5)
        assert task.cancelled()
        await asyncio.wait_for(house.engine.drain(), 5)
        assert own.generations == 0


async def test_generations_and_forecasts_at_once_are_counted() -> None:
    async with fakes() as house:
        alice = principal(max_generations=1, max_steps_per_s=20)
        opened(house, alice, "a")
        opened(house, alice, "b")
        with called_by(alice):
            task = asyncio.create_task(generated(house, "a", 500))
            await asyncio.sleep(0.05)
            with pytest.raises(QuotaExceededError) as caught:
                await generated(house, "b", 1)
        assert caught.value.quota == "max_generations"
        task.cancel()
        await asyncio.wait((task,), timeout=5)


async def test_forecasts_and_whole_sequences_count_all_their_steps() -> None:
    async with reals(series_case("lstm", layers=1, hidden=8), max_batch=64) as house:
        engine, reader = house.engine, house.served.reader
        alice = principal(max_steps_per_s=100)
        clock = Clock()
        own = allowance_of(house, alice, clock)
        with called_by(alice):
            engine.open(house.served, "a")
            await engine.step("a", reader.values(np.ones((2, 1), np.float32)), outputs=Outputs())
            own.steps = 0
            clock.now_s += 1
            steps = reader.values(np.ones((30, 1), np.float32))
            await predict(engine, house.served, steps, None, outputs=Outputs(raw=True))
            assert own.steps == 30
            clock.now_s += 0.3
            await forecast(engine, "a", horizon=10, paths=20, levels=(0.5,))
            assert own.steps == 230  # it was let in, and is owed
            with pytest.raises(QuotaExceededError) as caught:
                await forecast(engine, "a", horizon=2, paths=2, levels=(0.5,))
        assert caught.value.retry_after_s == pytest.approx(1.04, abs=0.01)


async def test_principals_take_turns_however_many_connections_one_has() -> None:
    """The polite one waits for a share of the other's queue, not for each connection's."""
    async with fakes(inline_run_s=WORKER, max_batch=8, max_sessions=512) as house:
        runner = house.runners[0]
        hog, polite = principal("hog"), principal("polite")
        wires = []
        for number in range(40):
            names = [opened(house, hog, f"hog{number}-{index}") for index in range(8)]
            wires.append(await Wire(house, caller=f"hog{number}", principal=hog).attach(*names))
        opened(house, polite, "polite")
        runner.gate.clear()
        for _ in range(3):
            for wire in wires:
                wire.frame({channel: ([1], -1) for channel in range(8)})
            await asyncio.sleep(0)
        runner.batches.clear()
        with called_by(polite, "polite"):
            row, call = ask(house, "polite", [1], None)
        assert call is not None
        runner.gate.set()
        await asyncio.wait_for(call, 10)
        ran = sum(len(batch) for batch in runner.batches)
        await house.settle()
        assert row.answers == 1
        assert ran <= 3 * 64, "960 of the other's were queued"
        for wire in wires:
            wire.stream.end()


@pytest.mark.parametrize("single", [True, False])
async def test_a_connection_waits_for_a_share_of_its_principals_others(single: bool) -> None:
    async with fakes(
        inline_run_s=WORKER, max_batch=8, max_sessions=512, max_pending_steps=4096
    ) as house:
        runner = house.runners[0]
        alice = principal()
        names = [opened(house, alice, f"s{number}") for number in range(320)]
        wire = await Wire(house, caller="hog", principal=alice).attach(*names)
        opened(house, alice, "polite")
        runner.gate.clear()
        for _ in range(3):
            if single:
                for channel in range(320):
                    wire.single(channel, 1)
            else:
                wire.frame({channel: ([1], -1) for channel in range(320)})
            await asyncio.sleep(0)
        runner.batches.clear()
        with called_by(alice, "polite"):
            _, call = ask(house, "polite", [1], None)
        assert call is not None
        runner.gate.set()
        await asyncio.wait_for(call, 10)
        ran = sum(len(batch) for batch in runner.batches)
        await house.settle()
        assert ran <= 4 * 64, "960 were queued"
        wire.stream.end()


async def test_generations_of_principals_have_equal_shares() -> None:
    async with fakes(max_batch=8, max_sessions=64) as house:
        hog, polite = principal("hog"), principal("polite")
        for number in range(40):
            opened(house, hog, f"hog{number}")
        opened(house, polite, "polite")
        with called_by(hog):
            hogs = [
                asyncio.create_task(generated(house, f"hog{number}", 50_000))
                for number in range(40)
            ]
        while position(house, hog, "hog39") < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        began = len(house.runners[0].batches)
        with called_by(polite, "polite"):
            await asyncio.wait_for(generated(house, "polite", 100), 10)
        runs = len(house.runners[0].batches) - began
        for task in hogs:
            task.cancel()
        await asyncio.wait(hogs)
        assert runs < 220, "each of its steps would wait for five batches, if rows took turns"
