"""Sessions that begin with a seed."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from service import errors
from service.auth.principal import Grant, Principal, Quota, Role, calling
from service.engine.calls.copies.adopt import adopt
from service.engine.calls.generate import generate
from service.engine.listing import Wanted
from service.engine.work.sampling import Sampling
from tests.service.engine.calls.copies.seeded import read, seed_of
from tests.service.engine.fakes import DecodingRunner, FakeRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.store.fake import FakeStore

TOKENS = [3, 1, 4, 1, 5]
BOTH_WAYS = pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])


async def adopted(house: Fakes, name: str = "b") -> None:
    """One that stands where another does that has read `TOKENS`."""
    house.open("a")
    await read(house, "a", *TOKENS)
    await adopt(house.engine, house.served, await seed_of(house, "a"), name)


@BOTH_WAYS
async def test_it_stands_where_the_seed_was_taken_and_reads_on(inline_run_s: float) -> None:
    async with fakes_on(DecodingRunner, inline_run_s=inline_run_s) as house:
        await adopted(house)
        own, other = house.engine.directory.describe("a"), house.engine.directory.describe("b")
        assert (own.position, other.position) == (5, 5)
        assert own.branch != other.branch
        assert await read(house, "b", *TOKENS, at=0) == run_alone(TOKENS)[-1]  # its last reply
        assert await read(house, "b", 9) == run_alone([*TOKENS, 9])[-1]
        assert await read(house, "a", 2) == run_alone([*TOKENS, 2])[-1]
        await house.settle()
        assert not leftovers(house.served)


@pytest.mark.parametrize("more", [[], [9, 8]])
@pytest.mark.parametrize("how", ["crash", "well", "checkpoint"])
async def test_the_store_has_it(how: str, more: list[int]) -> None:
    """Also where the source has ended, and the journal that knew of it is gone."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, checkpoint_steps=1) as house:
        await adopted(house)
        await house.engine.close("a")
        if more:
            await read(house, "b", *more)
        await house.engine.settled(house.find("b"))
        if how == "checkpoint":
            upkeep = house.engine._upkeep
            assert upkeep is not None
            await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("b").slot]))
            await upkeep.checkpoints.let_go()
        branch = house.engine.directory.describe("b").branch
        if how != "well":
            store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        info = await house.engine.describe("b")
        assert (info.position, info.branch) == (5 + len(more), branch)
        if not more:
            assert await read(house, "b", *TOKENS, at=0) == run_alone(TOKENS)[-1]
        assert await read(house, "b", 7) == run_alone([*TOKENS, *more, 7])[-1]
        assert list(house.engine.directory.sessions) == ["b"]


@pytest.mark.parametrize("durability", ["interval", "none"])
async def test_it_is_durable_once_it_is_told_whatever_steps_are(durability: str) -> None:
    """What it has read since may be lost, and it is on another branch then."""
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, durability=durability) as house:
        await adopted(house)
        await house.engine.settled(house.find("b"))
        branch = house.engine.directory.describe("b").branch
        await read(house, "b", 9)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store, durability=durability) as house:
        info = await house.engine.describe("b")
        assert info.position in (5, 6)
        assert info.branch != branch
        tokens = [*TOKENS, 9][: info.position]
        assert await read(house, "b", 7) == run_alone([*tokens, 7])[-1]


@pytest.mark.parametrize("is_told", [False, True])
async def test_it_is_told_once_it_is_durable_and_never_is_half_of_it_found(is_told: bool) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", *TOKENS)
        seed = await seed_of(house, "a")
        store.gate = threading.Event()
        await adopt(house.engine, house.served, seed, "b")
        telling = asyncio.create_task(house.engine.settled(house.find("b")))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not telling.done()
        if is_told:
            store.gate.set()
            await telling
        crashed = store.crash()
        store.gate.set()
        if not is_told:
            with suppress(errors.StoreUnavailableError):
                await telling
    async with fakes_on(DecodingRunner, store=crashed) as house:
        assert sorted(house.engine.directory.sessions) == (["a", "b"] if is_told else ["a"])
        if is_told:
            assert await read(house, "b", 7) == run_alone([*TOKENS, 7])[-1]


@pytest.mark.parametrize("stored", [False, True])
async def test_without_a_request_behind_it_it_has_no_prediction_of_its_own(stored: bool) -> None:
    store = FakeStore() if stored else None

    async def refused(house: Fakes) -> None:
        with pytest.raises(errors.NotStartedError, match="another model"):
            async for _ in generate(
                house.engine, "b", prompt=None, max_steps=3, sampling=Sampling(seed=1)
            ):
                pass

    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", *TOKENS)
        seed = replace(await seed_of(house, "a"), last_steps=0)
        await adopt(house.engine, house.served, seed, "b")
        await refused(house)
        with pytest.raises(errors.PositionMismatchError):
            await read(house, "b", *TOKENS, at=0)
        assert (await house.engine.describe("b")).position == 5
    if store is not None:
        async with fakes_on(DecodingRunner, store=store) as house:  # it comes when it is asked for
            await refused(house)
            await refused(house)
            assert await read(house, "b", 7) == run_alone([*TOKENS, 7])[-1]
            async for piece in generate(
                house.engine, "b", prompt=None, max_steps=3, sampling=Sampling(seed=1)
            ):
                assert piece.position > 6


async def test_at_position_0_it_is_a_plain_open() -> None:
    async with fakes_on(DecodingRunner) as house:
        house.open("a")
        seed = replace(await seed_of(house, "a"), states=())
        await adopt(house.engine, house.served, seed, "b")
        assert await read(house, "b", 1) == run_alone([1])[-1]


class Slow(FakeRunner):
    """One whose writes wait, or fail."""

    fails = False

    def write(self, slots: object, rows: object) -> None:
        self.gate.wait()
        if self.fails:
            raise RuntimeError("the device caught fire")
        super().write(slots, rows)  # type: ignore[arg-type]


async def halfway(house: Fakes, quota: Quota | None = None) -> "asyncio.Task[object]":
    """One that is being made: it waits for the device."""
    (device,) = house.runners
    if house.engine.directory.sessions.get("a") is None:
        house.open("a")
        await read(house, "a", *TOKENS)
    seed = await seed_of(house, "a")
    device.gate.clear()
    making = asyncio.create_task(adopt(house.engine, house.served, seed, "b"))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not making.done()
    return making


async def listed(house: Fakes) -> list[str]:
    page = await house.engine.listing.page(Wanted(), "")
    return sorted(info.id for info in page.sessions)


async def nothing_is_left(house: Fakes, used: int) -> None:
    await house.settle()
    assert not leftovers(house.served)
    assert house.served.usage.sessions == used
    with pytest.raises(errors.SessionUnknownError):
        house.find("b")


async def test_while_it_is_made_its_id_is_taken_and_nobody_finds_it() -> None:
    async with fakes_on(Slow, inline_run_s=WORKER) as house:
        making = await halfway(house)
        with pytest.raises(errors.SessionExistsError):
            house.open("b")
        with pytest.raises(errors.SessionUnknownError):
            house.find("b")
        assert await listed(house) == ["a"]
        assert house.engine.directory.expire() == 0
        house.runners[0].gate.set()
        await making
        assert await listed(house) == ["a", "b"]
        with pytest.raises(errors.SessionExistsError):
            house.open("b")


async def cancelled(house: Fakes, making: "asyncio.Task[object]") -> type[BaseException]:
    making.cancel()
    await asyncio.wait([making], timeout=0.02)
    house.runners[0].gate.set()
    return asyncio.CancelledError


async def failed(house: Fakes, making: "asyncio.Task[object]") -> type[BaseException]:
    del making
    (device,) = house.runners
    assert isinstance(device, Slow)
    device.fails = True
    device.gate.set()
    return errors.CellarError


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("how", [cancelled, failed])
async def test_what_fails_leaves_nothing(
    how: Callable[..., Awaitable[type[BaseException]]], stored: bool
) -> None:
    store = FakeStore() if stored else None
    async with fakes_on(Slow, store=store, inline_run_s=WORKER) as house:
        making = await halfway(house)
        expected = await how(house, making)
        with pytest.raises(expected):
            await making
        await nothing_is_left(house, used=1)
        house.runners[0].fails = False  # type: ignore[attr-defined]
        house.open("b")  # the id is free
        assert await read(house, "b", 1) == run_alone([1])[-1]
        await house.engine.close("b")
        assert await read(house, "a", 1) == run_alone([*TOKENS, 1])[-1]
    if store is not None:
        async with fakes_on(FakeRunner, store=store) as house:
            assert list(house.engine.directory.sessions) == ["a"]


async def test_quotas_and_slots_count_it_from_the_first_moment() -> None:
    who = Principal(
        name="p", grant=Grant(roles=frozenset({Role.STEP}), quota=Quota(max_sessions=2))
    )
    calling.set(who)
    async with fakes_on(Slow, inline_run_s=WORKER) as house:
        making = await halfway(house)
        with pytest.raises(errors.QuotaExceededError):
            house.open("c")
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        house.runners[0].gate.set()
        house.open("c")
        with pytest.raises(errors.QuotaExceededError):
            await adopt(house.engine, house.served, await seed_of(house, "a"), "d")


@pytest.mark.parametrize(
    ("name", "timeout_s", "field"), [("\n", None, "session_id"), ("b", 1e9, "idle_timeout")]
)
async def test_it_is_checked_as_an_open_is(name: str, timeout_s: float | None, field: str) -> None:
    async with fakes_on(FakeRunner) as house:
        house.open("a")
        await read(house, "a", 1)
        seed = await seed_of(house, "a")
        with pytest.raises(errors.BadInputError) as refused:
            await adopt(house.engine, house.served, seed, name, idle_timeout_s=timeout_s)
        assert refused.value.field == field
        await nothing_is_left(house, used=1)


async def test_states_that_do_not_fit_are_refused_and_leave_nothing() -> None:
    async with fakes_on(FakeRunner) as house:
        house.open("a")
        await read(house, "a", 1)
        seed = replace(await seed_of(house, "a"), states=[np.array([np.nan], np.float32)])
        with pytest.raises(errors.CellarError):
            await adopt(house.engine, house.served, seed, "b")
        await nothing_is_left(house, used=1)


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_it_expires_as_any_other(ephemeral: bool) -> None:
    now_s = 1000.0
    async with fakes_on(FakeRunner, clock=lambda: now_s, ephemeral_grace_s=5.0) as house:
        house.open("a")
        await read(house, "a", 1)
        seed = await seed_of(house, "a")
        await adopt(house.engine, house.served, seed, "b", idle_timeout_s=50.0, ephemeral=ephemeral)
        now_s += 6.0
        assert house.engine.directory.expire() == ephemeral
        now_s += 45.0
        house.engine.directory.expire()
        assert list(house.engine.directory.sessions) == ["a"]
