"""Sessions are listed page by page, each that is open throughout exactly once."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.listing import Wanted
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.table.status import SessionStatus, SessionTier
from service.engine.work.flow import asked_model
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import Clocks, Fakes, fakes, fakes_on
from tests.service.engine.log.test_restart import read
from tests.service.store.fake import FakeStore

Between = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Between two pages."""


ALL = Wanted()


async def test_a_list_is_about_no_model() -> None:
    async with fakes() as house:
        for number in range(3):
            house.open(f"s{number}")
        asked_model.set("none")
        assert len(await listed(house)) == 3
        assert asked_model.get() == "none", "metrics would tell of whichever came last"


async def test_a_time_below_zero_is_refused() -> None:
    async with fakes() as house:
        with pytest.raises(errors.BadInputError, match=r"^idle_for: -1 s is below 0"):
            await house.engine.listing.page(Wanted(idle_for_s=-1.0))


async def listed(
    house: Fakes, wanted: Wanted = ALL, between: Between = nothing
) -> list[SessionInfo]:
    """All pages; something may happen between them."""
    found: list[SessionInfo] = []
    token = ""
    while True:
        page = await house.engine.listing.page(wanted, token)
        found += page.sessions
        token = page.next
        if not token:
            return found
        await between()


@settings(max_examples=30, deadline=None)
@given(
    shards=st.sampled_from([1, 2, 3]),
    before=st.integers(0, 30),
    page_size=st.integers(1, 7),
    moves=st.lists(st.lists(st.tuples(st.sampled_from("oc"), st.integers(0, 99)), max_size=6)),
)
def test_whoever_is_open_throughout_is_listed_once(
    shards: int, before: int, page_size: int, moves: list[list[tuple[str, int]]]
) -> None:
    async def play() -> None:
        async with fakes(shards, max_sessions=64) as house:
            names = [house.open(f"s{number}") for number in range(before)]
            throughout, opened, left = set(names), list(names), list(moves)
            numbers = itertools.count()

            async def between() -> None:
                for what, number in left.pop(0) if left else []:
                    if what == "o" and len(opened) < 64:
                        opened.append(house.open(f"t{next(numbers)}"))
                    elif opened:
                        name = opened.pop(number % len(opened))
                        throughout.discard(name)
                        await house.engine.close(name)
                        if number % 3 == 0:  # its id is used again
                            opened.append(house.open(name))

            found = [info.id for info in await listed(house, Wanted(page_size=page_size), between)]
            assert [name for name in found if name in throughout] == [
                name for name in dict.fromkeys(found) if name in throughout
            ]
            assert throughout <= set(found)

    asyncio.run(play())


async def test_sessions_are_told_as_they_stand() -> None:
    clocks = Clocks()
    async with fakes_on(DecodingRunner, clocks=clocks) as house:
        house.engine.open(house.served, "a", idle_timeout_s=7.5)
        house.engine.open(house.served, "b", ephemeral=True)
        clocks.served_s += 60.0
        clocks.wall_s += 60.0
        await read(house, "b", 1, 2)
        a, b = await listed(house)
        assert a == house.engine.directory.describe("a")
        assert (a.position, a.idle_timeout_s, a.ephemeral, a.owner) == (0, 7.5, False, "")
        assert clocks.wall_s - a.last_used_s == pytest.approx(60.0)
        assert (b.position, b.idle_timeout_s, b.ephemeral) == (2, 3600.0, True)
        assert {info.tier for info in (a, b)} == {SessionTier.DEVICE}
        assert [info.id for info in await listed(house, Wanted(idle_for_s=30.0))] == ["a"]
        assert await listed(house, Wanted(idle_for_s=61.0)) == []
        assert len(await listed(house, Wanted(model=house.served.name, version=1))) == 2


async def test_what_cannot_be_listed_is_said() -> None:
    async with fakes() as house:
        for number in range(3):
            house.open(f"s{number}")
        page = await house.engine.listing.page(Wanted(page_size=2))
        for token in ("x", "é", page.next[:-4], "W10=", "bnVsbA=="):
            with pytest.raises(errors.BadInputError, match="page_token"):
                await house.engine.listing.page(ALL, token)
        with pytest.raises(errors.BadInputError, match="model_version: name the model"):
            await house.engine.listing.page(Wanted(version=2))
        for wanted in (Wanted(model="nobody"), Wanted(model=house.served.name, version=9)):
            with pytest.raises(errors.ModelUnknownError):
                await house.engine.listing.page(wanted)
        async with fakes() as other:
            with pytest.raises(errors.BadInputError, match="page_token"):
                await other.engine.listing.page(ALL, page.next)


async def test_a_page_has_so_many_sessions_and_no_more() -> None:
    async with fakes(max_sessions=2200) as house:
        for number in range(2200):
            house.open(f"s{number}")
        sizes = {}
        for asked in (0, 1, 1000, 5000):
            page = await house.engine.listing.page(Wanted(page_size=asked))
            sizes[asked] = len(page.sessions)
        assert sizes == {0: 100, 1: 1, 1000: 1000, 5000: 1000}


async def test_a_page_of_long_ids_fits_into_a_message() -> None:
    async with fakes(max_message_bytes=4096) as house:
        for number in range(20):
            house.open(f"{number}" + "x" * 120)
        page = await house.engine.listing.page(ALL)
        assert 1 < len(page.sessions) < 20
        assert len(await listed(house)) == 20


async def test_a_page_waits_until_what_it_tells_is_on_the_disk() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1)
        gate = store.gate = threading.Event()
        step = asyncio.create_task(read(house, "a", 2))
        await asyncio.sleep(0.05)
        assert house.position("a") == 2
        page = asyncio.create_task(house.engine.listing.page(ALL))
        await asyncio.sleep(0.05)
        assert not page.done()
        gate.set()
        assert [info.position for info in (await page).sessions] == [2]
        await step


async def test_a_page_waits_until_the_ends_of_those_that_it_leaves_out_are_on_the_disk() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1)
        gate = store.gate = threading.Event()
        closing = asyncio.create_task(house.engine.close("a"))
        await asyncio.sleep(0.05)
        page = asyncio.create_task(house.engine.listing.page(ALL))
        await asyncio.sleep(0.05)
        assert not page.done(), "a crash would bring the session back"
        gate.set()
        assert (await page).sessions == ()
        await closing


async def test_cold_sessions_are_listed_and_stay_cold() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        for number in range(5):
            house.open(f"s{number}")
            await read(house, f"s{number}", *range(1, number + 2))
        token = (await house.engine.listing.page(Wanted(page_size=1))).next
    async with fakes_on(DecodingRunner, store=store) as house:
        (shard,) = house.served.shards
        upkeep = house.engine._upkeep
        assert upkeep is not None
        for task in upkeep._tasks:  # which brings all of them back, sooner or later
            task.cancel()
        found = await house.engine.listing.page(ALL)
        assert shard.table.cold_count == 5
        assert {info.id: info.position for info in found.sessions} == {
            f"s{number}": number + 1 for number in range(5)
        }
        assert {info.tier for info in found.sessions} == {SessionTier.STORE}
        with pytest.raises(errors.BadInputError, match="page_token"):  # its slots are others now
            await house.engine.listing.page(ALL, token)
        await read(house, "s1", 9)
        tiers = {info.id: info.tier for info in await listed(house, Wanted(page_size=2))}
        assert tiers["s1"] is SessionTier.DEVICE


async def test_sessions_whose_model_is_gone_are_listed_and_can_be_closed() -> None:
    store, clocks = FakeStore(), Clocks()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        for number in range(5):
            house.engine.open(house.served, f"s{number}", ephemeral=number == 4)
            await read(house, f"s{number}", 1, 2)
    async with fakes_on(DecodingRunner, store=store, clocks=clocks, fingerprint="g") as house:
        house.open("new")
        found = await listed(house, Wanted(page_size=2))
        assert found[0].id == "new"
        assert {info.id for info in found[1:]} == {f"s{number}" for number in range(5)}
        assert {info.status for info in found[1:]} == {SessionStatus.MODEL_CHANGED}
        assert {info.position for info in found[1:]} == {2}
        assert await listed(house, Wanted(model=house.served.name, version=2)) == []

        async def close_one() -> None:
            if "s0" not in closed:
                closed.append("s0")
                await house.engine.close("s0")

        closed: list[str] = []
        rest = [info.id for info in await listed(house, Wanted(page_size=2), close_one)]
        assert set(rest) >= {"new", "s1", "s2", "s3", "s4"}
        house.engine.directory.expire()  # one that is ephemeral does not wait for its file
        assert {info.id for info in await listed(house)} == {"new", "s1", "s2", "s3"}
